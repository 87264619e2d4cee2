"""Where the parked runs are: those of each set of codes that have refused them, found by a seek each."""

from __future__ import annotations

from typing import Final

from durable_trio.rules.refused import codes_in
from durable_trio.stores.code_questions import CountParked, ListRefusedSets, RefusedSet
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.parked import OF_LIVING, REFUSED

__all__ = ["count_parked", "list_refused_sets", "parked_runs"]

_COUNTED_MAX: Final = 10_000

# Versions, and sets of codes that have refused them, that some run has.
GROUPS: Final = f"""
    WITH RECURSIVE groups AS (
        (
            SELECT workflow, version, refused FROM runs WHERE {REFUSED}
            ORDER BY workflow, version, refused LIMIT 1
        )
        UNION ALL
        SELECT next.* FROM groups, LATERAL (
            SELECT workflow, version, refused FROM runs
            WHERE {REFUSED} AND (workflow, version, refused) > (groups.workflow, groups.version, groups.refused)
            ORDER BY workflow, version, refused LIMIT 1
        ) AS next
    )
    SELECT workflow, version, refused FROM groups
"""
# Those of which no code that lives is untried.
_PARKED_GROUPS: Final = f"""
    SELECT * FROM ({GROUPS}) AS groups WHERE NOT EXISTS (
        SELECT 1 FROM {OF_LIVING} WHERE codes.workflow = groups.workflow AND codes.version = groups.version
            AND position(',' || codes.code || ',' IN groups.refused) = 0
    )
"""


def parked_runs(workflow: str | None = None, *, counted_max: int | None = None) -> str:
    """Return the query for the runs that are parked.

    Args:
        workflow: how the statement calls the one that they are to be of.
        counted_max: give only so many of those that the same codes have refused, and of the damaged.
    """
    limit = "" if counted_max is None else f"LIMIT {counted_max}"
    of_groups = "" if workflow is None else f"WHERE parked.workflow = {workflow}"
    of_damaged = "" if workflow is None else f"AND workflow = {workflow}"
    return f"""
        SELECT refused.run FROM ({_PARKED_GROUPS}) AS parked, LATERAL (
            SELECT run FROM runs
            WHERE {REFUSED} AND runs.workflow = parked.workflow AND runs.version = parked.version
                AND runs.refused = parked.refused AND runs.problem IS NULL
            {limit}
        ) AS refused {of_groups}
        UNION ALL
        (SELECT run FROM runs WHERE problem IS NOT NULL AND finished_at IS NULL {of_damaged} {limit})
    """


COUNT: Final = f"SELECT count(*) FROM ({parked_runs(counted_max=_COUNTED_MAX)}) AS parked"


def count_parked(asking: Asking, question: CountParked) -> int:
    """Return how many runs are parked."""
    return int(asking.only((COUNT, ()))[0].rows[0][0])


def list_refused_sets(asking: Asking, question: ListRefusedSets) -> tuple[RefusedSet, ...]:
    """Return by which sets of codes runs were refused."""
    return tuple(
        RefusedSet(workflow, version, frozenset(codes_in(refused)))
        for workflow, version, refused in asking.only((GROUPS, ()))[0].rows
    )
