"""Points in the order of all commits: that of the last change, and of the last entry of a mailbox, given out so far.

Runs that were changed in one commit have the same change number: then the run tells which come first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from durable_trio.stores.cursors import Cursor, CursorLost
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["START", "Point", "find_cursor", "known_point", "present_point", "read_point"]

_NUMBER_MAX: Final = 2**63 - 2
LAST_CHANGE: Final = "SELECT changed FROM change_counter"
LAST_MAILBOX_ID: Final = "SELECT seq FROM sqlite_sequence WHERE name = 'mailbox'"


class Point(NamedTuple):
    """Behind the change of that number to that run; and behind that entry."""

    changed: int
    run: int
    entry: int = 0

    @property
    def cursor(self) -> Cursor:
        """As text."""
        return Cursor("-".join(map(str, self if self.entry else self[:2])))


#: Before all that was ever committed.
START: Final = Point(0, 0)


def read_point(cursor: str) -> Point:
    """Return the point that a cursor stands for.

    Raises:
        ValueError: it stands for none.
    """
    parts = cursor.split("-")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{cursor!r} is no cursor of this store; one looks like '4711-12'")
    numbers = [int(part) for part in parts if len(part) < 20]
    if len(numbers) < len(parts) or max(numbers) > _NUMBER_MAX:
        raise ValueError(f"{cursor!r} is no cursor of this store: a number is too large")
    return Point(*numbers)


def known_point(connection: sqlite3.Connection, cursor: Cursor | None) -> Point:
    """Return the point of a cursor, if the store has come as far as that.

    Raises:
        CursorLost: it has not: it is another one, or was restored from a copy.
    """
    if cursor is None:
        return START
    point, present = read_point(cursor), present_point(connection)
    if point.changed > present.changed or point.entry > present.entry:
        raise CursorLost(
            f"the cursor {cursor!r} is of a later state than the store is in: it was restored from a copy, or is "
            "another one"
        )
    return point


def present_point(connection: sqlite3.Connection) -> Point:
    """Return the point behind all that is committed; the next change has at least that number."""
    entry = connection.execute(LAST_MAILBOX_ID).fetchone()
    changed = connection.execute(LAST_CHANGE).fetchone()[0]
    return Point(int(changed) + 1, 0, 0 if entry is None else int(entry[0]))


def find_cursor(connection: sqlite3.Connection, question: FindCursor) -> Cursor:
    """Return the point behind all that is committed."""
    return present_point(connection).cursor
