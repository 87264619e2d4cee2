"""Keys of runs in an order, read from an index: sound ones, and those of a damaged file.

What is no number where an order has its numbers stands at an end of the index. There it has one key, whatever it is,
and comes in order of runs; so pages end, and each run is in one of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import attrs

from durable_trio.rules.run_life import FINAL
from durable_trio.stores.questions import Order, RunFilter
from durable_trio.stores.sqlite.answers.cells import Source
from durable_trio.stores.sqlite.answers.merging import LAST, Key, key_of
from durable_trio.stores.sqlite.layout import LAYOUTS, NO_INTEGER
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "BY_CREATION",
    "OF_ALL",
    "OF_CHANGES",
    "OF_END",
    "OF_TAG",
    "WAYS",
    "Ends",
    "Way",
    "ends_of",
    "keys_of",
    "place_of",
]

OF_END: Final = "runs INDEXED BY runs_finished WHERE status = ? AND finished_at IS NOT NULL"
OF_TAG: Final = "tags WHERE key = ? AND value = ?"
OF_ALL: Final = "runs INDEXED BY runs_created WHERE true"
OF_CHANGES: Final = "runs INDEXED BY runs_changed WHERE true"
STREAM: Final = "SELECT {key}, run FROM {source} ORDER BY {key} {way}, run {way}"
# What stands at an end of an index has one key, whatever it is, and comes in order of runs.
STREAM_OF_END: Final = "SELECT {key}, run FROM {source} AND {end} ORDER BY run {way}"
# What stands first and last in an index: where the file is damaged, it may be no number. (That a column is NULL which
# cannot be is seen by reading it; SQLite does not look for it.)
ENDS: Final = """
    SELECT
        (SELECT typeof({key}) = 'integer' FROM {source} ORDER BY {key} LIMIT 1),
        (SELECT typeof({key}) = 'integer' FROM {source} ORDER BY {key} DESC LIMIT 1),
        (SELECT typeof({key}) = 'null' FROM {source} ORDER BY {key} LIMIT 1)
"""
STORED_KEY: Final = "SELECT {key} FROM runs WHERE run = ?"


@attrs.frozen
class Way:
    """How an order is read: by which column, and which end comes first."""

    column: str
    index: str
    is_last_first: bool = True

    @property
    def direction(self) -> str:
        """The word for it in a statement."""
        return "DESC" if self.is_last_first else "ASC"

    def stream(self, source: str) -> str:
        """Return the statement for the keys of a source, whose index has that order."""
        return STREAM.format(source=source, key=self.column, way=self.direction)

    def stream_of_end(self, source: str, end: str) -> str:
        """Return the statement for the keys of a source that stand at an end of its index."""
        return STREAM_OF_END.format(source=source, end=end, key=self.column, way=self.direction)

    def is_beyond(self, key: Key, before: Key | None) -> bool:
        """Return whether a key comes after that of the page before."""
        return before is None or (key < before if self.is_last_first else key > before)


WAYS: Final = {
    Order.NEWEST: Way("created_at", OF_ALL),
    Order.OLDEST: Way("created_at", OF_ALL, is_last_first=False),
    Order.CHANGED: Way("changed", OF_CHANGES),
    Order.ENDED: Way("finished_at", OF_END),
}
BY_CREATION: Final = frozenset({Order.NEWEST, Order.OLDEST})


class Ends(NamedTuple):
    """Whether anything stands in an order that is no number; and whether NULL does, which must be looked for."""

    are_any: bool
    has_null: bool


def ends_of(connection: sqlite3.Connection, order: Order, which: RunFilter) -> Ends:
    """Return whether something stands in an order that is no number."""
    if order is Order.ENDED:
        sources = [Source(OF_END, (status,)) for status in FINAL]
    else:
        sources = [Source(WAYS[order].index, ())]
    if order in BY_CREATION:
        sources += [Source(OF_TAG, tag) for tag in which.tags]
    is_any = has_null = False
    for source, parameters in sources:
        sql = ENDS.format(source=source, key=WAYS[order].column)
        first, last, is_null = connection.execute(sql, parameters * 3).fetchone()
        is_any = is_any or first == 0 or last == 0
        has_null = has_null or is_null == 1
    return Ends(is_any, has_null)


def place_of(connection: sqlite3.Connection, column: str, before: Key) -> Key:
    """Return where a run stands; of one that is damaged, people have a stand-in for what it is ordered by."""
    row = connection.execute(STORED_KEY.format(key=column), (before[1],)).fetchone()
    layout = LAYOUTS["runs"].of(column).columns[0]
    if row is None or layout.fault(row[0]) is None:
        return before
    stand_in = layout.mended(row[0])
    return key_of((row[0], before[1])) if before[0] == (NO_INTEGER if stand_in is None else stand_in) else before


def keys_of(connection: sqlite3.Connection, source: Source, way: Way, before: Key | None, ends: Ends) -> Iterator[Key]:
    """Give the keys of a source in an order, behind one of them."""
    if not ends.are_any:
        return _stream(connection, source, way, before)
    return _stream_with_ends(connection, source, way, before, has_null=ends.has_null)


def _stream(connection: sqlite3.Connection, source: Source, way: Way, before: Key | None) -> Iterator[Key]:
    sql, parameters = source
    if before is not None:  # SQLite seeks by the first column only of a comparison of rows; so in two steps
        mark = "<" if way.is_last_first else ">"
        same = f"{sql} AND {way.column} = ? AND run {mark} ?"
        yield from map(key_of, connection.execute(way.stream(same), (*parameters, *before)))
        sql, parameters = f"{sql} AND {way.column} {mark} ?", (*parameters, before[0])
    yield from map(key_of, connection.execute(way.stream(sql), parameters))


def _stream_with_ends(
    connection: sqlite3.Connection, source: Source, way: Way, before: Key | None, *, has_null: bool
) -> Iterator[Key]:
    """As ``_stream``, where numbers stand between things that are none: the ends of an index, in order of runs."""
    # Of a column that cannot be NULL, SQLite may give what is NULL with what is below a number.
    low = [f"{way.column} <= {NO_INTEGER} AND typeof({way.column}) <> 'null'"]
    if has_null:
        low.append(f"typeof({way.column}) = 'null'")
    high = [f"{way.column} >= {LAST}"]
    is_between = f"{way.column} > {NO_INTEGER} AND {way.column} < {LAST}"
    between = Source(f"{source.sql} AND {is_between}", source.parameters)
    first, last = (high, low) if way.is_last_first else (low, high)
    place = None if before is None else 0 if NO_INTEGER < before[0] < LAST else -1 if before[0] == NO_INTEGER else 1
    is_at_first = place == (1 if way.is_last_first else -1)
    if place is None or is_at_first:
        yield from _end(connection, source, way, first, before)
    if place is None or is_at_first or place == 0:
        yield from _stream(connection, between, way, before if place == 0 else None)
        before = None
    yield from _end(connection, source, way, last, before)


def _end(
    connection: sqlite3.Connection, source: Source, way: Way, terms: Sequence[str], before: Key | None
) -> Iterator[Key]:
    """Give the keys at an end of an index, behind one of them."""
    sql, parameters = source
    if before is not None:
        sql, parameters = f"{sql} AND run {'<' if way.is_last_first else '>'} ?", (*parameters, before[1])
    found = (map(key_of, connection.execute(way.stream_of_end(sql, term), parameters)) for term in terms)
    yield from heapq.merge(*found, reverse=way.is_last_first)
