"""Keys of runs that match a filter, in an order, each read from one index, as far as they are needed.

A list is merged from *streams*: keys in the order that is wanted. Of several parts of a filter that an index can serve,
the rarest is read, and the rest of the filter is asked of its runs. Where the index of that part has another order, its
runs are *gathered* and sorted, if they are few; else they are looked for among the first keys of that order, and only
then gathered. If there are too many for that as well, each run of that order is asked for the whole filter.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import attrs

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.filters import narrowed
from durable_trio.stores.questions import Order, RunFilter
from durable_trio.stores.sqlite.answers import parts
from durable_trio.stores.sqlite.answers.cells import Source
from durable_trio.stores.sqlite.answers.merging import (
    AT_ONCE,
    LAST,
    READ_OF_A_LOOK,
    SOURCES_MAX,
    Key,
    Piece,
    common,
    joined,
    key_of,
    ranges,
    within,
)
from durable_trio.stores.sqlite.answers.ordered import (
    BY_CREATION,
    OF_CHANGES,
    OF_END,
    WAYS,
    Ends,
    Way,
    ends_of,
    keys_of,
    place_of,
)
from durable_trio.stores.sqlite.answers.parts import OF_ID, OF_RETRYING, Part, few_runs, rarest_part, runs_of
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.parked import IS_PARKED
from durable_trio.stores.sqlite.tables import WITHOUT_END
from durable_trio.stores.statuses import is_none_of

__all__ = ["IS_SHOWN", "LAST", "LISTED", "MATCHING", "SLICE_RUNS", "conditions", "few_runs", "matching"]

# Runs that one slice looks at: some milliseconds.
SLICE_RUNS: Final = 4000
# Runs that are looked at together: one statement.
_RUNS_AT_ONCE: Final = 250
# Where they are all of one index, by so many times more from one statement to the next.
_GROWTH: Final = 8
# Sources that are read in one statement with a look at their runs; those of an order are as many as final statuses.
_SOURCES_OF_A_LOOK: Final = len(FINAL)
# Keys of an order among which the runs of a part are looked for: at first so many for each that is wanted.
_LOOKED_THROUGH_FIRST: Final = 16
_LOOKED_THROUGH_MAX: Final = SLICE_RUNS * READ_OF_A_LOOK

# The file is damaged, or was changed by another program.
OF_NO_END: Final = f"runs INDEXED BY runs_without_end WHERE status = ? AND {WITHOUT_END}"
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


def matching(
    connection: sqlite3.Connection, which: RunFilter, order: Order, *, limit: int, before: Key | None
) -> tuple[list[Key], Key | None]:
    """Return keys of runs that match, in order, and after which key to go on looking; ``None`` at the end.

    One call looks at no more than a slice. It gives fewer than ``limit`` keys if there are no more in that.
    """
    which = narrowed(which, order)
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

    def next_of(self, sources: Sequence[Source], before: Key | None, size: int, among: Source | None = None) -> Piece:
        """Look at the next runs of sources that are in this order, with sound keys only: so many, in one statement.

        Args:
            among: look only at those that a query has.
        """
        way = self.way
        order = f"ORDER BY {way.column} {way.direction}, run {way.direction}"
        sql, parameters = joined(within(sources, ranges(before, None, way.is_last_first, way.column)), way.column)
        end = self.connection.execute(f"{sql} {order} LIMIT 1 OFFSET ? + 0", (*parameters, size - 1)).fetchone()
        last = None if end is None else key_of(end)
        sql, values = joined(within(sources, ranges(before, last, way.is_last_first, way.column)), way.column)
        if among is None:
            # A look costs half of what it does where the keys come from here.
            return Piece(self._found(f"SELECT run FROM ({sql})", values), last, size // 2)
        # The limit keeps it one query, which is asked for each key: SQLite would put it into each source's.
        runs = f"SELECT run FROM ({sql} LIMIT ? + 0) WHERE run IN ({among.sql})"
        return Piece(self._found(runs, (*values, size, *among.parameters)), last, size // READ_OF_A_LOOK)

    def _found(self, runs: str, values: Sequence[Any]) -> list[Key]:
        rows = self.connection.execute(self.sql.format(runs=runs), (*values, *self.parameters)).fetchall()
        return sorted(map(key_of, rows), reverse=self.way.is_last_first)


# ---- keys ----------------------------------------------------------------------------------------------------------


def _keys(
    connection: sqlite3.Connection, which: RunFilter, order: Order, before: Key | None, limit: int, look: _Look
) -> list[int] | Iterator[Piece]:
    """Return the runs among which are all that match, if they must be gathered; else give their keys in order."""
    if which.run_id is not None:
        return runs_of(connection, [Source(OF_ID, (which.run_id,))])
    if order not in BY_CREATION:
        return _in_another_order(connection, which, order, before, limit, look)
    rarest = rarest_part(connection, which)
    if not rarest.is_by_creation:
        return runs_of(connection, rarest.sources)
    ends = ends_of(connection, order, which)
    if rarest.key_count >= parts.RARE_RUNS and not ends.are_any:
        return _common_keys(connection, rarest, order, before, limit, look)
    return _in_order(connection, rarest.sources, order, before, limit, look, ends=ends)


def _in_another_order(
    connection: sqlite3.Connection, which: RunFilter, order: Order, before: Key | None, limit: int, look: _Look
) -> list[int] | Iterator[Piece]:
    """As ``_keys``, in an order that only one index has: that of all runs."""
    of_end = order is Order.ENDED
    has_all = of_end and which.statuses is not None and FINAL.issubset(which.statuses)  # that are in the order at all
    rarest = rarest_part(connection, attrs.evolve(which, statuses=None) if has_all else which, is_gathered=True)
    if rarest.key_count < parts.RARE_RUNS:
        return runs_of(connection, rarest.sources)
    sources = [Source(OF_END, (status,)) for status in which.statuses or ()] if of_end else [Source(OF_CHANGES, ())]
    ends = ends_of(connection, order, which)
    if rarest.key_count >= parts.COMPARED_RUNS:
        return _in_order(connection, sources, order, before, limit, look, ends=ends)
    if ends.are_any or ends_of(connection, Order.NEWEST, which).are_any:
        return runs_of(connection, rarest.sources)
    return _looked_for(connection, rarest, sources, before, limit, look)


def _few_in_common(connection: sqlite3.Connection, rarest: Part) -> list[int] | None:
    """Return the runs that the rarest part has in common with the others; ``None`` if they are many or hard to tell."""
    found = list[Key]()
    before = None
    while len(found) < parts.RARE_RUNS and rarest.is_by_creation:
        piece = common(
            connection,
            rarest.sources,
            rarest.others,
            before,
            is_newest_first=False,
            size=AT_ONCE,
            limit=parts.RARE_RUNS,
        )
        if piece is None:
            return None
        found += piece.keys
        if piece.last is None:
            return [run for _, run in found]
        before = piece.last
    return None


def _looked_for(
    connection: sqlite3.Connection,
    rarest: Part,
    sources: Sequence[Source],
    before: Key | None,
    limit: int,
    look: _Look,
) -> Iterator[Piece]:
    """Look for the runs of a part among the next keys of an order, and gather them where too few are among those."""
    among = _among(connection, rarest)
    size = min(limit * _LOOKED_THROUGH_FIRST, _LOOKED_THROUGH_MAX)
    found_count = read_count = 0
    while True:
        piece = look.next_of(sources, before, size, among)
        yield piece
        if piece.last is None:
            return
        before = piece.last
        read_count += size
        found_count += len(piece.keys)
        # As many keys again as will have the rest, if runs come as they did, and half as many more.
        size = 3 * read_count * (limit - found_count) // (2 * max(1, found_count))
        if found_count == 0 or size > _LOOKED_THROUGH_MAX:
            break
    few = _few_in_common(connection, rarest)
    gathered = runs_of(connection, rarest.sources) if few is None else few
    yield Piece([key for key in look.at(gathered) if look.way.is_beyond(key, before)], None, len(gathered))


def _among(connection: sqlite3.Connection, part: Part) -> Source:
    """Return a query for the runs of a part."""
    if len(part.sources) > SOURCES_MAX:
        return Source(LISTED, (json.dumps(runs_of(connection, part.sources)),))
    sql, parameters = joined(part.sources, "run")
    return Source(f"SELECT run FROM ({sql})", tuple(parameters))


def _common_keys(
    connection: sqlite3.Connection, rarest: Part, order: Order, before: Key | None, limit: int, look: _Look
) -> Iterator[Piece]:
    """Give the keys that the rarest part has in common with the others; all of its own where that costs less."""
    size = _RUNS_AT_ONCE
    while piece := common(
        connection,
        rarest.sources,
        rarest.others,
        before,
        is_newest_first=WAYS[order].is_last_first,
        size=size,
        limit=max(limit, _RUNS_AT_ONCE),
    ):
        yield piece._replace(keys=look.at([run for _, run in piece.keys]))
        if piece.last is None:
            return
        before, size = piece.last, min(size * _GROWTH, AT_ONCE)
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
    if 0 < len(sources) <= _SOURCES_OF_A_LOOK and not ends.are_any:
        size = limit
        while True:
            piece = look.next_of(sources, before, size)
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


# ---- the rest of a filter ------------------------------------------------------------------------------------------


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
