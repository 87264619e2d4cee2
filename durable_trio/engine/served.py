"""The codes that one engine may claim runs for, by the numbers that the store knows them by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from durable_trio.code.questions import asks
from durable_trio.engine.codes import Codes
from durable_trio.looks import look
from durable_trio.rows import CodeRow, HistoryRow, ServedCode
from durable_trio.rules.unasked import Unasked, likely
from durable_trio.turns.history import change_of
from durable_trio.workflows import Registry, Workflow

__all__ = ["ServedCodes"]


class ServedCodes:
    """What the executor of an engine serves."""

    def __init__(self, codes: Codes, registry: Registry) -> None:
        self._codes = codes
        self._registry = registry
        self._numbers: dict[tuple[str, int], int] = {}
        self._first_seen_at: dict[tuple[str, int, str], int] = {}
        self._asks: dict[tuple[str, int, str], bool | None] = {}
        #: What it may claim, once it is an executor.
        self.all: tuple[ServedCode, ...] = ()

    def read(self) -> tuple[tuple[str, int, str], ...]:
        """Return the codes of all workflows: name, version, and text. It blocks, for it reads the project's files."""
        return tuple((each.name, each.version, self._codes.of(each)) for each in self._registry)

    def are_known_as(self, rows: Sequence[CodeRow]) -> None:
        """These are the numbers of the codes, now that the engine is an executor."""
        self._numbers = {(row.workflow, row.version): row.code for row in rows}
        self.all = tuple(ServedCode(*which, number) for which, number in self._numbers.items())
        self.were_seen(rows)

    def were_seen(self, rows: Iterable[CodeRow]) -> None:
        """These are codes that the store has seen: all of them, or those of this engine."""
        self._first_seen_at = {(row.workflow, row.version, row.fingerprint): row.first_seen_at for row in rows}

    def text_of(self, workflow: Workflow[..., Any]) -> str:
        """Return the code of a workflow. It may block, the first time."""
        return self._codes.of(workflow)

    def number_of(self, workflow: Workflow[..., Any]) -> int:
        """Return the number of a workflow's code; 0 for one that the engine was not given, such as an inline block."""
        return self._numbers.get((workflow.name, workflow.version), 0)

    def why_unasked(self, workflow: Workflow[..., Any], marker: HistoryRow, *, is_asked: bool) -> Unasked:
        """Return why the code of a workflow is likely not to ask for an answer where a run has recorded it.

        It may block, the first time.

        Args:
            is_asked: whether it has asked for the same change elsewhere in that run.
        """
        which = (workflow.name, workflow.version)
        change_id = change_of(marker.key)
        if is_asked:
            asked: bool | None = True
        else:
            if (*which, change_id) not in self._asks:
                self._asks[*which, change_id] = look(asks, workflow.fn, change_id, instead=lambda _: None)
            asked = self._asks[*which, change_id]
        seen_at = self._first_seen_at.get((*which, self._codes.of(workflow)))
        return likely(asks=asked, first_seen_at=seen_at, recorded_at=marker.started_at)
