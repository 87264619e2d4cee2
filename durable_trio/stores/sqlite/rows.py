"""Rows of the tables as records, and the columns they are read from."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, TypeVar

from durable_trio.errors import StoreCorrupt
from durable_trio.records import (
    ExecutorRow,
    HistoryRow,
    Key,
    MailboxEntry,
    RunRow,
    RunStatus,
    StepKind,
    StepStatus,
    WaitRow,
)

__all__ = [
    "ENTRY_COLUMNS",
    "EXECUTOR_COLUMNS",
    "HISTORY_COLUMNS",
    "RUN_COLUMNS",
    "WAIT_COLUMNS",
    "entry_from",
    "executor_from",
    "history_from",
    "run_from",
    "wait_from",
]

Member = TypeVar("Member", bound=StrEnum)


class _Members(dict[str, Member]):
    """Members of an enum by value: reading them through the enum costs several times as much."""

    def __init__(self, members: Iterable[Member]) -> None:
        super().__init__({member.value: member for member in members})

    def __missing__(self, value: str) -> Member:
        raise StoreCorrupt(
            f"the file holds {value!r}, which is not one of {', '.join(self)}; "
            "it is damaged, or was changed by another program: restore a copy"
        )


_RUN_STATUS: Final = _Members(RunStatus)
_STEP_STATUS: Final = _Members(StepStatus)
_STEP_KIND: Final = _Members(StepKind)

RUN_COLUMNS: Final = (
    "run, id, workflow, status, args, result, error, problem, queue, priority, tags, parent, parent_id, seed, "
    "generation, created_at, started_at, finished_at, wake_at, ttl_at, recoveries, compensation_errors, owner, token, "
    "changed"
)
HISTORY_COLUMNS: Final = (
    "seq, branch, name, n, kind, status, attempt, result, error, compensates, started_at, finished_at"
)
WAIT_COLUMNS: Final = "branch, name, n, kind, due_at, attempt, error, started_at"
ENTRY_COLUMNS: Final = "id, run, kind, name, payload, created_at"
EXECUTOR_COLUMNS: Final = "id, pid, host, boot_id, started_at, lease_until, ended_at"


def run_from(row: tuple[Any, ...]) -> RunRow:
    """Return the record of ``RUN_COLUMNS``."""
    return RunRow(
        run=row[0],
        id=row[1],
        workflow=row[2],
        status=_RUN_STATUS[row[3]],
        args=row[4],
        result=row[5],
        error=row[6],
        problem=row[7],
        queue=row[8],
        priority=row[9],
        tags=row[10],
        parent=row[11],
        parent_id=row[12],
        seed=row[13],
        generation=row[14],
        created_at=row[15],
        started_at=row[16],
        finished_at=row[17],
        wake_at=row[18],
        ttl_at=row[19],
        recoveries=row[20],
        compensation_errors=row[21],
        owner=row[22],
        token=row[23],
        changed=row[24],
    )


def history_from(row: tuple[Any, ...]) -> HistoryRow:
    """Return the record of ``HISTORY_COLUMNS``."""
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
    )


def wait_from(row: tuple[Any, ...]) -> WaitRow:
    """Return the record of ``WAIT_COLUMNS``."""
    return WaitRow(
        key=Key(row[0], row[1], row[2]),
        kind=row[3],
        due_at=row[4],
        attempt=row[5],
        error=row[6],
        started_at=row[7],
    )


def entry_from(row: tuple[Any, ...]) -> MailboxEntry:
    """Return the record of ``ENTRY_COLUMNS``."""
    return MailboxEntry(id=row[0], run=row[1], kind=row[2], name=row[3], payload=row[4], created_at=row[5])


def executor_from(row: tuple[Any, ...]) -> ExecutorRow:
    """Return the record of ``EXECUTOR_COLUMNS``."""
    return ExecutorRow(
        id=row[0],
        pid=row[1],
        host=row[2],
        boot_id=row[3],
        started_at=row[4],
        lease_until=row[5],
        ended_at=row[6],
    )
