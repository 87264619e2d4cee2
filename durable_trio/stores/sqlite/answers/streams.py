"""Keys of runs that match a filter, in an order, each read from one index, as far as they are needed.

A list is merged from *streams*: keys in the order that is wanted. Of several parts of a filter that an index can serve,
the rarest is read, and the rest of the filter is asked of its runs. Where the index of that part has another order, its
runs are *gathered* and sorted, if they are not too many; else the stream is that of the order, and each of its runs is
asked for the whole filter.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.questions import Order, RunFilter
from durable_trio.stores.sqlite.answers.cells import (
    FIRST_WORKFLOW,
    NEXT_WORKFLOW,
    Cell,
    Source,
    cells,
    cells_of_workflow,
    count,
    stored,
    walk,
)
from durable_trio.stores.sqlite.answers.merging import AT_ONCE, LAST, Key, Piece, common, joined, key_of, ranges, within
from durable_trio.stores.sqlite.answers.ordered import (
    BY_CREATION,
    OF_ALL,
    OF_CHANGES,
    OF_END,
    OF_TAG,
    WAYS,
    Ends,
    Way,
    ends_of,
    keys_of,
    place_of,
)
from durable_trio.stores.sqlite.answers.parked import of_parked
from durable_trio.stores.sqlite.columns import status_from
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import IS_PARKED
from durable_trio.stores.sqlite.statuses import is_none_of
from durable_trio.stores.sqlite.tables import WITHOUT_END

__all__ = ["IS_SHOWN", "LAST", "LISTED", "MATCHING", "SLICE_RUNS", "conditions", "few_runs", "matching"]

# Runs that one slice looks at: some milliseconds.
SLICE_RUNS: Final = 4000
# Runs that are looked at together: one statement.
_RUNS_AT_ONCE: Final = 250
# Where they are all of one index, by so many times more from one statement to the next.
_GROWTH: Final = 8
# A part of a filter with fewer runs is rare: all of them can be looked at in one slice. If none is, they are counted
# further to find the rarest; beyond that it does not pay, neither to compare nor to gather.
_RARE_RUNS: Final = 2000
_COMPARED_RUNS: Final = 20_000
# Streams that are worth merging: each costs a seek.
_STREAMS_MAX: Final = 2000

# The file is damaged, or was changed by another program.
OF_NO_END: Final = f"runs INDEXED BY runs_without_end WHERE status = ? AND {WITHOUT_END}"
OF_QUEUE: Final = "runs INDEXED BY runs_of_queue WHERE queue = ?"
OF_PARENT: Final = "runs INDEXED BY runs_of_parent_id WHERE parent_id = ?"
OF_ID: Final = "runs WHERE id = ?"
# Unfinished ones in a state that no status tells.
OF_RETRYING: Final = "waits INDEXED BY waits_retrying WHERE kind = 'retry'"
OF_OVERDUE: Final = (
    "runs INDEXED BY runs_line WHERE workflow = CAST(? AS TEXT) AND owner IS NULL AND wake_at IS NOT NULL"
    " AND is_due = 1 AND wake_at <= ?",
    *(
        f"runs INDEXED BY runs_later WHERE workflow = CAST(? AS TEXT) AND (token > 0) = {begun} AND owner IS NULL"
        " AND wake_at IS NOT NULL AND is_due IS NOT 1 AND wake_at <= ?"
        for begun in (1, 0)
    ),
)
# By the index: the column itself stands behind the payloads.
IS_SHOWN: Final = "run NOT IN (SELECT run FROM runs INDEXED BY runs_hidden WHERE hidden_at IS NOT NULL)"
# Which of some runs match, without their payloads.
MATCHING: Final = f"""
    SELECT {{key}}, run FROM runs NOT INDEXED WHERE run IN ({{runs}}) AND {IS_SHOWN} AND {{which}}
"""
LISTED: Final = "SELECT value FROM json_each(?)"
HAS_TAG: Final = """
    EXISTS (SELECT 1 FROM tags WHERE key = ? AND value = ? AND created_at = runs.created_at AND run = runs.run)
