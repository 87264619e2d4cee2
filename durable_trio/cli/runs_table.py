"""Runs as a table, and as lines of a watch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import click

from durable_trio.cli.awaited_text import NEVER_YEAR, awaited_note
from durable_trio.cli.screen import Screen
from durable_trio.cli.table import Column, table
from durable_trio.cli.text import cut, first_line, pad, visible, width_of
from durable_trio.cli.times import duration_text, instant_text, until_text
from durable_trio.limits import COMPENSATION_ERRORS_MAX
from durable_trio.looks import leaves
from durable_trio.records import FailureRecord, RunRecord, RunStatus, StepInHand
from durable_trio.views.documents import failure_document
from durable_trio.views.run import began_at

__all__ = [
    "ChangeLines",
    "failure_text",
    "in_hand_text",
    "note_of",
    "recovered_text",
    "runs_table",
    "status_text",
    "status_word",
]

_COLORS: Final = {
    RunStatus.PENDING: "blue",
    RunStatus.RUNNING: "cyan",
    RunStatus.SUSPENDED: "yellow",
    RunStatus.COMPENSATING: "magenta",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "red",
    RunStatus.CANCELLED: "bright_black",
}
_STATUS_WIDTH: Final = max(map(len, RunStatus))
_PARKED: Final = "parked"
_NOTE_MIN: Final = 10
# Of the failures in a group.
_CAUSES_SHOWN: Final = 3
_ID_WIDTH_MIN: Final = 12
_UUID_WIDTH: Final = 36


def status_word(record: RunRecord) -> str:
    """Return the status in a word; ``parked`` in place of suspended or compensating, where it is that."""
    return _PARKED if record.problem is not None and not record.status.is_final else record.status.value


def status_text(word: str) -> str:
    """Return a status in its colour, also one that was cut or padded."""
    bare = word.strip().removesuffix("…")
    color = next((color for status, color in _COLORS.items() if bare and status.startswith(bare)), "red")
    return click.style(word, fg=color, bold=color == "red")


def failure_text(error: BaseException | FailureRecord | None) -> str:
    """Return a failure in one line: its type without the module, and its text; of a group, what is in it."""
    if isinstance(error, BaseExceptionGroup):
        found = dict.fromkeys(failure_text(each) for each in leaves(error))
        told = list(found)[:_CAUSES_SHOWN]
        more = f" + {len(found) - len(told)} more" if len(found) > len(told) else ""
        return f"{' + '.join(told)}{more} (in an {type(error).__name__})"
    document = failure_document(error)
    if document is None:
        return ""
    name = document.type.rpartition(".")[2]
    text = first_line(document.message)
    if name == "RunCancelled":
        reason = getattr(error, "reason", None)
        return visible(reason) if isinstance(reason, str) else text
    return f"{visible(name)}: {text}" if text else visible(name)


def note_of(record: RunRecord, now: datetime, *, is_to_cancel: bool = False) -> str:
    """Return what is to be known of a run beside its status."""
    note = _note_of(record, now)
    return "; ".join(filter(None, ("asked to cancel", note))) if is_to_cancel else note


def _note_of(record: RunRecord, now: datetime) -> str:
    if record.status is RunStatus.COMPLETED:
        return ""
    if record.status.is_final:
        count = len(record.compensation_errors)
        undone = f" ({count}{' or more' if count >= COMPENSATION_ERRORS_MAX else ''} not undone)" if count else ""
        return failure_text(record.error) + undone
    if record.problem is not None:
        return f"{visible(record.problem.kind)}: {first_line(record.problem.text)}"
    if record.waits_for:
        return awaited_note(record, now)
    if record.wake_at is not None and record.owner is None and record.wake_at.year < NEVER_YEAR:
        return f"due {until_text(record.wake_at, now)}"
    if record.recoveries:
        return f"recovered {recovered_text(record)}"
    return ""


def recovered_text(record: RunRecord) -> str:
    """Return what its process's deaths were; those before the last one that brought something new are not counted."""
    if record.recoveries == 1:
        return "after its process has died"
    return f"{record.recoveries:,} times in a row, with nothing new recorded in between"


