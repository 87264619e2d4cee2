"""Rows of the tables as records, and the columns they are read from.

The tables keep the types of columns, and most of what may stand in them. What a newer version of this library may have
written, which works on the same tables, are words that this one does not know: such a row is told as damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, get_args

from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import CodeRow, GenerationRow, HistoryRow, Key, MailboxEntry, RunRow, WaitKind, WaitRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.postgres.parked import PROBLEM
from durable_trio.stores.row_columns import columns_of
from durable_trio.stores.statuses import STATUS_OF

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

_FINAL: Final = frozenset(status.value for status in FINAL)
_STEP_STATUS: Final = {status.value: status for status in StepStatus if status is not StepStatus.UNREADABLE}
_STEP_KIND: Final = {kind.value: kind for kind in StepKind if kind is not StepKind.UNREADABLE}
_UNREADABLE: Final = "unreadable"
_WAIT_KINDS: Final = frozenset(kind for kind in get_args(WaitKind) if kind != _UNREADABLE)
_ENTRY_KINDS: Final = frozenset({"signal", "cancel", "child"})

# Of a run that somebody owns, which therefore has no problem.
OWNED_COLUMNS: Final = ", ".join(f"runs.{name}" for name in columns_of(RunRow))
RUN_COLUMNS: Final = OWNED_COLUMNS.replace(" runs.problem,", f" {PROBLEM} AS problem,")
HISTORY_COLUMNS: Final = ", ".join(columns_of(HistoryRow))
GENERATION_COLUMNS: Final = ", ".join(columns_of(GenerationRow))
WAIT_COLUMNS: Final = ", ".join(columns_of(WaitRow))
ENTRY_COLUMNS: Final = ", ".join(columns_of(MailboxEntry))
CODE_COLUMNS: Final = ", ".join(columns_of(CodeRow))

_STATUS: Final = columns_of(RunRow).index("status")
_FINISHED_AT: Final = columns_of(RunRow).index("finished_at")
_ENTRY_KIND: Final = columns_of(MailboxEntry).index("kind")


def key_hash(key: Key) -> str:
    """Return what a key is stored under: 128 bits, as the text of a uuid."""
    digest = blake2b(f"{key.n}\0{key.branch}\0{key.name}".encode(), digest_size=16)
    return digest.hexdigest()


def run_from(row: tuple[Any, ...]) -> RunRow:
    """Return the record of ``RUN_COLUMNS`` or ``OWNED_COLUMNS``."""
    word, finished_at, damage = row[_STATUS], row[_FINISHED_AT], None
    if word not in STATUS_OF:
        damage = _place("runs", _unknown("status", word, STATUS_OF), run=row[0], id=row[1])
    elif (word in _FINAL) is (finished_at is None):
        end = "finished_at is NULL" if finished_at is None else f"finished_at holds {finished_at}"
        damage = _place("runs", f"status holds {word!r}, but {end}", run=row[0], id=row[1])
    # One that is not known is parked, or will be.
    values = (*row[:_STATUS], STATUS_OF.get(word, RunStatus.SUSPENDED), *row[_STATUS + 1 :], damage)
    return RunRow(*values)


def _unknown(column: str, word: str, known: Iterable[str]) -> str:
    return f"{column} holds {word!r}, which is none of {', '.join(known)}"


def _place(table: str, what: str, **locator: object) -> str:
    which = ", ".join(f"{name} {value!r}" for name, value in locator.items())
    return f"in table {table}, the row with {which}: {what}"


def histories_from(rows: Sequence[tuple[Any, ...]]) -> tuple[HistoryRow, ...]:
    """Return the records of ``HISTORY_COLUMNS``; there may be thousands."""
    return tuple([_history_from(row) for row in rows])


def _history_from(row: tuple[Any, ...]) -> HistoryRow:
    kind, status, damage = _STEP_KIND.get(row[4]), _STEP_STATUS.get(row[5]), None
    if kind is None or status is None:
        faults = [] if kind else [_unknown("kind", row[4], _STEP_KIND)]
        faults += [] if status else [_unknown("status", row[5], _STEP_STATUS)]
        damage = _place("history", "; ".join(faults), seq=row[0], branch=row[1], name=row[2], n=row[3])
    return HistoryRow(
        seq=row[0],
        key=Key(row[1], row[2], row[3]),
        kind=kind or StepKind.UNREADABLE,
        status=status or StepStatus.UNREADABLE,
        attempt=row[6],
        result=row[7],
        error=row[8],
        compensates=row[9],
        started_at=row[10],
        finished_at=row[11],
        earlier=row[12],
        damage=damage,
    )


def generation_from(row: tuple[Any, ...]) -> GenerationRow:
    """Return the record of ``GENERATION_COLUMNS``."""
    return GenerationRow(*row)


def wait_from(row: tuple[Any, ...]) -> WaitRow:
    """Return the record of ``WAIT_COLUMNS``."""
    branch, name, n, kind, due_at, attempt, error, started_at, earlier = row
    damage = None
    if kind not in _WAIT_KINDS:
        damage = _place("waits", _unknown("kind", kind, sorted(_WAIT_KINDS)), branch=branch, name=name, n=n)
    return WaitRow(
        key=Key(branch, name, n),
        kind=_UNREADABLE if damage else kind,
        due_at=due_at,
        attempt=attempt,
        error=error,
        started_at=started_at,
        earlier=earlier,
        damage=damage,
    )


def entry_from(row: tuple[Any, ...]) -> MailboxEntry:
    """Return the record of ``ENTRY_COLUMNS``."""
    if row[_ENTRY_KIND] in _ENTRY_KINDS:
        return MailboxEntry(*row)
    id, run, kind, name, payload, created_at = row
    damage = _place("mailbox", _unknown("kind", kind, sorted(_ENTRY_KINDS)), id=id, kind=kind, name=name)
    return MailboxEntry(id, run, _UNREADABLE, name, payload, created_at, damage)


def code_from(row: tuple[Any, ...]) -> CodeRow:
    """Return the record of ``CODE_COLUMNS``."""
    return CodeRow(*row)
