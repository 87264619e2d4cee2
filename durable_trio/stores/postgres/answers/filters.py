"""A filter of runs as a condition, and as parts that an index serves.

All runs that match are among those of each part. So where one is rare they are found by it, whatever the rest of the
filter is. Parts are counted to tell, up to where it does not matter any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.records import RunStatus
from durable_trio.stores.postgres.answers.asking import Asking, text
from durable_trio.stores.postgres.answers.parked import parked_runs
from durable_trio.stores.postgres.parked import IS_PARKED
from durable_trio.stores.questions import RunFilter

__all__ = [
    "COMPARED_RUNS",
    "CREATED",
    "OF_CELL",
    "WORKFLOWS",
    "Keys",
    "Page",
    "Part",
    "Values",
    "condition",
    "in_order",
    "rarest_part",
]

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
#: When a run was created, as the indexes have it that have runs in this order apart: of a workflow and a status, of a
#: queue, of a parent. What is asked by it cannot be read from the index of all runs.
CREATED: Final = "(runs.created_at + 0)"
OF_CELL: Final = "runs.workflow = named.workflow AND runs.status = cell.status"
# Is asked for each run that is looked at: of EXISTS the server makes a join, for which it looks at all runs.
_EACH: Final = "(SELECT 1 {} LIMIT 1) IS NOT NULL"
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

    def add(self, value: Any, type: str) -> str:
        """Return how a value of some type is called in the statement."""
        self.given.append(value)
        return f"${len(self.given)}::{type}"


class Keys(NamedTuple):
    """A query for ``place`` and ``run`` of runs, and its values."""

    query: str
    values: Values


@attrs.frozen
class Page:
    """What is wanted of an order: so many, behind a place and a run in it."""

    limit: int
    behind: tuple[int, int] | None
    is_last_first: bool

    def ordered(self, values: Values) -> str:
        """Return how a query ends that has them in that order."""
        way = "DESC" if self.is_last_first else "ASC"
        return f"ORDER BY place {way}, run {way} LIMIT {values.number(self.limit)}"

    def only_behind(self, values: Values, place: str, run: str) -> str:
        """Return the condition that these two columns are behind it."""
        if self.behind is None:
            return ""
        mark = "<" if self.is_last_first else ">"
        return f" AND ({place}, {run}) {mark} ({values.number(self.behind[0])}, {values.number(self.behind[1])})"


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
        terms.append(_EACH.format(f"FROM tags WHERE {of_tag} AND created_at = runs.created_at AND tags.run = runs.run"))
    if which.queue is not None:
        terms.append(f"runs.queue = {values.text(which.queue)}")
    if which.parent_id is not None:
        terms.append(f"runs.parent_id = {values.text(which.parent_id)}")
    if which.is_parked:
        terms.append(IS_PARKED)
    if which.is_retrying:
        is_retrying = _EACH.format("FROM waits WHERE waits.kind = 'retry' AND waits.run = runs.run")
        terms.append(f"runs.finished_at IS NULL AND {is_retrying}")
    if which.overdue_at is not None:
        terms.append(f"{_UNOWNED} AND runs.wake_at <= {values.number(which.overdue_at)} AND NOT {IS_PARKED}")
    return " AND ".join(terms) + _created(which, values)


def _of_tag(tag: tuple[str, str], values: Values) -> str:
    key, value = tag
    digest = sha256(text(value).encode()).digest()[:_DIGEST_BYTES]
    return f"tags.key = {values.text(key)} AND tags.digest = {values.add(digest, 'bytea')}"


def _created(which: RunFilter, values: Values, column: str = "runs.created_at") -> str:
    terms = ""
    if which.created_after is not None:
        terms += f" AND {column} > {values.number(which.created_after)}"
    if which.created_before is not None:
        terms += f" AND {column} < {values.number(which.created_before)}"
    return terms


# ---- parts ---------------------------------------------------------------------------------------------------------


@attrs.define
class Part:
    """A query for runs among which are all that match, and its values.

    ``in_order``: returns one that gives a page of those that match in the order of creation; ``None`` if no index has
    the part in that order.
    """

    query: str
    values: Values
    in_order: Callable[[Page], Keys] | None = None
    key_count: int = COMPARED_RUNS  # as far as it was counted


def rarest_part(asking: Asking, which: RunFilter, *, is_by_creation: bool = False) -> Part | None:
    """Return the part of a filter with the fewest keys; ``None`` if no index serves it.

    Args:
        is_by_creation: whether that order is wanted. Then there is nothing to be told of one that is all of the filter.
    """
    parts = list(_parts(which))
    if not parts:
        return None
    if is_by_creation and len(parts) == 1 and parts[0].in_order is not None:
        return parts[0]
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
        yield _of_cells(which)
    for tag in which.tags:
        values = Values()
        query = f"SELECT run FROM tags WHERE {_of_tag(tag, values)}{_created(which, values, 'tags.created_at')}"
        yield Part(query, values, partial(_in_order_of_tag, which, tag))
    for column, value in (("queue", which.queue), ("parent_id", which.parent_id)):
        if value is not None:
            values = Values()
            query = f"SELECT run FROM runs WHERE {column} = {values.text(value)}{_created(which, values, CREATED)}"
            yield Part(query, values, partial(in_order, which, place=CREATED))
    if which.created_after is not None or which.created_before is not None:
        values = Values()
        yield Part(f"SELECT run FROM runs WHERE true{_created(which, values)}", values, partial(in_order, which))
    if which.is_parked:
        values = Values()
        yield Part(parked_runs(None if which.workflow is None else values.text(which.workflow)), values)
    if which.is_retrying:
        yield Part("SELECT run FROM waits WHERE kind = 'retry'", Values())
    if which.overdue_at is not None:
        yield _overdue(which, which.overdue_at)


def _overdue(which: RunFilter, at: int) -> Part:
    values = Values()
    term = f"{_UNOWNED} AND wake_at <= {values.number(at)}"
    if which.workflow is not None:
        term += f" AND workflow = {values.text(which.workflow)}"
    # Each is the condition of an index.
    query = " UNION ALL ".join(f"SELECT run FROM runs WHERE {term} AND {each}" for each in ("is_due", "NOT is_due"))
    return Part(query, values)


def in_order(which: RunFilter, page: Page, place: str = "runs.created_at") -> Keys:
    """Return the query for runs that match in the order of a column, from whatever index has that order."""
    values = Values()
    terms = condition(which, values) + page.only_behind(values, place, "runs.run")
    if place == CREATED:
        terms += _created(which, values, CREATED)
    return Keys(f"SELECT {place} AS place, run FROM runs WHERE {terms} {page.ordered(values)}", values)


def _in_order_of_tag(which: RunFilter, tag: tuple[str, str], page: Page) -> Keys:
    values = Values()
    terms = _of_tag(tag, values) + _created(which, values, "tags.created_at")
    terms += page.only_behind(values, "tags.created_at", "tags.run")
    rest = condition(which, values)
    query = f"SELECT tags.created_at AS place, run FROM tags JOIN runs USING (run) WHERE {terms} AND {rest}"
    return Keys(f"{query} {page.ordered(values)}", values)


def _cells(which: RunFilter, values: Values) -> str:
    """Return the workflows and the statuses that runs may have which match."""
    workflows = WORKFLOWS if which.workflow is None else f"SELECT {values.text(which.workflow)}"
    statuses = values.statuses(RunStatus if which.statuses is None else which.statuses)
    return f"({workflows}) AS named (workflow), unnest({statuses}) AS cell (status)"


def _of_cells(which: RunFilter) -> Part:
    """Return the part of a workflow and statuses: a query for each status, for the server knows how many have it."""
    values = Values()
    workflows = WORKFLOWS if which.workflow is None else f"SELECT {values.text(which.workflow)}"
    created = _created(which, values, CREATED)
    queries = [
        f"""
            SELECT found.run FROM ({workflows}) AS named (workflow), LATERAL (
                SELECT run FROM runs
                WHERE runs.workflow = named.workflow AND runs.status = {values.text(status.value)}{created} OFFSET 0
            ) AS found
        """
        for status in (RunStatus if which.statuses is None else which.statuses)
    ]
    query = " UNION ALL ".join(queries)
    return Part(
        query or "SELECT run FROM runs WHERE false", values if query else Values(), partial(_in_order_of_cells, which)
    )


def _in_order_of_cells(which: RunFilter, page: Page) -> Keys:
    values = Values()
    cells = _cells(which, values)
    terms = OF_CELL + _created(which, values, CREATED) + page.only_behind(values, CREATED, "runs.run")
    rest = condition(attrs.evolve(which, workflow=None, statuses=None), values)
    found = f"SELECT {CREATED} AS place, run FROM runs WHERE {terms} AND {rest} {page.ordered(values)}"
    return Keys(f"SELECT place, run FROM {cells}, LATERAL ({found}) AS first {page.ordered(values)}", values)