"""
IS_UNFINISHED: Final = is_none_of(FINAL)
IS_RETRYING: Final = f"EXISTS (SELECT 1 FROM {OF_RETRYING} AND waits.run = runs.run)"


class _Part(NamedTuple):
    """A part of a filter that indexes can serve: its sources, and how many keys they have; counted up to a limit."""

    sources: Sequence[Source]
    key_count: int
    is_by_creation: bool  # its sources can be read in that order
    others: Sequence[Sequence[Source]] = ()  # parts that can be, too


def matching(
    connection: sqlite3.Connection, which: RunFilter, order: Order, *, limit: int, before: Key | None
) -> tuple[list[Key], Key | None]:
    """Return keys of runs that match, in order, and after which key to go on looking; ``None`` at the end.

    One call looks at no more than a slice. It gives fewer than ``limit`` keys if there are no more in that.
    """
    which = _narrowed(which, order)
    way = WAYS[order]
    before = None if before is None else place_of(connection, way.column, before)
    term, parameters = conditions(which, order)
    look = _Look(connection, MATCHING.format(which=term, key=way.column, runs="{runs}"), parameters, way)
    if limit <= 0:
        return [], None
    runs = _keys(connection, which, order, before, limit, look)
    if isinstance(runs, list):
        return [key for key in look.at(runs) if way.is_beyond(key, before)][:limit], None
    found, cost = list[Key](), 0
    for piece in runs:
        found += piece.keys
        if len(found) >= limit:
            return found[:limit], None
        cost += piece.cost
        if cost >= SLICE_RUNS and piece.last is not None:
            return found, piece.last
    return found, None


class _Look(NamedTuple):
    """Tells which of some runs match, in order."""

    connection: sqlite3.Connection
    sql: str
    parameters: list[Any]
    way: Way

    def at(self, runs: Sequence[int]) -> list[Key]:
        """Look at some runs, and return the keys of those that match."""
        return self._found(LISTED, (json.dumps(runs),)) if runs else []

    def next_of(self, source: Source, before: Key | None, size: int) -> Piece:
        """Look at the next runs of a source that is in this order, with sound keys only: so many, in one statement."""
        way = self.way
        sql, parameters = joined(within([source], ranges(before, None, way.is_last_first, way.column)), way.column)
        order = f"ORDER BY {way.column} {way.direction}, run {way.direction}"
        end = self.connection.execute(f"{sql} {order} LIMIT 1 OFFSET ? + 0", (*parameters, size - 1)).fetchone()
        last = None if end is None else key_of(end)
        parts = within([source], ranges(before, last, way.is_last_first, way.column))
        runs = " UNION ALL ".join(f"SELECT run FROM {part.sql}" for part in parts)
        # A look costs half of what it does where the keys come from here.
        return Piece(self._found(runs, [value for part in parts for value in part.parameters]), last, size // 2)

    def _found(self, runs: str, values: Sequence[Any]) -> list[Key]:
        rows = self.connection.execute(self.sql.format(runs=runs), (*values, *self.parameters)).fetchall()
        return sorted(map(key_of, rows), reverse=self.way.is_last_first)


def few_runs(connection: sqlite3.Connection, which: RunFilter) -> list[int] | None:
    """Return runs among which are all that match, if there are few of them; in no order."""
    if which.run_id is not None:
        return _runs_of(connection, [Source(OF_ID, (which.run_id,))])
    rarest = _rarest(connection, which, is_compared=False)
    return _runs_of(connection, rarest.sources) if rarest.key_count < _RARE_RUNS else None


def _narrowed(which: RunFilter, order: Order) -> RunFilter:
    """Return a filter with the statuses that runs can have which match it: an index may serve them."""
    possible = set(RunStatus if which.statuses is None else which.statuses)
    if which.is_parked or which.is_retrying or which.overdue_at is not None:
        possible &= UNFINISHED
    if order is Order.ENDED:
        possible &= FINAL
    if len(possible) == len(RunStatus):
        return which
    return attrs.evolve(which, statuses=tuple(status for status in RunStatus if status in possible))


# ---- keys ----------------------------------------------------------------------------------------------------------


def _keys(
    connection: sqlite3.Connection, which: RunFilter, order: Order, before: Key | None, limit: int, look: _Look
) -> list[int] | Iterator[Piece]:
    """Return the runs among which are all that match, if they must be gathered; else give their keys in order."""
    if which.run_id is not None:
        return _runs_of(connection, [Source(OF_ID, (which.run_id,))])
    if order in BY_CREATION:
        rarest = _rarest(connection, which)
        if not rarest.is_by_creation:
            return _runs_of(connection, rarest.sources)
        ends = ends_of(connection, order, which)
        if rarest.key_count >= _RARE_RUNS and not ends.are_any:
            return _common_keys(connection, rarest, order, before, limit, look)
        return _in_order(connection, rarest.sources, order, before, limit, look, ends=ends)
    rarest = _rarest(connection, which, is_gathered=True)
    if rarest.key_count < _COMPARED_RUNS:
        return _runs_of(connection, rarest.sources)
    if order is Order.ENDED:  # an end is there, but may be anything
        sources, ends = [Source(OF_END, (status,)) for status in which.statuses or ()], Ends(True, False)
    else:
        sources, ends = [Source(OF_CHANGES, ())], ends_of(connection, order, which)
    return _in_order(connection, sources, order, before, limit, look, ends=ends)


def _common_keys(
    connection: sqlite3.Connection, rarest: _Part, order: Order, before: Key | None, limit: int, look: _Look
) -> Iterator[Piece]:
    """Give the keys that the rarest part has in common with the others; all of its own where that costs less."""
    parts = [rarest.sources, *rarest.others]
    size = _RUNS_AT_ONCE
    is_newest_first = WAYS[order].is_last_first
    while piece := common(
        connection, parts, before, is_newest_first=is_newest_first, size=size, limit=max(limit, _RUNS_AT_ONCE)
    ):
        yield piece._replace(keys=look.at([run for _, run in piece.keys]))
        if piece.last is None:
            return
        before, size = piece.last, AT_ONCE
    yield from _in_order(connection, rarest.sources, order, before, limit, look, ends=Ends(False, False))


def _in_order(
    connection: sqlite3.Connection,
    sources: Sequence[Source],
    order: Order,
    before: Key | None,
    limit: int,
    look: _Look,
    *,
    ends: Ends,
) -> Iterator[Piece]:
    """Look at the runs of some sources: at first at as many as may be enough."""
    way = WAYS[order]
    if len(sources) == 1 and not ends.are_any:
        size = limit
        while True:
            piece = look.next_of(sources[0], before, size)
            yield piece
            if piece.last is None:
                return
            before, size = piece.last, min(size * _GROWTH, max(size, AT_ONCE))
    streams = [keys_of(connection, source, way, before, ends) for source in sources]
    keys = heapq.merge(*streams, reverse=way.is_last_first)
    size = limit
    while part := list(islice(keys, size)):
        yield Piece(look.at([run for _, run in part]), part[-1], len(part))
        size = _RUNS_AT_ONCE


def _runs_of(connection: sqlite3.Connection, sources: Sequence[Source]) -> list[int]:
    found: set[int] = set()
    for sql, parameters in sources:
        found.update(run for (run,) in connection.execute(f"SELECT run FROM {sql}", parameters))
    return list(found)


# ---- parts of a filter ---------------------------------------------------------------------------------------------


def _rarest(
    connection: sqlite3.Connection, which: RunFilter, *, is_compared: bool = True, is_gathered: bool = False
) -> _Part:
    """Return the rarest part of a filter that indexes can serve; all runs, if there is none.

    Args:
        is_compared: whether a part that can only be gathered may be as large as those that are compared, else rare.
        is_gathered: whether any part is to be gathered, so that it must be known how large it is.
    """
    by_creation = [(part, True) for part in _parts_by_creation(connection, which)]
    others = [(part, False) for part in _other_parts(connection, which)]
    rarest = _Part(by_creation[0][0], _COMPARED_RUNS, is_by_creation=True)
    if is_gathered and which == RunFilter():
        return rarest
    for limit in (_RARE_RUNS, _COMPARED_RUNS):
        counted = [
            _Part(part, count(connection, part, limit), is_sorted) for part, is_sorted in (*by_creation, *others)
        ]
        rarest = min(
            (part for part in counted if part.is_by_creation or part.key_count < limit),
            key=lambda part: (part.key_count, not part.is_by_creation),
        )
        if rarest.key_count < limit or not is_compared or (len(counted) == 1 and not is_gathered):
            break
    return rarest._replace(others=[part for part, _ in by_creation if part is not rarest.sources])


def _parts_by_creation(connection: sqlite3.Connection, which: RunFilter) -> list[list[Source]]:
    found: list[list[Source]] = []
    if which.statuses is not None or which.workflow is not None:
        some = list(islice(_cells_of(connection, which), _STREAMS_MAX + 1))
        if len(some) <= _STREAMS_MAX:
            found.append([cell.source for cell in some])
    found += ([Source(OF_TAG, tag)] for tag in which.tags)
    if which.queue is not None:
        found.append([Source(OF_QUEUE, (which.queue,))])
    if which.parent_id is not None:
        found.append([Source(OF_PARENT, (which.parent_id,))])
    return [
        [Source(*_created(source.sql, source.parameters, which)) for source in sources]
        for sources in found or [[Source(OF_ALL, ())]]
    ]


def _other_parts(connection: sqlite3.Connection, which: RunFilter) -> list[list[Source]]:
    """Return parts whose indexes have an order of their own."""
    found: list[list[Source]] = []
    if which.is_parked:
        found.append(of_parked(connection, which.workflow))
    if which.is_retrying:
        found.append([Source(OF_RETRYING, ())])
    if which.overdue_at is not None:
        workflows = _workflows(connection) if which.workflow is None else [which.workflow]
        found.append([Source(sql, (name, which.overdue_at)) for name in workflows for sql in OF_OVERDUE])
    return found


def _workflows(connection: sqlite3.Connection) -> Iterator[str | bytes]:
    for name in walk(connection, FIRST_WORKFLOW, NEXT_WORKFLOW):
        if isinstance(name, str):
            yield stored(name)


def _cells_of(connection: sqlite3.Connection, which: RunFilter) -> Iterator[Cell]:
    found = cells(connection) if which.workflow is None else cells_of_workflow(connection, which.workflow)
    statuses = which.statuses
    # The statuses of runs without a workflow are looked at one by one.
    return (cell for cell in found if statuses is None or cell.workflow is None or status_from(cell.status) in statuses)


def _created(sql: str, parameters: tuple[Any, ...], which: RunFilter) -> tuple[str, tuple[Any, ...]]:
    if which.created_after is not None:
        sql, parameters = f"{sql} AND created_at > ?", (*parameters, which.created_after)
    if which.created_before is not None:
        sql, parameters = f"{sql} AND created_at < ?", (*parameters, which.created_before)
    return sql, parameters


def conditions(which: RunFilter, order: Order = Order.NEWEST) -> tuple[str, list[Any]]:
    """Return a filter as a condition on ``runs``, and its parameters. Only fixed text goes into the statement."""
    terms: list[str] = []
    parameters: list[Any] = []

    def add(term: str, *given: Any) -> None:
        terms.append(term)
        parameters.extend(given)

    if which.run_id is not None:
        add("id = ?", which.run_id)
    if which.statuses is not None:
        # One that cannot be read counts as suspended (``status_from``).
        is_damage = RunStatus.SUSPENDED in which.statuses
        named = [status.value for status in RunStatus if (status in which.statuses) is not is_damage]
        marks = ", ".join("?" * len(named))
        add(f"coalesce(status NOT IN ({marks}), true)" if is_damage else f"status IN ({marks})", *named)
    if which.workflow is not None:
        add("workflow = ?", which.workflow)
    for key, value in which.tags:
        add(HAS_TAG, key, value)
    if which.queue is not None:
        add("queue = ?", which.queue)
    if which.parent_id is not None:
        add("parent_id = ?", which.parent_id)
    if which.created_after is not None:
        add("created_at > ?", which.created_after)
    if which.created_before is not None:
        add("created_at < ?", which.created_before)
    if which.is_parked:
        add(IS_PARKED)
    if which.is_retrying:
        add(f"{IS_UNFINISHED} AND {IS_RETRYING}")
    if which.overdue_at is not None:
        add(f"owner IS NULL AND wake_at <= ? AND NOT ({IS_PARKED})", which.overdue_at)
    if order is Order.ENDED:
        add("finished_at IS NOT NULL")
    return " AND ".join(terms) or "true", parameters
