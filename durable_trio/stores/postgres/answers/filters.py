"""A filter of runs as a condition, and as parts that an index serves.

All runs that match are among those of each part. So where one is rare they are found by it, whatever the rest of the
filter is. Parts are counted to tell, up to where it does not matter any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Final

import attrs

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.postgres.answers.asking import Asking, text
from durable_trio.stores.postgres.answers.parked import parked_runs
from durable_trio.stores.postgres.parked import IS_PARKED
from durable_trio.stores.questions import Order, RunFilter

__all__ = ["COMPARED_RUNS", "IN_ORDER", "WORKFLOWS", "Part", "Values", "condition", "narrowed", "rarest_part"]

#: So far parts are counted.
COMPARED_RUNS: Final = 20_000

#: The workflows that any run is of, by a seek each.
WORKFLOWS: Final = """
    WITH RECURSIVE known (workflow) AS (
        (SELECT workflow FROM runs ORDER BY workflow LIMIT 1)
        UNION ALL
        SELECT (SELECT runs.workflow FROM runs WHERE runs.workflow > known.workflow ORDER BY workflow LIMIT 1)
        FROM known WHERE known.workflow IS NOT NULL
    )
    SELECT workflow FROM known WHERE workflow IS NOT NULL
"""
#: Keys of runs that match in the order of creation, from whatever index is best.
IN_ORDER: Final = """
    SELECT runs.created_at AS place, run FROM runs WHERE {which} ORDER BY place {way}, run {way} LIMIT {limit}
"""
# The same from the keys of a tag, or from each workflow and status.
_IN_ORDER_OF_TAG: Final = """
    SELECT tags.created_at AS place, run FROM tags JOIN runs USING (run) WHERE {term} AND {which}
    ORDER BY place {way}, run {way} LIMIT {limit}
"""
_IN_ORDER_OF_CELLS: Final = """
    SELECT place, run FROM {term}, LATERAL (
        SELECT runs.created_at AS place, run FROM runs
        WHERE runs.workflow = named.workflow AND runs.status = cell.status AND {which}
        ORDER BY place {way}, run {way} LIMIT {limit}
    ) AS first
    ORDER BY place {way}, run {way} LIMIT {limit}
