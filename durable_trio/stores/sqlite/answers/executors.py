"""Who executes, what waits to be executed, and what processes have said of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from durable_trio.rows import NO_VERSION, CodeRow, DeathRow, DeathStage, ExecutorRow, ReportRow, ServedCode
from durable_trio.rules.run_life import WAITING
from durable_trio.stores.code_questions import ListCodes
from durable_trio.stores.due_questions import FindNextDue, NextDue
from durable_trio.stores.lines import BEGUN, NEW, SUSPECT
from durable_trio.stores.questions import (
    Backlog,
    CountBacklog,
    ListDeaths,
    ListExecutors,
    ListReports,
    ListSetBack,
    SetBack,
)
from durable_trio.stores.sqlite.columns import (
    CODE_COLUMNS,
    EXECUTOR_COLUMNS,
    REPORT_COLUMNS,
    code_from,
    executor_from,
    report_from,
    text_from,
)
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.liveness import Judge, nobody_can_tell, silent, teller_is_alive
from durable_trio.stores.sqlite.tables import IN_LINE, LINE
from durable_trio.stores.statuses import is_none_of, is_one_of
from durable_trio.stores.untold import untold_in

__all__ = [
    "count_backlog",
    "find_home",
    "find_next_due",
    "list_codes",
    "list_deaths",
    "list_executors",
    "list_reports",
    "list_set_back",
]

LIVING: Final = f"SELECT {EXECUTOR_COLUMNS}, lock FROM executors WHERE ended_at IS NULL ORDER BY id"
OWNING: Final = f"""
    SELECT {EXECUTOR_COLUMNS}, lock FROM executors
    WHERE ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE owner = executors.id) ORDER BY id
