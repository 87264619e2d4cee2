"""What waits to be executed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from durable_trio.rows import NO_VERSION, ServedCode
from durable_trio.rules.run_life import WAITING
from durable_trio.stores.due_questions import FindNextDue, NextDue
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.tables import LINE
from durable_trio.stores.questions import Backlog, CountBacklog, ListSetBack, SetBack
from durable_trio.stores.statuses import is_none_of, is_one_of

__all__ = ["count_backlog", "find_next_due", "list_set_back"]

_IN_LINE: Final = "runs WHERE owner IS NULL AND wake_at IS NOT NULL AND is_due"
_OF_GROUP: Final = f"""
    {_IN_LINE} AND workflow = fitting.workflow AND version = fitting.version AND refused = fitting.refused
        AND {LINE} = line.number
"""
_LATER: Final = """
    runs WHERE workflow = asked.workflow AND (token > 0) = begun.has_token
        AND owner IS NULL AND wake_at IS NOT NULL AND NOT is_due
"""
# A group is the runs of one version that the same codes have refused: those in line, found by a seek each.
WAITING_RUNS: Final = f"""
    WITH RECURSIVE served AS (
        SELECT workflow, version, code
        FROM json_to_recordset($1::json) AS given (workflow text, version bigint, code bigint)
    ),
    asked AS (SELECT DISTINCT workflow FROM served),
    versions AS (SELECT workflow, version FROM served UNION SELECT workflow, {NO_VERSION}::bigint FROM served),
    groups (workflow, version, refused) AS (
        SELECT workflow, version, (
            SELECT refused FROM {_IN_LINE} AND workflow = versions.workflow AND version = versions.version
            ORDER BY refused LIMIT 1
        ) FROM versions
        UNION ALL
        SELECT workflow, version, (
            SELECT refused FROM {_IN_LINE} AND workflow = groups.workflow AND version = groups.version
                AND refused > groups.refused
            ORDER BY refused LIMIT 1
        ) FROM groups WHERE refused IS NOT NULL
    ),
    fitting AS (
        SELECT * FROM groups WHERE refused IS NOT NULL AND EXISTS (
            SELECT 1 FROM served WHERE served.workflow = groups.workflow
                AND (served.version = groups.version OR groups.version = {NO_VERSION})
                AND position(',' || served.code || ',' IN groups.refused) = 0
        )
    ),
    found (head, due) AS (
        SELECT
            (SELECT wake_at FROM {_OF_GROUP} ORDER BY priority DESC, wake_at, run LIMIT 1),
            (SELECT count(*) FROM (SELECT 1 FROM {_OF_GROUP} LIMIT $3::bigint) AS each)
        FROM fitting, (VALUES (0), (1), (2)) AS line (number)
        UNION ALL
        SELECT
            (SELECT wake_at FROM {_LATER} ORDER BY wake_at LIMIT 1),
            (SELECT count(*) FROM (SELECT 1 FROM {_LATER} AND wake_at <= $2::bigint LIMIT $3::bigint) AS each)
        FROM asked, (VALUES (false), (true)) AS begun (has_token)
    )
    SELECT min(head), least($3::bigint, coalesce(sum(due), 0)::bigint) FROM found
"""
LIVING: Final = "SELECT count(*) FROM executors WHERE ended_at IS NULL"
OWNED_COUNTS: Final = f"""
    SELECT owner, count(*) FROM runs WHERE owner IS NOT NULL AND {is_none_of(WAITING)} GROUP BY owner
"""
OWNED_DUE: Final = f"""
    SELECT
        min(wake_at) FILTER (WHERE {is_one_of(WAITING)} AND wake_at > $2::bigint
            AND workflow IN (SELECT workflow FROM json_to_recordset($1::json) AS given (workflow text))),
        count(*) FILTER (WHERE owner IN (SELECT json_array_elements_text($3::json)::bigint)
            AND ({is_none_of(WAITING)} OR wake_at <= $2::bigint))
    FROM runs WHERE owner IS NOT NULL
"""
SET_BACK: Final = """
    SELECT id, workflow, wake_at, greatest(created_at, stamp.latest)
    FROM runs, LATERAL (SELECT max(started_at) AS latest FROM waits WHERE waits.run = runs.run) AS stamp
    WHERE workflow IN (SELECT json_array_elements_text($1::json)) AND owner IS NULL AND wake_at IS NOT NULL
        AND wake_at > $2::bigint AND greatest(created_at, stamp.latest) > $2::bigint
    ORDER BY wake_at, run LIMIT $3::bigint
"""


def count_backlog(asking: Asking, question: CountBacklog) -> Backlog:
    """Return what waits to be claimed, and who has how many."""
    codes = _codes(question.codes)
    living, waiting, owned = asking.only(
        (LIVING, ()), (WAITING_RUNS, (codes, question.now, question.due_max)), (OWNED_COUNTS, ())
    )
    next_due_at, due_count = waiting.rows[0]
    return Backlog(
        executor_count=living.rows[0][0],
        next_due_at=next_due_at,
        due_count=due_count,
        owned_counts=dict(owned.rows),
    )


def find_next_due(asking: Asking, question: FindNextDue) -> NextDue:
    """Return when the next run is due, and how many some executors have in hand."""
    codes, executors = _codes(question.codes), json.dumps(list(question.executors))
    waiting, owned = asking.only(
        (WAITING_RUNS, (codes, question.now, 1)), (OWNED_DUE, (codes, question.now, executors))
    )
    (unowned_at, _), (owned_at, in_hand_count) = waiting.rows[0], owned.rows[0]
    found = [each for each in (unowned_at, owned_at) if each is not None]
    return NextDue(at=min(found, default=None), in_hand_count=in_hand_count)


def _codes(codes: Iterable[ServedCode]) -> str:
    return json.dumps([{"workflow": each.workflow, "version": each.version, "code": each.code} for each in codes])


def list_set_back(asking: Asking, question: ListSetBack) -> tuple[SetBack, ...]:
    """Return runs whose due time was stored before the clock was set back."""
    which = (json.dumps(list(question.workflows)), question.now, max(0, question.limit))
    return tuple(SetBack(*row) for row in asking.only((SET_BACK, which))[0].rows)
