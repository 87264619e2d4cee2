"""Rows of the tables as records, and the columns they are read from."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import attrs

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import CodeRow, GenerationRow, HistoryRow, Key, MailboxEntry, RunRow, WaitRow
from durable_trio.stores.postgres.parked import PROBLEM

__all__ = [
    "CODE_COLUMNS",
    "ENTRY_COLUMNS",
    "GENERATION_COLUMNS",
    "HISTORY_COLUMNS",
    "OWNED_COLUMNS",
    "RUN_COLUMNS",
    "WAIT_COLUMNS",
    "code_from",
    "entry_from",
    "generation_from",
    "histories_from",
    "key_hash",
    "run_from",
    "wait_from",
]

_RUN_STATUS: Final = {status.value: status for status in RunStatus}
_STEP_STATUS: Final = {status.value: status for status in StepStatus}
_STEP_KIND: Final = {kind.value: kind for kind in StepKind}
# Of rows: what is judged, or known of them otherwise.
_NO_COLUMNS: Final = ("damage", "is_new", "is_locked", "silent", "is_alive")


def _columns(row: type[attrs.AttrsInstance]) -> str:
    """Return the columns of a row as a statement lists them: its fields, in their order."""
    names = [field.name for field in attrs.fields(row) if field.name not in _NO_COLUMNS]
    return ", ".join(", ".join(Key._fields) if name == "key" else name for name in names)


# Of a run that somebody owns, which therefore has no problem.
OWNED_COLUMNS: Final = ", ".join(f"runs.{name}" for name in _columns(RunRow).split(", "))
RUN_COLUMNS: Final = OWNED_COLUMNS.replace(" runs.problem,", f" {PROBLEM} AS problem,")
HISTORY_COLUMNS: Final = _columns(HistoryRow)
GENERATION_COLUMNS: Final = _columns(GenerationRow)
WAIT_COLUMNS: Final = _columns(WaitRow)
ENTRY_COLUMNS: Final = _columns(MailboxEntry)
CODE_COLUMNS: Final = _columns(CodeRow)

_STATUS: Final = [field.name for field in attrs.fields(RunRow)].index("status")


def key_hash(key: Key) -> str:
    """Return what a key is stored under: 128 bits, as the text of a uuid."""
    digest = blake2b(f"{key.n}\0{key.branch}\0{key.name}".encode(), digest_size=16)
    return digest.hexdigest()


def run_from(row: tuple[Any, ...]) -> RunRow:
    """Return the record of ``RUN_COLUMNS`` or ``OWNED_COLUMNS``."""
    values = (*row[:_STATUS], _RUN_STATUS[row[_STATUS]], *row[_STATUS + 1 :])
    return RunRow(*values)


def histories_from(rows: Sequence[tuple[Any, ...]]) -> tuple[HistoryRow, ...]:
    """Return the records of ``HISTORY_COLUMNS``; there may be thousands."""
    return tuple([_history_from(row) for row in rows])


def _history_from(row: tuple[Any, ...]) -> HistoryRow:
    return HistoryRow(
        seq=row[0],
        key=Key(row[1], row[2], row[3]),
        kind=_STEP_KIND[row[4]],
        status=_STEP_STATUS[row[5]],
        attempt=row[6],
        result=row[7],
        error=row[8],
        compensates=row[9],
        started_at=row[10],
        finished_at=row[11],
        earlier=row[12],
    )


def generation_from(row: tuple[Any, ...]) -> GenerationRow:
    """Return the record of ``GENERATION_COLUMNS``."""
    return GenerationRow(*row)


def wait_from(row: tuple[Any, ...]) -> WaitRow:
    """Return the record of ``WAIT_COLUMNS``."""
    branch, name, n, kind, due_at, attempt, error, started_at, earlier = row
    return WaitRow(
        key=Key(branch, name, n),
        kind=kind,
        due_at=due_at,
        attempt=attempt,
        error=error,
        started_at=started_at,
        earlier=earlier,
    )


def entry_from(row: tuple[Any, ...]) -> MailboxEntry:
    """Return the record of ``ENTRY_COLUMNS``."""
    return MailboxEntry(*row)


def code_from(row: tuple[Any, ...]) -> CodeRow:
    """Return the record of ``CODE_COLUMNS``."""
    return CodeRow(*row)
