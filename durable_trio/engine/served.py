"""The codes that one engine may claim runs for, by the numbers that the store knows them by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durable_trio.engine.codes import Codes
from durable_trio.rows import CodeRow, ServedCode
from durable_trio.workflows import Registry, Workflow

__all__ = ["ServedCodes"]


class ServedCodes:
    """What the executor of an engine serves."""

    def __init__(self, codes: Codes, registry: Registry) -> None:
        self._codes = codes
        self._registry = registry
        self._numbers: dict[tuple[str, int], int] = {}
        #: What it may claim, once it is an executor.
        self.all: tuple[ServedCode, ...] = ()

    def read(self) -> tuple[tuple[str, int, str], ...]:
        """Return the codes of all workflows: name, version, and text. It blocks, for it reads the project's files."""
        return tuple((each.name, each.version, self._codes.of(each)) for each in self._registry)

    def are_known_as(self, rows: Iterable[CodeRow]) -> None:
        """These are the numbers of the codes, now that the engine is an executor."""
        self._numbers = {(row.workflow, row.version): row.code for row in rows}
        self.all = tuple(ServedCode(*place, number) for place, number in self._numbers.items())

    def text_of(self, workflow: Workflow[..., Any]) -> str:
        """Return the code of a workflow. It may block, the first time."""
        return self._codes.of(workflow)

    def number_of(self, workflow: Workflow[..., Any]) -> int:
        """Return the number of a workflow's code; 0 for one that the engine was not given, such as an inline block."""
        return self._numbers.get((workflow.name, workflow.version), 0)
