"""The converters of exceptions, one for each workflow whose runs have any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from durable_trio.codec import Codec
from durable_trio.failures import Failures
from durable_trio.workflows import Workflow


class FailuresOf:
    """Gives the converter of a workflow's runs; of those whose workflow is not known here, with ``None``.

    Args:
        classes: exceptions that it rebuilds beyond builtins, trio's, and those of the workflow's own module.
    """

    def __init__(self, codec: Codec, classes: Sequence[type[Exception]]) -> None:
        self._codec = codec
        self._classes = classes
        self._made: dict[str, Failures] = {}

    def __call__(self, workflow: Workflow[..., Any] | None) -> Failures:
        """Return the converter, made when it is first asked for."""
        name = "" if workflow is None else workflow.name
        failures = self._made.get(name)
        if failures is None:
            modules = () if workflow is None else (workflow.module,)
            failures = self._made[name] = Failures(self._codec, modules=modules, classes=self._classes)
        return failures