"""
CODES: Final = f"SELECT {CODE_COLUMNS} FROM codes ORDER BY code"
CODES_OF_EXECUTOR: Final = f"""
    SELECT {CODE_COLUMNS} FROM codes WHERE code IN (SELECT code FROM executor_codes WHERE executor = ?) ORDER BY code
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
    WITH RECURSIVE served (workflow, version, code) AS (
        SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:codes)
    ),
    asked (workflow) AS (SELECT DISTINCT workflow FROM served),
    versions (workflow, version) AS (
        SELECT workflow, version FROM served UNION SELECT workflow, {NO_VERSION} FROM served
    ),
    groups (workflow, version, refused) AS (
        SELECT workflow, version, (
            SELECT refused FROM {IN_LINE} AND workflow = versions.workflow AND version = versions.version
                AND refused >= ''
            ORDER BY refused LIMIT 1
        ) FROM versions
        UNION ALL
        SELECT workflow, version, (
            SELECT refused FROM {IN_LINE} AND workflow = groups.workflow AND version = groups.version
                AND refused > groups.refused
            ORDER BY refused LIMIT 1
        ) FROM groups WHERE typeof(refused) = 'text'
    ),
    fitting AS (
        SELECT * FROM groups WHERE refused IS NOT NULL AND EXISTS (
            SELECT 1 FROM served WHERE served.workflow = groups.workflow
                AND (served.version = groups.version OR groups.version = {NO_VERSION})
                AND instr(CAST(groups.refused AS TEXT), ',' || served.code || ',') = 0
        )
    ),
    in_line (head, due) AS (
        SELECT
            (
                SELECT iif(typeof(wake_at) = 'integer', wake_at, :now) FROM {IN_LINE}
                    AND workflow = fitting.workflow AND version = fitting.version AND refused = fitting.refused
                    AND {LINE} = line.column1
                ORDER BY priority DESC, wake_at, run LIMIT 1
            ),
            (
                SELECT count(*) FROM (
                    SELECT 1 FROM {IN_LINE}
                        AND workflow = fitting.workflow AND version = fitting.version AND refused = fitting.refused
                        AND {LINE} = line.column1
                    LIMIT :due_max + 0
                )
            )
        FROM fitting, (VALUES ({SUSPECT}), ({BEGUN}), ({NEW})) AS line
        UNION ALL
        -- Only a damaged file has any, and whoever claims parks them.
        SELECT NULL, EXISTS (SELECT 1 FROM {IN_LINE} AND workflow = asked.workflow AND version < {NO_VERSION})
            OR EXISTS (SELECT 1 FROM {IN_LINE} AND workflow = asked.workflow AND version > {COUNT_MAX})
        FROM asked
        UNION ALL
        SELECT NULL, EXISTS (
            SELECT 1 FROM {IN_LINE} AND workflow = versions.workflow AND version = versions.version AND refused < ''
        ) FROM versions
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

# Few: what executors have in memory.
OWNED_DUE: Final = f"""
    SELECT
        min(iif({is_one_of(WAITING)} AND typeof(wake_at) = 'integer' AND wake_at > :now
            AND workflow IN (SELECT value ->> 0 FROM json_each(:codes)), wake_at, NULL)),
        count(*) FILTER (WHERE owner IN (SELECT value FROM json_each(:executors))
            AND ({is_none_of(WAITING)} OR wake_at <= :now))
    FROM runs INDEXED BY runs_owned WHERE owner IS NOT NULL
"""

HOME: Final = "SELECT lock, boot_id FROM executors WHERE id = ?"
DEATHS: Final = """
    SELECT executor, deaths.pid, deaths.host, stage, runs, untold, teller, lock, boot_id
    FROM deaths LEFT JOIN executors ON id = executor ORDER BY executor
"""
_STAGES: Final = frozenset(DeathStage)


def count_backlog(connection: sqlite3.Connection, question: CountBacklog) -> Backlog:
    """Return what waits to be claimed."""
    parameters = {"codes": _codes(question.codes), "now": question.now, "due_max": question.due_max}
    executor_count, next_due_at, due_count, owned = connection.execute(BACKLOG, parameters).fetchone()
    return Backlog(
        executor_count=executor_count,
        next_due_at=next_due_at,
        due_count=due_count,
        owned_counts=dict(json.loads(owned)),
    )


def find_next_due(connection: sqlite3.Connection, question: FindNextDue) -> NextDue:
    """Return when the next run is due, and how many some executors have in hand."""
    parameters: dict[str, Any] = {"codes": _codes(question.codes), "now": question.now}
    unowned_at = connection.execute(BACKLOG, {**parameters, "due_max": 1}).fetchone()[1]
    executors = json.dumps(list(question.executors))
    owned_at, in_hand_count = connection.execute(OWNED_DUE, {**parameters, "executors": executors}).fetchone()
    found = [each for each in (unowned_at, owned_at) if each is not None]
    return NextDue(at=min(found, default=None), in_hand_count=in_hand_count)


def _codes(codes: Iterable[ServedCode]) -> str:
    return json.dumps([(each.workflow, each.version, each.code) for each in codes])


def list_set_back(connection: sqlite3.Connection, question: ListSetBack) -> tuple[SetBack, ...]:
    """Return runs whose due time was stored before the clock was set back."""
    parameters = {"workflows": json.dumps(list(question.workflows)), "now": question.now, "limit": question.limit}
    found = connection.execute(SET_BACK, parameters).fetchall()
    return tuple(SetBack(*row) for row in found if isinstance(row[2], int) and isinstance(row[3], int))


def list_codes(connection: sqlite3.Connection, question: ListCodes) -> tuple[CodeRow, ...]:
    """Return codes."""
    if question.executor is None:
        found = connection.execute(CODES)
    else:
        found = connection.execute(CODES_OF_EXECUTOR, (question.executor,))
    return tuple(map(code_from, found.fetchall()))


def list_executors(
    connection: sqlite3.Connection, question: ListExecutors, judge: Judge = nobody_can_tell
) -> tuple[ExecutorRow, ...]:
    """Return executors, and which of their processes are there."""
    found = connection.execute(OWNING if question.ended else LIVING).fetchall()
    return tuple(_judged_executor(row, judge) for row in found)


def _judged_executor(row: tuple[Any, ...], judge: Judge) -> ExecutorRow:
    *columns, boot, renewed_at, file = row
    return executor_from(row[:-1], is_locked=judge(columns[0], file, boot), silent=silent(boot, renewed_at))


def list_deaths(
    connection: sqlite3.Connection, question: ListDeaths, judge: Judge = nobody_can_tell
) -> tuple[DeathRow, ...]:
    """Return the deaths that are to be told of, and who is there; what cannot be read of one is not told."""
    found = connection.execute(DEATHS).fetchall()
    return tuple(
        DeathRow(
            executor=executor,
            pid=pid,
            host=text_from(host),
            stage=DeathStage(stage),
            runs=runs,
            untold=tuple(untold_in(untold)),
            teller=text_from(teller),
            is_locked=judge(executor, file, boot),
            is_teller_alive=teller_is_alive(text_from(teller)),
        )
        for executor, pid, host, stage, runs, untold, teller, file, boot in found
        if isinstance(executor, int) and isinstance(pid, int) and isinstance(runs, int) and stage in _STAGES
    )


def find_home(connection: sqlite3.Connection, _: object, *, executor: int) -> tuple[Any, Any]:
    """Return the file that an executor's lock was taken in, and its boot; nothing if its row is there no more."""
    return connection.execute(HOME, (executor,)).fetchone() or (None, None)


def list_reports(connection: sqlite3.Connection, question: ListReports) -> tuple[ReportRow, ...]:
    """Return what processes have said of themselves."""
    found = connection.execute(REPORTS).fetchall()
    return tuple(report for report in map(report_from, found) if report is not None)
