"""Who executes, what waits to be executed, and what processes have said of themselves."""

from __future__ import annotations

import json
from typing import Final

from durable_trio.rows import ExecutorRow, ReportRow
from durable_trio.stores.questions import Backlog, CountBacklog, ListExecutors, ListReports, ListSetBack, SetBack
from durable_trio.stores.sqlite.columns import EXECUTOR_COLUMNS, REPORT_COLUMNS, executor_from, report_from
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.claims import FIND_IN_LINE
from durable_trio.stores.sqlite.tables import BEGUN, NEW, SUSPECT

__all__ = ["count_backlog", "list_executors", "list_reports", "list_set_back", "lock_files"]

LOCKS: Final = "SELECT id, lock FROM executors WHERE ended_at IS NULL"
LIVING: Final = f"SELECT {EXECUTOR_COLUMNS} FROM executors WHERE ended_at IS NULL ORDER BY id"
OWNING: Final = f"""
    SELECT {EXECUTOR_COLUMNS} FROM executors
    WHERE ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE owner = executors.id) ORDER BY id
"""
REPORTS: Final = f"SELECT {REPORT_COLUMNS} FROM reports ORDER BY process"
COUNT_IN_LINE: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM runs INDEXED BY runs_line
        WHERE workflow = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due = 1 LIMIT ?
    )
"""
SET_BACK: Final = """
    SELECT id, workflow, wake_at, max(created_at, coalesce((SELECT max(started_at) FROM waits WHERE run = runs.run), 0))
    FROM runs
    WHERE workflow IN (SELECT value FROM json_each(:workflows)) AND owner IS NULL AND wake_at IS NOT NULL
        AND wake_at > :now
        AND (created_at > :now OR EXISTS (SELECT 1 FROM waits WHERE run = runs.run AND started_at > :now))
    ORDER BY wake_at, run LIMIT :limit
"""
COUNT_LATER: Final = """
    SELECT count(*) FROM (
        SELECT 1 FROM runs INDEXED BY runs_later
        WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
            AND wake_at <= ? LIMIT ?
    )
"""
NEXT_LATER: Final = """
    SELECT wake_at FROM runs INDEXED BY runs_later
    WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
    ORDER BY wake_at LIMIT 1
"""
COUNT_LIVING: Final = "SELECT count(*) FROM executors INDEXED BY executors_living WHERE ended_at IS NULL"
COUNT_OWNED: Final = (
    "SELECT owner, count(*) FROM runs INDEXED BY runs_owned"
    " WHERE owner IS NOT NULL AND status <> 'suspended' GROUP BY owner"
)


def count_backlog(connection: sqlite3.Connection, question: CountBacklog) -> Backlog:
    """Return what waits to be claimed."""
    now, due_max = question.now, question.due_max
    heads: list[int] = []
    due_count = 0

    def count(sql: str, *parameters: object) -> None:
        nonlocal due_count
        if due_count < due_max:
            due_count += connection.execute(sql, (*parameters, due_max - due_count)).fetchone()[0]

    for workflow in dict.fromkeys(question.workflows):
        for line in (SUSPECT, BEGUN, NEW):
            found = connection.execute(FIND_IN_LINE, (workflow, line, 1)).fetchall()
            heads += (wake_at if isinstance(wake_at, int) else now for _, wake_at, _ in found)
        count(COUNT_IN_LINE, workflow)
        for has_begun in (True, False):
            later = connection.execute(NEXT_LATER, (workflow, has_begun)).fetchone()
            if later is not None and isinstance(later[0], int):
                heads.append(later[0])
                if later[0] <= now:
                    count(COUNT_LATER, workflow, has_begun, now)
    (executor_count,) = connection.execute(COUNT_LIVING).fetchone()
    counts = connection.execute(COUNT_OWNED).fetchall()
    owned = {owner: count for owner, count in counts if isinstance(owner, int)}
    return Backlog(
        executor_count=executor_count, next_due_at=min(heads, default=None), due_count=due_count, owned_counts=owned
    )


def list_set_back(connection: sqlite3.Connection, question: ListSetBack) -> tuple[SetBack, ...]:
    """Return runs whose due time was stored before the clock was set back."""
    parameters = {"workflows": json.dumps(list(question.workflows)), "now": question.now, "limit": question.limit}
    found = connection.execute(SET_BACK, parameters).fetchall()
    return tuple(SetBack(*row) for row in found if isinstance(row[2], int) and isinstance(row[3], int))


def list_executors(connection: sqlite3.Connection, question: ListExecutors) -> tuple[ExecutorRow, ...]:
    """Return executors."""
    return tuple(map(executor_from, connection.execute(OWNING if question.ended else LIVING).fetchall()))


def lock_files(connection: sqlite3.Connection) -> dict[int, str | None]:
    """Return which files the locks of the executors are in that have not ended."""
    return dict(connection.execute(LOCKS).fetchall())


def list_reports(connection: sqlite3.Connection, question: ListReports) -> tuple[ReportRow, ...]:
    """Return what processes have said of themselves."""
    found = connection.execute(REPORTS).fetchall()
    return tuple(report for report in map(report_from, found) if report is not None)