"""
_DIGEST_BYTES: Final = 16  # of the value of a tag, as the tables have it
_UNOWNED: Final = "owner IS NULL AND wake_at IS NOT NULL"
_COUNT: Final = f"SELECT count(*) FROM (SELECT 1 FROM ({{query}}) AS part LIMIT {COMPARED_RUNS}) AS counted"


@attrs.define
class Values:
    """The values of a statement so far. Only fixed text goes into one: values have numbers."""

    given: list[Any] = attrs.Factory(list)

    def text(self, value: str) -> str:
        """Return how a text is called in the statement."""
        return self.add(text(value), "text")

    def number(self, value: int) -> str:
        """Return how a number is called in the statement."""
        return self.add(value, "bigint")

    def statuses(self, statuses: Iterable[RunStatus]) -> str:
        """Return how statuses are called in the statement: an array."""
        return self.add(f"{{{','.join(status.value for status in statuses)}}}", "text[]")

    def copy(self) -> Values:
        """Return the same values, to go on with in another statement."""
        return Values(list(self.given))

    def add(self, value: Any, type: str) -> str:
        """Return how a value of some type is called in the statement."""
        self.given.append(value)
        return f"${len(self.given)}::{type}"


def narrowed(which: RunFilter, order: Order) -> RunFilter:
    """Return a filter with the statuses that runs can have which match it: an index may serve them."""
    possible = set(RunStatus if which.statuses is None else which.statuses)
    if which.is_parked or which.is_retrying or which.overdue_at is not None:
        possible &= UNFINISHED
    if order is Order.ENDED:
        possible &= FINAL
    if len(possible) == len(RunStatus):
        return which
    return attrs.evolve(which, statuses=tuple(status for status in RunStatus if status in possible))


def condition(which: RunFilter, values: Values) -> str:
    """Return a filter as a condition on ``runs``. What is being removed or copied is in no list."""
    terms = ["runs.hidden_at IS NULL"]
    if which.run_id is not None:
        terms.append(f"runs.id = {values.text(which.run_id)}")
    if which.statuses is not None:
        terms.append(f"runs.status = ANY ({values.statuses(which.statuses)})")
    if which.workflow is not None:
        terms.append(f"runs.workflow = {values.text(which.workflow)}")
    for tag in which.tags:
        of_tag = _of_tag(tag, values)
        terms.append(
            f"EXISTS (SELECT 1 FROM tags WHERE {of_tag} AND tags.created_at = runs.created_at AND tags.run = runs.run)"
        )
    if which.queue is not None:
        terms.append(f"runs.queue = {values.text(which.queue)}")
    if which.parent_id is not None:
        terms.append(f"runs.parent_id = {values.text(which.parent_id)}")
    if which.is_parked:
        terms.append(IS_PARKED)
    if which.is_retrying:
        is_retrying = "EXISTS (SELECT 1 FROM waits WHERE waits.kind = 'retry' AND waits.run = runs.run)"
        terms.append(f"runs.finished_at IS NULL AND {is_retrying}")
    if which.overdue_at is not None:
        terms.append(f"{_UNOWNED} AND runs.wake_at <= {values.number(which.overdue_at)} AND NOT {IS_PARKED}")
    return " AND ".join(terms) + _created(which, values)


def _of_tag(tag: tuple[str, str], values: Values) -> str:
    key, value = tag
    digest = sha256(text(value).encode()).digest()[:_DIGEST_BYTES]
    return f"tags.key = {values.text(key)} AND tags.digest = {values.add(digest, 'bytea')}"


def _created(which: RunFilter, values: Values, table: str = "runs") -> str:
    terms = ""
    if which.created_after is not None:
        terms += f" AND {table}.created_at > {values.number(which.created_after)}"
    if which.created_before is not None:
        terms += f" AND {table}.created_at < {values.number(which.created_before)}"
    return terms


# ---- parts ---------------------------------------------------------------------------------------------------------


@attrs.define
class Part:
    """A query for runs among which are all that match, and its values.

    ``in_order``: another one, to be completed, that gives the keys of those that match in the order of creation, and
    the values that it has so far; ``None`` if no index has the part in that order.
    """

    query: str
    values: Values
    in_order: tuple[str, Values] | None = None
    key_count: int = COMPARED_RUNS  # as far as it was counted


def rarest_part(asking: Asking, which: RunFilter) -> Part | None:
    """Return the part of a filter with the fewest keys; ``None`` if no index serves it."""
    parts = list(_parts(which))
    if not parts:
        return None
    counts = asking.exchange(*((_COUNT.format(query=part.query), tuple(part.values.given)) for part in parts))
    for part, count in zip(parts, counts, strict=True):
        part.key_count = count.rows[0][0]
    return min(parts, key=lambda part: (part.key_count, part.in_order is None))


def _parts(which: RunFilter) -> Iterator[Part]:
    if which.run_id is not None:
        values = Values()
        yield Part(f"SELECT run FROM runs WHERE id = {values.text(which.run_id)}", values)
        return
    if which.workflow is not None or which.statuses is not None:
        yield _cells(which)
    for tag in which.tags:
        values = Values()
        term = _of_tag(tag, values)
        in_order = _IN_ORDER_OF_TAG.replace("{term}", term), values.copy()
        yield Part(f"SELECT run FROM tags WHERE {term}{_created(which, values, 'tags')}", values, in_order)
    for column, value in (("queue", which.queue), ("parent_id", which.parent_id)):
        if value is not None:
            values = Values()
            term = f"{column} = {values.text(value)}"
            query = f"SELECT run FROM runs WHERE {term}{_created(which, values)}"
            yield Part(query, values, (IN_ORDER, Values()))
    if which.is_parked:
        values = Values()
        yield Part(parked_runs(None if which.workflow is None else values.text(which.workflow)), values)
    if which.is_retrying:
        yield Part("SELECT run FROM waits WHERE kind = 'retry'", Values())
    if which.overdue_at is not None:
        yield _overdue(which, which.overdue_at)


def _cells(which: RunFilter) -> Part:
    values = Values()
    workflows = WORKFLOWS if which.workflow is None else f"SELECT {values.text(which.workflow)}"
    statuses = values.statuses(RunStatus if which.statuses is None else which.statuses)
    term = f"({workflows}) AS named (workflow), unnest({statuses}) AS cell (status)"
    in_order = _IN_ORDER_OF_CELLS.replace("{term}", term), values.copy()
    query = f"""
        SELECT run FROM {term}, LATERAL (
            SELECT run FROM runs
            WHERE runs.workflow = named.workflow AND runs.status = cell.status{_created(which, values)}
            LIMIT {COMPARED_RUNS}
        ) AS found
    """
    return Part(query, values, in_order)


def _overdue(which: RunFilter, at: int) -> Part:
    values = Values()
    term = f"{_UNOWNED} AND wake_at <= {values.number(at)}"
    if which.workflow is not None:
        term += f" AND workflow = {values.text(which.workflow)}"
    # Each is the condition of an index.
    query = " UNION ALL ".join(f"SELECT run FROM runs WHERE {term} AND {each}" for each in ("is_due", "NOT is_due"))
    return Part(query, values)
