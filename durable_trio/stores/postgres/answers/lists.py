"""Lists of runs, in an order.

Runs that match are gathered by the rarest part of the filter if they are few, and sorted. Else they are read from an
index that has them in that order, as many as are wanted.
"""

from __future__ import annotations

from typing import Final

import attrs

from durable_trio.rows import RunRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.filters import (
    COMPARED_RUNS,
    IN_ORDER,
    Part,
    Values,
    condition,
    narrowed,
    rarest_part,
)
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.questions import ListRuns, Order, RunFilter

__all__ = ["GATHERED", "keys_of", "list_runs"]

# A part with fewer runs is gathered also where it could be read in order: those that match may be few of it.
_RARE_RUNS: Final = 2000

#: What is found of the runs of a part. The limit keeps it one look by number for each, whatever the planner expects.
GATHERED: Final = """
    SELECT found.* FROM (SELECT DISTINCT run FROM ({query}) AS part) AS part, LATERAL (
        SELECT {columns} FROM runs WHERE runs.run = part.run AND {which} LIMIT 1
    ) AS found
"""
_SORTED: Final = f"{GATHERED} ORDER BY place {{way}}, run {{way}} LIMIT {{limit}}"
_OF_CHANGES: Final = IN_ORDER.replace("created_at", "changed")
_OF_ENDS: Final = """
    SELECT place, run FROM unnest({statuses}) AS of_end (status), LATERAL (
        SELECT runs.finished_at AS place, run FROM runs
        WHERE runs.status = of_end.status AND runs.finished_at IS NOT NULL AND {which}
        ORDER BY place {way}, run {way} LIMIT {limit}
    ) AS last
    ORDER BY place {way}, run {way} LIMIT {limit}
"""
_COLUMNS: Final = {
    Order.NEWEST: "created_at",
    Order.OLDEST: "created_at",
    Order.CHANGED: "changed",
    Order.ENDED: "finished_at",
}
_BY_CREATION: Final = frozenset({Order.NEWEST, Order.OLDEST})
# By their keys first: rows have payloads.
_ROWS: Final = """
    WITH page AS MATERIALIZED ({keys})
    SELECT {columns} FROM page JOIN runs USING (run) ORDER BY page.place {way}, run {way}
"""


def list_runs(asking: Asking, question: ListRuns) -> tuple[RunRow, ...]:
    """Return runs, in an order."""
    if question.limit <= 0:
        return ()
    keys, values = keys_of(asking, question)
    text = _ROWS.format(keys=keys, columns=RUN_COLUMNS, way=_way(question.order))
    return tuple(map(run_from, asking.execute(text, *values.given).rows))


def keys_of(asking: Asking, question: ListRuns) -> tuple[str, Values]:
    """Return the query for the keys of runs, by what an index is asked best, and its values."""
    order, way = question.order, _way(question.order)
    which = narrowed(question.which, order)
    query, values = _source(order, _rarest(asking, which, order), which)
    terms = condition(which, values) + _behind(question, values)
    return query.format(
        which=terms, way=way, limit=values.number(question.limit), columns=f"runs.{_COLUMNS[order]} AS place, run"
    ), values


def _rarest(asking: Asking, which: RunFilter, order: Order) -> Part | None:
    """Return the rarest part of a filter; that runs have ended at all, in the order of their ends, is none."""
    if order is Order.ENDED and which.statuses is not None and FINAL.issubset(which.statuses):
        which = attrs.evolve(which, statuses=None)
    return rarest_part(asking, which)


def _source(order: Order, part: Part | None, which: RunFilter) -> tuple[str, Values]:
    """Return the query that is to be completed, and the values that it has so far."""
    is_by_creation = order in _BY_CREATION
    if part is not None:
        in_order = part.in_order if is_by_creation else None
        if part.key_count < (COMPARED_RUNS if in_order is None else _RARE_RUNS):
            return _SORTED.replace("{query}", part.query), part.values
        if in_order is not None:
            return in_order
    values = Values()
    if order is Order.ENDED:
        return _OF_ENDS.replace("{statuses}", values.statuses(which.statuses or ())), values
    return _OF_CHANGES if order is Order.CHANGED else IN_ORDER, values


def _way(order: Order) -> str:
    return "ASC" if order is Order.OLDEST else "DESC"


def _behind(question: ListRuns, values: Values) -> str:
    """Return the condition that a run comes behind the last one of the page before."""
    if question.before is None:
        return ""
    place, run = question.before
    mark = ">" if question.order is Order.OLDEST else "<"
    column = _COLUMNS[question.order]
    return f" AND (runs.{column}, runs.run) {mark} ({values.number(int(place))}, {values.number(run)})"