def runs_table(
    runs: Sequence[RunRecord], now: datetime, screen: Screen, *, to_cancel: Collection[str] = ()
) -> list[str]:
    """Return a table of runs; ``to_cancel``: ids of those that were asked to."""
    columns = [
        Column(title="RUN", width_min=_id_width_min(runs), style=lambda text: click.style(text, bold=True)),
        Column(title="STATUS", width_min=_STATUS_WIDTH, style=status_text),
        Column(title="WORKFLOW", width_min=8),
        Column(title="CREATED", width_min=8, drop_cost=4, style=lambda text: click.style(text, dim=True)),
        Column(title="TOOK", width_min=9, is_right=True, drop_cost=1),
        Column(title="", width_min=16, drop_cost=2),
    ]
    rows = [
        (
            visible(record.id),
            status_word(record),
            visible(record.workflow),
            instant_text(record.created_at, now),
            _took(record, now),
            note_of(record, now, is_to_cancel=record.id in to_cancel),
        )
        for record in runs
    ]
    return table(columns, rows, screen)


def _id_width_min(runs: Sequence[RunRecord]) -> int:
    """Return a width that most ids fit, at most that of a UUID: one that is longer costs the others no column."""
    widths = sorted(width_of(visible(record.id)) for record in runs) or [0]
    return min(_UUID_WIDTH, max(_ID_WIDTH_MIN, widths[(len(widths) - 1) // 2]))


def _took(record: RunRecord, now: datetime) -> str:
    begun_at = began_at(record)
    return "" if begun_at is None else duration_text(((record.finished_at or now) - begun_at).total_seconds())


class ChangeLines:
    """Lines of a watch: columns that widen as longer names come, and do not shrink again."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._time_width = 8
        self._id_width = 0
        self._workflow_width = 0

    def line(
        self,
        record: RunRecord,
        now: datetime,
        *,
        is_present: bool = False,
        is_to_cancel: bool = False,
        cursor: str | None = None,
    ) -> str:
        """Return the line of a run's newest state, with its cursor if that is given.

        ``is_present``: it was in that state before, so that now is not when it came there.
        """
        when = _since(record, None if is_present else now)
        time = "" if when is None else instant_text(when, now)
        self._time_width = max(self._time_width, width_of(time))
        id, workflow = visible(record.id), visible(record.workflow)
        room = self._screen.room
        self._id_width = max(self._id_width, min(width_of(id), max(12, room // 2)))
        self._workflow_width = max(self._workflow_width, min(width_of(workflow), max(8, room // 5)))
        head = [
            click.style(pad(time, self._time_width), dim=True),
            click.style(pad(id, self._id_width), bold=True),
            status_text(pad(status_word(record), _STATUS_WIDTH)),
        ]
        rest = room - (self._time_width + self._id_width + _STATUS_WIDTH + 2 * len(head))
        if rest >= self._workflow_width:
            head.append(pad(workflow, self._workflow_width))
            rest -= self._workflow_width + 2
        if cursor is not None:  # whole: who goes on needs it
            head.append(click.style(cursor, dim=True))
            rest -= len(cursor) + 2
        note = note_of(record, now, is_to_cancel=is_to_cancel)
        if note and rest >= _NOTE_MIN:
            head.append(cut(note, rest))
        return "  ".join(head).rstrip()


def _since(record: RunRecord, changed_at: datetime | None) -> datetime | None:
    """Return since when a run is in its state, as far as that is known; ``changed_at``: if it is a change of now."""
    if record.status.is_final:
        return record.finished_at
    is_new = record.status is RunStatus.PENDING and record.started_at is None
    return record.created_at if is_new else changed_at


def in_hand_text(step: StepInHand, now: datetime) -> str:
    """Return a step in hand: since when, and where."""
    text = f"{visible(step.key)}, since {instant_text(step.started_at, now)}"
    if step.attempt > 1:
        text += f", attempt {step.attempt}"
    if step.pid is not None and step.is_alive:
        text += f", in process {step.pid}, thread {step.thread}"
    elif step.pid is not None:
        text += f", when process {step.pid} died"
    if step.is_reported:
        text += " (at most a second old)" if step.is_alive else " (up to a second before)"
    return text
