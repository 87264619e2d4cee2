"""The converters of exceptions, one for each module whose workflows have runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from durable_trio.codec import Codec
from durable_trio.failures import Failures
from durable_trio.workflows import Workflow


class FailuresOf:
    """Gives the converter of a workflow's runs; of those whose workflow is not known here, with ``None``.

    By its module, not its name: a client may know several workflows of one name, of as many stores.

    Args:
        classes: exceptions that it rebuilds beyond builtins, trio's, and those of the workflow's own module.
        aliases: which classes stored names stand for.
    """

    def __init__(self, codec: Codec, classes: Sequence[type[Exception]], aliases: Mapping[str, type]) -> None:
        self._codec = codec
        self._classes = classes
        self._aliases = aliases
        self._made: dict[str | None, Failures] = {}

    def __call__(self, workflow: Workflow[..., Any] | None) -> Failures:
        """Return the converter, made when it is first asked for."""
        module = None if workflow is None else workflow.module
        failures = self._made.get(module)
        if failures is None:
            modules = () if module is None else (module,)
            failures = Failures(self._codec, modules=modules, classes=self._classes, aliases=self._aliases)
            self._made[module] = failures
        return failures
