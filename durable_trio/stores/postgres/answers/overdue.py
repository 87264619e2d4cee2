"""Runs that are due and that nobody takes, in the order in which they were due.

No index has all of them in that order: one that claims cannot do without would cost each claim. Those in line stand
there by workflow, version, refusals, line and priority, and by time only within each of these; so each of them is gone
to the right place in. The price is a seek for each, whatever the number of runs.
"""

from __future__ import annotations

from typing import Final

from durable_trio.stores.overdue_questions import ListOverdue, Overdue
from durable_trio.stores.postgres.answers.asking import Asking, text
from durable_trio.stores.postgres.answers.filters import WORKFLOWS
from durable_trio.stores.postgres.parked import IS_PARKED
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.postgres.tables import LINE

__all__ = ["list_overdue"]

_IN_LINE: Final = "owner IS NULL AND wake_at IS NOT NULL AND is_due"
_LATER: Final = "owner IS NULL AND wake_at IS NOT NULL AND NOT is_due"
_LINES: Final = f"SELECT workflow, version, refused, {LINE} AS line FROM runs WHERE {_IN_LINE}"
_OF_LINE: Final = f"""
    {_IN_LINE} AND runs.workflow = lines.workflow AND runs.version = lines.version AND runs.refused = lines.refused
        AND {LINE} = lines.line
"""
# $1: up to which instant; $2: how many; $3: of which workflow, or NULL; ($4, $5): behind which instant and run.
_DUE: Final = f"(wake_at, run) > ($4::bigint, $5::bigint) AND wake_at <= $1::bigint AND NOT {IS_PARKED}"
_PLACES: Final = f"""
    WITH RECURSIVE lines AS (
        (
            {_LINES} AND ($3::text IS NULL OR workflow >= $3::text)
            ORDER BY workflow, version, refused, line LIMIT 1
        )
        UNION ALL
        SELECT next.* FROM lines, LATERAL (
            {_LINES} AND (workflow, version, refused, {LINE})
                > (lines.workflow, lines.version, lines.refused, lines.line)
            ORDER BY workflow, version, refused, line LIMIT 1
        ) AS next
        WHERE $3::text IS NULL OR lines.workflow = $3::text
    ),
    priorities (workflow, version, refused, line, priority) AS (
        SELECT lines.*, (SELECT priority FROM runs WHERE {_OF_LINE} ORDER BY priority DESC LIMIT 1)
        FROM lines WHERE $3::text IS NULL OR workflow = $3::text
        UNION ALL
        SELECT lines.workflow, lines.version, lines.refused, lines.line, (
            SELECT priority FROM runs WHERE {_OF_LINE} AND runs.priority < lines.priority
            ORDER BY priority DESC LIMIT 1
        )
        FROM priorities AS lines WHERE lines.priority IS NOT NULL
    ),
    later AS (
        SELECT workflow, has_token
        FROM ({WORKFLOWS} AND ($3::text IS NULL OR workflow = $3::text)) AS named,
            (VALUES (false), (true)) AS begun (has_token)
    )
"""
# What there is in each place: a query for the runs in line, and one for the others.
_IN_EACH: Final = f"""
    SELECT found.* FROM priorities AS lines, LATERAL (
        SELECT wake_at, run FROM runs WHERE {_OF_LINE} AND runs.priority = lines.priority AND {{which}}
        ORDER BY wake_at, run LIMIT $2::bigint
    ) AS found
    WHERE lines.priority IS NOT NULL
    UNION ALL
    SELECT found.* FROM later, LATERAL (
        SELECT wake_at, run FROM runs
        WHERE {_LATER} AND runs.workflow = later.workflow AND (token > 0) = later.has_token AND {{which}}
        ORDER BY wake_at, run LIMIT $2::bigint
    ) AS found
"""
OVERDUE: Final = f"""
    {_PLACES}, page AS MATERIALIZED (
        SELECT * FROM ({_IN_EACH.format(which=_DUE)}) AS found ORDER BY wake_at, run LIMIT $2::bigint
    )
    SELECT {RUN_COLUMNS} FROM page JOIN runs USING (run) ORDER BY page.wake_at, page.run
"""
NEXT_DUE: Final = f"""
    {_PLACES} SELECT min(wake_at) FROM ({_IN_EACH.format(which="wake_at > $1::bigint")}) AS found
"""


def list_overdue(asking: Asking, question: ListOverdue) -> Overdue:
    """Return what is due within some time, and when the next is."""
    until, workflow = question.until, None if question.workflow is None else text(question.workflow)
    due, later = asking.only(
        (OVERDUE, (until, max(0, question.limit), workflow, *question.after)), (NEXT_DUE, (until, 1, workflow))
    )
    return Overdue(rows=tuple(map(run_from, due.rows)), next_due_at=later.rows[0][0])
