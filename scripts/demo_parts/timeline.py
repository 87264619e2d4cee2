"""Draws the history of one run as text: a bar a row, and below them the kills it has lived through."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from durable_trio import StepKind, StepRecord, StepStatus

_BAR_COLUMNS: Final = 40
_NAME_COLUMNS: Final = 26


def draw(
    steps: Sequence[StepRecord], kills: Sequence[datetime], created_at: datetime, noun: str = "kill -9"
) -> list[str]:
    """Return the lines of a run's timeline, from its creation to its last row.

    A full bar is a step: its first attempt to its last. A light one is a wait, which begins where the row before
    it ends.
    """
    if not steps:
        return []
    end = steps[-1].finished_at
    scale = _Scale(created_at, end)
    lines = []
    before = created_at
    for step in steps:
        is_wait = step.kind in (StepKind.SIGNAL, StepKind.SLEEP)
        began = before if is_wait else step.started_at
        bar = scale.bar(began, step.finished_at, "░" if is_wait else "█")
        name = f"{step.key}  {_note(step)}"
        lines.append(
            f"  {name:<{_NAME_COLUMNS}.{_NAME_COLUMNS}}{bar} {(step.finished_at - began).total_seconds():6.2f} s"
        )
        before = step.finished_at
    marks = [" "] * _BAR_COLUMNS
    for kill in kills:
        if created_at <= kill <= end:
            marks[scale.column(kill)] = "✗"
    lines.append(f"  {noun:<{_NAME_COLUMNS}}{''.join(marks)} {(end - created_at).total_seconds():6.2f} s")
    return lines


def _note(step: StepRecord) -> str:
    if step.status is StepStatus.TIMED_OUT:
        return "timed out"
    if step.status is StepStatus.FAILED:
        return "failed"
    if step.kind is StepKind.SIGNAL:
        return f'"{step.result}"'
    return f"{step.attempt} tries" if step.attempt > 1 else ""


class _Scale:
    """Maps instants to columns."""

    def __init__(self, start: datetime, end: datetime) -> None:
        self._start = start
        self._seconds = max((end - start).total_seconds(), 1e-6)

    def column(self, instant: datetime) -> int:
        """Return the column of an instant."""
        part = (instant - self._start).total_seconds() / self._seconds
        return min(_BAR_COLUMNS - 1, max(0, int(part * _BAR_COLUMNS)))

    def bar(self, start: datetime, end: datetime, fill: str) -> str:
        """Return a line with a bar, at least one column wide."""
        first, last = self.column(start), self.column(end)
        return (" " * first + fill * (last - first + 1)).ljust(_BAR_COLUMNS)
