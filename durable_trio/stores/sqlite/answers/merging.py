"""Keys of runs that several parts of a filter have in common, a piece at a time, without a look at the runs.

Where no part is rare, and few runs match all, the runs of the rarest would all be looked at. But the indexes of parts
that are in order of creation give keys in the same order, so SQLite can merge them, and many keys are read in the time
of a look at one run. What has far more keys than the rarest may be told by its opposite: most runs are completed, so
those that are not are few. A piece is bounded, so that no transaction is long: where both sides have far more keys than
the rarest, the merge does not pay, and is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from durable_trio.stores.sqlite.answers.cells import Source, count
from durable_trio.stores.sqlite.layout import NO_INTEGER
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "AT_ONCE",
    "LAST",
    "READ_OF_A_LOOK",
    "SOURCES_MAX",
    "Key",
    "Keys",
    "Piece",
    "common",
    "joined",
    "key_of",
    "ranges",
    "within",
]

#: Keys of the rarest part that are merged with others at once: some milliseconds.
AT_ONCE: Final = 5000
# So many keys of others may stand beside one of the rarest; counted in steps, as the last ones are for nothing.
_FOR_ONE: Final = (1, 4, 8)
#: So many keys are read from indexes while one run is looked at.
READ_OF_A_LOOK: Final = 16
# Sources of a part that are worth merging in a statement.
_INSIDE_MAX: Final = 8
#: Those outside a part may be more: there are few keys in each, where this side is taken.
SOURCES_MAX: Final = 24
LAST: Final = 2**63 - 1

Key = tuple[float, int]  # by what runs are ordered, run; no integer only where the file is damaged


class Keys(NamedTuple):
    """The keys of a part of a filter, and those of all other runs; ``None`` if these are not known, or in many places.

    Of few runs, those that are inside may be found by either: they are among the one, or not among the other.
    """

    inside: Sequence[Source]
    outside: Sequence[Source] | None = None


class Piece(NamedTuple):
    """Keys that were found next; the key behind which to go on, ``None`` at the end; and the cost in looks at a run."""

    keys: Sequence[Key]
    last: Key | None
    cost: int


def common(
    connection: sqlite3.Connection,
    rarest: Sequence[Source],
    others: Sequence[Keys],
    before: Key | None,
    *,
    is_newest_first: bool,
    size: int,
    limit: int,
) -> Piece | None:
    """Return which of the next keys of the rarest part are in others too; ``None`` if to look at its runs costs less.

    Another part is left out where it has far more keys than the rarest, and so have the runs outside it: what is not
    in it is still to be seen by a look.

    Args:
        rarest: its keys, as those of the others, in order of creation.
        size: so many keys of the rarest part are thought of.
        limit: so many are given at most.
    """
    if not others or not 0 < len(rarest) <= SOURCES_MAX:
        return None
    way = "DESC" if is_newest_first else "ASC"
    order = f"ORDER BY created_at {way}, run {way}"
    sql, parameters = joined(within(rarest, ranges(before, None, is_newest_first)))
    end = connection.execute(f"{sql} {order} LIMIT 1 OFFSET ? + 0", (*parameters, size - 1)).fetchone()
    last = None if end is None else key_of(end)
    behind = ranges(before, last, is_newest_first)
    sides = [side for keys in others if (side := _side(connection, keys, behind, size))]
    if not sides:
        return None
    keys: list[Key] = []
    for one in behind:
        sql, values = joined(within(rarest, [one]))
        for word, sources, _ in sides:
            term, given = joined(within(sources, [one]))
            sql, values = f"{sql} {word} SELECT * FROM ({term} {order})", [*values, *given]
        found = connection.execute(f"{sql} {order} LIMIT ? + 0", (*values, limit - len(keys))).fetchall()
        keys += map(key_of, found)
        if len(keys) == limit:
            last = keys[-1]
            break
    read_count = size + sum(side.read_count for side in sides)
    return Piece(keys, last, len(keys) + read_count // READ_OF_A_LOOK)


class _Side(NamedTuple):
    word: str
    sources: Sequence[Source]
    read_count: int


def _side(connection: sqlite3.Connection, keys: Keys, behind: Sequence[Source], size: int) -> _Side | None:
    """Return by which side a part is told with fewer keys to be read, of one range; ``None`` if both have too many."""
    sides = [("INTERSECT", keys.inside, _INSIDE_MAX), ("EXCEPT", keys.outside or (), SOURCES_MAX)]
    for times in _FOR_ONE:
        limit = size * times
        for word, sources, sources_max in sides:
            if 0 < len(sources) <= sources_max:
                read_count = count(connection, within(sources, behind), limit)
                if read_count < limit:
                    return _Side(word, sources, read_count)
    return None


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
