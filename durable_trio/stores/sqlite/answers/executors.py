"""Who executes, what waits to be executed, and what processes have said of themselves."""

from __future__ import annotations

import json
from typing import Final

from durable_trio.rows import ExecutorRow, ReportRow
from durable_trio.rules.run_life import WAITING
from durable_trio.stores.questions import Backlog, CountBacklog, ListExecutors, ListReports, ListSetBack, SetBack
from durable_trio.stores.sqlite.columns import EXECUTOR_COLUMNS, REPORT_COLUMNS, executor_from, report_from
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.statuses import is_none_of
from durable_trio.stores.sqlite.tables import BEGUN, LINE, NEW, SUSPECT

__all__ = ["count_backlog", "list_executors", "list_reports", "list_set_back", "lock_files"]

LOCKS: Final = "SELECT id, lock FROM executors WHERE ended_at IS NULL"
LIVING: Final = f"SELECT {EXECUTOR_COLUMNS} FROM executors WHERE ended_at IS NULL ORDER BY id"
OWNING: Final = f"""
    SELECT {EXECUTOR_COLUMNS} FROM executors
    WHERE ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE owner = executors.id) ORDER BY id
"""
REPORTS: Final = f"SELECT {REPORT_COLUMNS} FROM reports ORDER BY process"
SET_BACK: Final = """
    SELECT id, workflow, wake_at, max(created_at, coalesce((SELECT max(started_at) FROM waits WHERE run = runs.run), 0))
    FROM runs
    WHERE workflow IN (SELECT value FROM json_each(:workflows)) AND owner IS NULL AND wake_at IS NOT NULL
        AND wake_at > :now
        AND (created_at > :now OR EXISTS (SELECT 1 FROM waits WHERE run = runs.run AND started_at > :now))
    ORDER BY wake_at, run LIMIT :limit + 0
"""
# In one statement: beside a busy event loop each statement, and each row, may wait milliseconds for the GIL.
BACKLOG: Final = f"""
    WITH asked (workflow) AS (SELECT DISTINCT value FROM json_each(:workflows)),
    in_line (head, due) AS (
        SELECT
            (
                SELECT iif(typeof(wake_at) = 'integer', wake_at, :now) FROM runs INDEXED BY runs_line
                WHERE workflow = asked.workflow AND {LINE} = line.column1
                    AND owner IS NULL AND wake_at IS NOT NULL AND is_due = 1
                ORDER BY priority DESC, wake_at, run LIMIT 1
            ),
            (
                SELECT count(*) FROM (
                    SELECT 1 FROM runs INDEXED BY runs_line
                    WHERE workflow = asked.workflow AND {LINE} = line.column1
                        AND owner IS NULL AND wake_at IS NOT NULL AND is_due = 1
                    LIMIT :due_max + 0
                )
            )
        FROM asked, (VALUES ({SUSPECT}), ({BEGUN}), ({NEW})) AS line
    ),
    later (head, due) AS (
        SELECT
            (
                SELECT iif(typeof(wake_at) = 'integer', wake_at, NULL) FROM runs INDEXED BY runs_later
                WHERE workflow = asked.workflow AND (token > 0) = begun.column1
                    AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
                ORDER BY wake_at LIMIT 1
            ),
            (
                SELECT count(*) FROM (
                    SELECT 1 FROM runs INDEXED BY runs_later
                    WHERE workflow = asked.workflow AND (token > 0) = begun.column1
                        AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1 AND wake_at <= :now
                    LIMIT :due_max + 0
                )
            )
        FROM asked, (VALUES (1), (0)) AS begun
    ),
    owned (owner, runs) AS (
        SELECT owner, count(*) FROM runs INDEXED BY runs_owned
        WHERE owner IS NOT NULL AND {is_none_of(WAITING)} GROUP BY owner
    )
    SELECT
        (SELECT count(*) FROM executors INDEXED BY executors_living WHERE ended_at IS NULL),
        min(head),
        min(:due_max, coalesce(sum(due), 0)),
        (SELECT json_group_array(json_array(owner, runs)) FROM owned WHERE typeof(owner) = 'integer')
    FROM (SELECT * FROM in_line UNION ALL SELECT * FROM later)
"""


def count_backlog(connection: sqlite3.Connection, question: CountBacklog) -> Backlog:
    """Return what waits to be claimed."""
    workflows = json.dumps(list(question.workflows))
    parameters = {"workflows": workflows, "now": question.now, "due_max": question.due_max}
    executor_count, next_due_at, due_count, owned = connection.execute(BACKLOG, parameters).fetchone()
    return Backlog(
        executor_count=executor_count,
        next_due_at=next_due_at,
        due_count=due_count,
        owned_counts=dict(json.loads(owned)),
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
