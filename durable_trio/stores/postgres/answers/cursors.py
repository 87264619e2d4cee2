"""Points in what is committed, where many write at once: what was visible then.

Commits have no order, and the numbers that are given out before a commit come to be seen in any order: whoever follows
a number misses what was given an earlier one and is committed later. A *snapshot* tells exactly which transactions were
to be seen: all below a number, but for those that were under way. What was committed between two snapshots is what the
later one sees and the earlier one does not; a row tells by which transaction it was last written (``stamp``).

A list that is read page by page goes on in the middle of that: from a snapshot, up to the one of its first page, behind
some row in the order of that page. What was committed since then is not in the latter, and comes after it.

Transactions get the same numbers again when the server has crashed, so a cursor is of one server, as long as it is up,
and of one database.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Final, Self

import attrs

from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.postgres.answers.asking import Asking
from durable_trio.stores.postgres.locks import POSTMASTER
from durable_trio.stores.postgres.wire import Answer

__all__ = ["NOTHING", "PRESENT", "START", "Point", "Present", "Snapshot", "find_cursor", "present_from", "read_point"]

#: What there is of the server and the database, and what is visible in this transaction.
PRESENT: Final = f"""
    SELECT left(encode(sha256(convert_to({POSTMASTER} || nonce, 'UTF8')), 'hex'), 12), pg_current_snapshot()::text
    FROM meta
"""

_EXAMPLE: Final = "p0123456789ab.4711.12.3"
_NUMBER_MAX: Final = 2**63 - 1
_NUMBER: Final = r"[1-9][0-9]{0,17}"
_SNAPSHOT: Final = rf"{_NUMBER}(?:\.{_NUMBER})*"
_CURSOR: Final = re.compile(
    rf"p(?P<era>[0-9a-f]{{12}})\.(?P<base>{_SNAPSHOT})(?:-(?P<target>{_SNAPSHOT})-(?P<behind>{_NUMBER}(?:\.{_NUMBER})?))?",
    re.ASCII,
)


@attrs.frozen
class Snapshot:
    """Which transactions are to be seen: those below ``end``, but for the ones that were ``under_way``, in order."""

    end: int
    under_way: tuple[int, ...] = ()

    @classmethod
    def of_server(cls, text: str) -> Self:
        """Return what the server writes as ``xmin:xmax:xip,…``."""
        _, end, under_way = text.split(":")
        return cls(int(end), tuple(map(int, under_way.split(","))) if under_way else ())

    @property
    def for_server(self) -> str:
        """As the server reads it."""
        first = self.under_way[0] if self.under_way else self.end
        return f"{first}:{self.end}:{','.join(map(str, self.under_way))}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``str`` has written: each number but the first is by how much it is more than the one before.

        Raises:
            ValueError: it is no snapshot.
        """
        *under_way, end = accumulate(map(int, text.split(".")))
        if end > _NUMBER_MAX:
            raise ValueError(text)
        return cls(end, tuple(under_way))

    def __str__(self) -> str:
        # A hundred transactions may be under way, and each change of a page has this in its cursor.
        numbers = (0, *self.under_way, self.end)
        return ".".join(str(later - each) for each, later in pairwise(numbers))


#: In which nothing is to be seen.
NOTHING: Final = Snapshot(1)


@attrs.frozen
class Point:
    """Behind all that is to be seen in ``base``; with ``target`` also behind what it shows as far as ``behind``.

    ``era``: of the server and the database. ``behind``: (stamp, run) of a page of changes, (id,) of a page of entries.
    """

    era: str
    base: Snapshot
    target: Snapshot | None = None
    behind: tuple[int, ...] = ()

    @property
    def cursor(self) -> Cursor:
        """As text."""
        return self.cursor_behind(*self.behind)

    @property
    def cursor_behind(self) -> Callable[..., Cursor]:
        """What gives the texts of points that differ only in ``behind``."""
        if self.target is None:
            whole = Cursor(f"p{self.era}.{self.base}")
            return lambda: whole
        snapshots = f"p{self.era}.{self.base}-{self.target}-"
        return lambda *behind: Cursor(snapshots + ".".join(map(str, behind)))


def read_point(cursor: str, parts: int | None = None) -> Point:
    """Return the point that a cursor stands for.

    Args:
        parts: of ``behind``, where there is a target: two for changes, one for entries; by default either.

    Raises:
        ValueError: it stands for none.
    """
    found = _CURSOR.fullmatch(cursor)
    try:
        if found is None:
            raise ValueError(cursor)
        base, target = Snapshot.parse(found["base"]), found["target"]
        if target is None:
            return Point(found["era"], base)
        point = Point(found["era"], base, Snapshot.parse(target), tuple(map(int, found["behind"].split("."))))
        if parts is not None and len(point.behind) != parts:
            raise ValueError(cursor)
    except ValueError:
        raise ValueError(f"{cursor!r} is no cursor of this store; one looks like {_EXAMPLE!r}") from None
    return point


#: Before all that was ever committed, of whatever server.
START: Final = Point("", NOTHING)


@attrs.frozen
class Present:
    """What was read as ``PRESENT``."""

    era: str
    snapshot: Snapshot

    @property
    def point(self) -> Point:
        """The point behind all that is committed."""
        return Point(self.era, self.snapshot)

    def must_know(self, point: Point) -> None:
        """Refuse a point that is of another server or database, or of this one before it has crashed.

        Raises:
            CursorLost: it is.
        """
        last = point.base if point.target is None else point.target
        if point.era != self.era or last.end > self.snapshot.end:
            raise CursorLost(
                f"the cursor {point.cursor!r} is of another database, or of this one before its server was started anew"
            )


def present_from(answer: Answer) -> Present:
    """Return what the answer to ``PRESENT`` tells."""
    ((era, snapshot),) = answer.rows
    return Present(era, Snapshot.of_server(snapshot))


def find_cursor(asking: Asking, question: FindCursor) -> Cursor:
    """Return the point behind all that is committed."""
    return present_from(asking.only((PRESENT, ()))[0]).point.cursor
