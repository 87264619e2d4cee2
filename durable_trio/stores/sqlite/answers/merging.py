"""Keys of runs that several parts of a filter have in common, a piece at a time, without a look at the runs.

Where no part is rare, and few runs match all, the runs of the rarest would all be looked at. But the indexes of parts
that are in order of creation give keys in the same order, so SQLite can merge them, and many keys are read in the time
of a look at one run. A piece is bounded, so that no transaction is long: where one part has far more keys than the
rarest, the merge does not pay, and is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from durable_trio.stores.sqlite.answers.cells import Source, count
from durable_trio.stores.sqlite.layout import NO_INTEGER
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["AT_ONCE", "LAST", "Key", "Piece", "common", "joined", "key_of", "ranges", "within"]

#: Keys of the rarest part that are merged with others at once: some milliseconds.
AT_ONCE: Final = 5000
# So many keys of others may stand beside one of the rarest.
_FOR_ONE_MAX: Final = 8
# So many keys are read from indexes while one run is looked at.
_READ_OF_A_LOOK: Final = 16
# Sources of a part that are worth merging in a statement.
_SOURCES_MAX: Final = 8
LAST: Final = 2**63 - 1

Key = tuple[float, int]  # by what runs are ordered, run; no integer only where the file is damaged


class Piece(NamedTuple):
    """Keys that were found next; the key behind which to go on, ``None`` at the end; and the cost in looks at a run."""

    keys: Sequence[Key]
    last: Key | None
    cost: int


def common(
    connection: sqlite3.Connection,
    parts: Sequence[Sequence[Source]],
    before: Key | None,
    *,
    is_newest_first: bool,
    size: int,
    limit: int,
) -> Piece | None:
    """Return which of the next keys of the first part all others have; ``None`` if to look at its runs costs less.

    Args:
        parts: all of them in order of creation, the rarest first.
        size: so many keys of the first part are thought of.
        limit: so many are given at most.
    """
    if len(parts) < 2 or not all(0 < len(sources) <= _SOURCES_MAX for sources in parts):
        return None
    way = "DESC" if is_newest_first else "ASC"
    order = f"ORDER BY created_at {way}, run {way}"
    sql, parameters = joined(within(parts[0], ranges(before, None, is_newest_first)))
    end = connection.execute(f"{sql} {order} LIMIT 1 OFFSET ? + 0", (*parameters, size - 1)).fetchone()
    last = None if end is None else key_of(end)
    behind = ranges(before, last, is_newest_first)
    read_max = size * _FOR_ONE_MAX
    read_count = sum(count(connection, within(sources, behind), read_max) for sources in parts[1:])
    if read_count >= read_max:
        return None
    keys: list[Key] = []
    # A compound is taken from its left: the one part that may have several sources comes first.
    merged = sorted(parts, key=len, reverse=True)
    for one in behind:
        terms, values = zip(*(joined(within(sources, [one])) for sources in merged), strict=True)
        sql = f"{' INTERSECT '.join(terms)} {order} LIMIT ? + 0"
        found = connection.execute(sql, (*chain.from_iterable(values), limit - len(keys))).fetchall()
        keys += map(key_of, found)
        if len(keys) == limit:
            last = keys[-1]
            break
    return Piece(keys, last, len(keys) + (size + read_count) // _READ_OF_A_LOOK)


def key_of(row: tuple[Any, int]) -> Key:
    """Return the key of a run. What is no number comes where it stands in an index, there in order of runs."""
    instant, run = row
    if type(instant) is int:
        return row
    if type(instant) is float:
        return (min(max(instant, NO_INTEGER), LAST), run)
    return (NO_INTEGER if instant is None else LAST, run)


def joined(sources: Sequence[Source], column: str = "created_at") -> tuple[str, list[Any]]:
    """Return the query for the keys of all sources, and its parameters."""
    sql = " UNION ALL ".join(f"SELECT {column}, run FROM {source.sql}" for source in sources)
    return sql, [value for source in sources for value in source.parameters]


def ranges(before: Key | None, last: Key | None, is_last_first: bool, column: str = "created_at") -> list[Source]:
    """Return conditions for the keys behind one and up to another, in order.

    Not as comparisons of rows: SQLite seeks by the first column only of those.
    """
    behind, up_to = ("<", ">") if is_last_first else (">", "<")
    if before is not None and last is not None and before[0] == last[0]:
        return [Source(f"{column} = ? AND run {behind} ? AND run {up_to}= ?", (*before, last[1]))]
    first = [] if before is None else [Source(f"{column} = ? AND run {behind} ?", before)]
    end = [] if last is None else [Source(f"{column} = ? AND run {up_to}= ?", last)]
    ends = [(behind, before), (up_to, last)]
    between = " AND ".join(f"{column} {mark} ?" for mark, key in ends if key is not None) or "true"
    return [*first, Source(between, tuple(key[0] for _, key in ends if key is not None)), *end]


def within(sources: Sequence[Source], conditions: Sequence[Source]) -> list[Source]:
    """Return each source with each of the conditions."""
    return [
        Source(f"{source.sql} AND {one.sql}", (*source.parameters, *one.parameters))
        for one in conditions
        for source in sources
    ]
