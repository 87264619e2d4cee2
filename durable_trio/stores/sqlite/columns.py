"""Rows of the tables as records, and the columns they are read from. The record of a damaged row says that it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import (
    CodeRow,
    ExecutorRow,
    GenerationRow,
    HistoryRow,
    Key,
    MailboxEntry,
    ReportRow,
    RunRow,
    WaitRow,
)
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.row_columns import columns_of
from durable_trio.stores.sqlite.layout import LAYOUTS, Layout, NotText
from durable_trio.stores.sqlite.liveness import process_is_alive
from durable_trio.stores.sqlite.parked import PROBLEM
from durable_trio.stores.statuses import STATUS_OF

__all__ = [
    "CODE_COLUMNS",
    "ENTRY_COLUMNS",
    "EXECUTOR_COLUMNS",
    "GENERATION_COLUMNS",
    "HISTORY_COLUMNS",
    "OWNED_COLUMNS",
    "REPORT_COLUMNS",
    "RUN_COLUMNS",
    "WAIT_COLUMNS",
    "code_from",
    "earlier_histories_from",
    "entry_from",
    "executor_from",
    "generation_from",
    "histories_from",
    "report_from",
    "run_from",
    "status_from",
    "text_from",
    "wait_from",
]

# Members by value: reading them through the enum costs several times as much.
_STEP_STATUS: Final = {status.value: status for status in StepStatus}
_STEP_KIND: Final = {kind.value: kind for kind in StepKind}
_FINAL: Final = frozenset(status.value for status in FINAL)


# Of a run that somebody owns, which therefore has no problem.
OWNED_COLUMNS: Final = ", ".join(columns_of(RunRow))
RUN_COLUMNS: Final = OWNED_COLUMNS.replace(" problem,", f" {PROBLEM} AS problem,")
HISTORY_COLUMNS: Final = ", ".join(columns_of(HistoryRow))
GENERATION_COLUMNS: Final = ", ".join(columns_of(GenerationRow))
WAIT_COLUMNS: Final = ", ".join(columns_of(WaitRow))
ENTRY_COLUMNS: Final = ", ".join(columns_of(MailboxEntry))
# Behind those of the record: what it takes to judge whether the executor is there.
EXECUTOR_COLUMNS: Final = ", ".join((*columns_of(ExecutorRow), "boot_id", "renewed_at"))
REPORT_COLUMNS: Final = ", ".join(columns_of(ReportRow))
CODE_COLUMNS: Final = ", ".join(columns_of(CodeRow))

_RUN: Final = LAYOUTS["runs"].of(OWNED_COLUMNS)
_HISTORY: Final = LAYOUTS["history"].of(HISTORY_COLUMNS)
_EARLIER_HISTORY: Final = LAYOUTS["earlier_history"].of(HISTORY_COLUMNS)
_GENERATION: Final = LAYOUTS["earlier_generations"].of(GENERATION_COLUMNS)
_WAIT: Final = LAYOUTS["waits"].of(WAIT_COLUMNS)
_ENTRY: Final = LAYOUTS["mailbox"].of(ENTRY_COLUMNS)
_EXECUTOR: Final = LAYOUTS["executors"].of(EXECUTOR_COLUMNS)
_CODE: Final = LAYOUTS["codes"].of(CODE_COLUMNS)
_REPORT: Final = LAYOUTS["reports"].of(REPORT_COLUMNS)


class _StatusOf(dict[object, RunStatus]):
    def __missing__(self, _: object) -> RunStatus:
        return RunStatus.SUSPENDED


#: A run's status by the word that is stored; for one that cannot be read that of a run which is parked.
status_from: Final[Callable[[object], RunStatus]] = _StatusOf(STATUS_OF).__getitem__

_STATUS: Final = columns_of(RunRow).index("status")
_FINISHED_AT: Final = columns_of(RunRow).index("finished_at")


def text_from(value: object) -> str:
    """Return a text that is not read as part of a row, such that nobody takes what is none for one."""
    return value if isinstance(value, str) else NotText(repr(value))


def run_from(row: tuple[Any, ...]) -> RunRow:
    """Return the record of ``RUN_COLUMNS`` or ``OWNED_COLUMNS``."""
    damage = None
    if not _RUN.is_sound(row):
        row, damage = _RUN.mended(row)
    elif (row[_STATUS] in _FINAL) is ((finished_at := row[_FINISHED_AT]) is None):
        end = "finished_at is NULL" if finished_at is None else f"finished_at holds {finished_at}"
        damage = _RUN.place(row, f"status holds {row[_STATUS]!r}, but {end}")
    values = (*row[:_STATUS], STATUS_OF[row[_STATUS]], *row[_STATUS + 1 :], damage)
    return RunRow(*values)


def histories_from(rows: Sequence[tuple[Any, ...]]) -> tuple[HistoryRow, ...]:
    """Return the records of ``HISTORY_COLUMNS``; there may be thousands."""
    return _histories(_HISTORY, rows)


def earlier_histories_from(rows: Sequence[tuple[Any, ...]]) -> tuple[HistoryRow, ...]:
    """Return the records of ``HISTORY_COLUMNS`` of an earlier generation."""
    return _histories(_EARLIER_HISTORY, rows)


def _histories(layout: Layout, rows: Sequence[tuple[Any, ...]]) -> tuple[HistoryRow, ...]:
    if layout.are_sound(rows):
        return tuple([_history_from(row, None) for row in rows])
    return tuple(
        _history_from(row, None) if layout.is_sound(row) else _history_from(*layout.mended(row)) for row in rows
    )


def _history_from(row: tuple[Any, ...], damage: str | None) -> HistoryRow:
    return HistoryRow(
        seq=row[0],
        key=Key(row[1], row[2], row[3]),
        kind=_STEP_KIND[row[4]],
        status=_STEP_STATUS[row[5]],
        attempt=row[6],
        result=row[7],
        error=row[8],
        compensates=bool(row[9]),
        started_at=row[10],
        finished_at=row[11],
        earlier=row[12],
        damage=damage,
    )


def generation_from(row: tuple[Any, ...]) -> GenerationRow:
    """Return the record of ``GENERATION_COLUMNS``."""
    damage = None
    if not _GENERATION.is_sound(row):
        row, damage = _GENERATION.mended(row)
    values = (*row, damage)
    return GenerationRow(*values)


def wait_from(row: tuple[Any, ...]) -> WaitRow:
    """Return the record of ``WAIT_COLUMNS``."""
    damage = None
    if not _WAIT.is_sound(row):
        row, damage = _WAIT.mended(row)
    return WaitRow(
        key=Key(row[0], row[1], row[2]),
        kind=row[3],
        due_at=row[4],
        attempt=row[5],
        error=row[6],
        started_at=row[7],
        earlier=row[8],
        damage=damage,
    )


def entry_from(row: tuple[Any, ...]) -> MailboxEntry:
    """Return the record of ``ENTRY_COLUMNS``."""
    damage = None
    if not _ENTRY.is_sound(row):
        row, damage = _ENTRY.mended(row)
    values = (*row, damage)
    return MailboxEntry(*values)


def executor_from(row: tuple[Any, ...], *, is_locked: bool | None, silent: int | None) -> ExecutorRow:
    """Return the record of ``EXECUTOR_COLUMNS``."""
    damage = None
    if not _EXECUTOR.is_sound(row):
        row, damage = _EXECUTOR.mended(row)
    id, pid, host, started_at, renewals, lease, ended_at, *_ = row
    return ExecutorRow(id, pid, host, started_at, renewals, is_locked, lease, silent, ended_at, damage)


def code_from(row: tuple[Any, ...]) -> CodeRow:
    """Return the record of ``CODE_COLUMNS``."""
    damage = None
    if not _CODE.is_sound(row):
        row, damage = _CODE.mended(row)
    values = (*row, damage)
    return CodeRow(*values)


def report_from(row: tuple[Any, ...]) -> ReportRow | None:
    """Return the record of ``REPORT_COLUMNS``, unless it is damaged."""
    if not _REPORT.is_sound(row):
        return None
    process, updated_at, report = row
    return ReportRow(process, updated_at, report, process_is_alive(process))
