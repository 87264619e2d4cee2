"""The user's tables: keys and values beside the runs, read and written in transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from durable_trio.errors import StoreError, StoreInUse

__all__ = ["Change", "Tables", "UserConnection", "write"]

#: What is written: a table, a key and its value; ``None`` removes it.
Change = tuple[str, Any, Any]


@attrs.define(eq=False)
class Tables:
    """What a transaction step is given. What it writes is written with its checkpoint, if nobody was faster.

    Args:
        read: returns a table as it is committed.
    """

    read: Callable[[str], Mapping[Any, Any]]
    #: What of the store's came out of it, also if the function has swallowed it.
    fault: StoreError | None = attrs.field(default=None, init=False)
    _seen: dict[tuple[str, Any], Any] = attrs.field(factory=dict, init=False)
    _written: dict[tuple[str, Any], Any] = attrs.field(factory=dict, init=False)

    def get(self, table: str, key: Any) -> Any:
        """Return the value of a key; ``None`` if it has none."""
        if (table, key) in self._written:
            return self._written[table, key]
        try:
            return self._seen.setdefault((table, key), self.read(table).get(key))
        except StoreError as error:
            self.fault = error
            raise

    def put(self, table: str, key: Any, value: Any) -> None:
        """Set the value of a key; ``None`` removes it."""
        self._written[table, key] = value

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was written."""
        return tuple((table, key, value) for (table, key), value in self._written.items())

    def is_outdated(self) -> bool:
        """Return whether somebody else has changed since what was read."""
        return any(self.read(table).get(key) != value for (table, key), value in self._seen.items())


class UserConnection(Tables):
    """What ``Store.connect`` gives: the same, and it commits itself.

    Args:
        write: commits changes, unless what was read is outdated: then it returns ``False``.
    """

    def __init__(self, read: Callable[[str], Mapping[Any, Any]], write: Callable[[Tables], bool]) -> None:
        super().__init__(read)
        self._write = write

    def commit(self) -> None:
        """Commit what was written.

        Raises:
            StoreInUse: somebody else has changed what was read; begin again.
        """
        is_written = not self._written or self._write(self)
        self.rollback()
        if not is_written:
            raise StoreInUse("somebody else has changed what was read; begin the transaction again")

    def rollback(self) -> None:
        """Forget what was written and read."""
        self._written.clear()
        self._seen.clear()

    def close(self) -> None:
        """Nothing is open."""
        self.rollback()


def write(tables: dict[str, dict[Any, Any]], changes: tuple[Change, ...]) -> None:
    """Write what a transaction has to say."""
    for name, key, value in changes:
        table = tables.setdefault(name, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
