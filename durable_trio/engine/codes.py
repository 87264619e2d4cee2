"""Which code an engine has of each of its workflows, as a short text: its build's name, or a fingerprint."""

from __future__ import annotations

import os
from typing import Any, Final

from durable_trio.code import Fingerprints, versions
from durable_trio.limits import check_name
from durable_trio.looks import look
from durable_trio.workflows import Workflow

__all__ = ["BUILD_VARIABLE", "Codes"]

#: Names the build where the engine is not told it.
BUILD_VARIABLE: Final = "DURABLE_TRIO_BUILD"

# Of one whose values do something else than being looked at: its parked runs wait for somebody to resume them.
_UNREADABLE: Final = "unreadable"


class Codes:
    """The codes of one engine's workflows. Made when they are first asked for: that reads the project's files.

    Args:
        build: stands for the code of all workflows.
    """

    def __init__(self, build: str | None = None) -> None:
        given = os.environ.get(BUILD_VARIABLE) or None if build is None else build
        self._build = None if given is None else check_name("build", given)
        self._found: dict[str, str] = {}
        self._fingerprints: Fingerprints | None = None

    def of(self, workflow: Workflow[..., Any]) -> str:
        """Return the code of a workflow. It blocks, the first time."""
        if self._build is not None:
            return self._build
        if workflow.name not in self._found:
            if self._fingerprints is None:
                self._fingerprints = Fingerprints(versions())
            self._found[workflow.name] = look(self._fingerprints.of, workflow.fn, instead=lambda _: _UNREADABLE)
        return self._found[workflow.name]
