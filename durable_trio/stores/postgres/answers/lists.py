"""Lists of runs, in an order.

Runs that match are gathered by the rarest part of the filter if they are few, and sorted. Else they are read from an
index that has them in that order, as many as are wanted.
"""

from __future__ import annotations

from typing import Final

import attrs

from durable_trio.rows import RunRow
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.filters import narrowed
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.answers.filters import (
    COMPARED_RUNS,
    Keys,
    Page,
    Part,
    Values,
    condition,
    in_order,
    rarest_part,
)
from durable_trio.stores.postgres.rows import RUN_COLUMNS, run_from
from durable_trio.stores.questions import ListRuns, Order, RunFilter

__all__ = ["gathered", "keys_of", "list_runs"]

# A part with fewer runs is gathered also where it could be read in order: those that match may be few of it.
_RARE_RUNS: Final = 2000

_COLUMNS: Final = {
    Order.NEWEST: "created_at",
    Order.OLDEST: "created_at",
    Order.CHANGED: "changed",
    Order.ENDED: "finished_at",
}
_BY_CREATION: Final = frozenset({Order.NEWEST, Order.OLDEST})


def list_runs(asking: Asking, question: ListRuns) -> tuple[RunRow, ...]:
    """Return runs, in an order."""
    if question.limit <= 0:
        return ()
    keys, values = keys_of(asking, question)
    way = "ASC" if question.order is Order.OLDEST else "DESC"
    # By their keys first: rows have payloads.
    text = f"""
        WITH page AS MATERIALIZED ({keys})
        SELECT {RUN_COLUMNS} FROM page JOIN runs USING (run) ORDER BY page.place {way}, run {way}
    """
    return tuple(map(run_from, asking.execute(text, *values.given).rows))


def keys_of(asking: Asking, question: ListRuns) -> Keys:
    """Return the query for the keys of runs, by what an index is asked best."""
    order, column = question.order, _COLUMNS[question.order]
    which, before = narrowed(question.which, order), question.before
    behind = None if before is None else (int(before[0]), before[1])
    page = Page(question.limit, behind, is_last_first=order is not Order.OLDEST)
    part = _rarest(asking, which, order)
    if part is not None:
        read = part.in_order if order in _BY_CREATION else None
        if part.key_count < (COMPARED_RUNS if read is None else _RARE_RUNS):
            values = part.values
            terms = condition(which, values) + page.only_behind(values, f"runs.{column}", "runs.run")
            query = gathered(part, f"runs.{column} AS place, run", terms)
            return Keys(f"{query} {page.ordered(values)}", values)
        if read is not None:
            return read(page)
    return _in_order_of_ends(which, page) if order is Order.ENDED else in_order(which, page, f"runs.{column}")


def gathered(part: Part, columns: str, terms: str) -> str:
    """Return the query for what there is of the runs of a part that match.

    The limit keeps it one look by its number for each run, whatever the server expects.
    """
    return f"""
        SELECT found.* FROM (SELECT DISTINCT run FROM ({part.query}) AS part) AS part, LATERAL (
            SELECT {columns} FROM runs WHERE runs.run = part.run AND {terms} LIMIT 1
        ) AS found
    """


def _rarest(asking: Asking, which: RunFilter, order: Order) -> Part | None:
    """Return the rarest part of a filter; that runs have ended at all, in the order of their ends, is none."""
    if order is Order.ENDED and which.statuses is not None and FINAL.issubset(which.statuses):
        which = attrs.evolve(which, statuses=None)
    return rarest_part(asking, which, is_by_creation=order in _BY_CREATION)


def _in_order_of_ends(which: RunFilter, page: Page) -> Keys:
    values = Values()
    statuses = values.statuses(which.statuses or ())
    rest = condition(attrs.evolve(which, statuses=None), values)
    behind = page.only_behind(values, "runs.finished_at", "runs.run")
    found = f"""
        SELECT runs.finished_at AS place, run FROM runs
        WHERE runs.status = of_end.status AND runs.finished_at IS NOT NULL AND {rest}{behind} {page.ordered(values)}
    """
    query = f"SELECT place, run FROM unnest({statuses}) AS of_end (status), LATERAL ({found}) AS last"
    return Keys(f"{query} {page.ordered(values)}", values)
