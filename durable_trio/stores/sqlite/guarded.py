"""The connection that user functions get inside a transaction step, and what it refuses.

It is in the middle of the store's own transaction: whatever would end that transaction, reach another database, or
touch the engine's tables is denied when the statement is compiled. Statements are not cached on this connection, so
that none compiled for the store itself escapes the check. It guards against mistakes, not against malice: the function
runs in this very process.
"""

from __future__ import annotations

import time
import weakref
from typing import Any, Final, NoReturn

from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.schema import TABLES

__all__ = ["GuardedConnection"]

# Steps of SQLite's machine between two looks at the clock: tens of microseconds.
_INSTRUCTIONS_PER_LOOK: Final = 1000

# Pragmas that only describe tables; sqlite-utils and pandas need them.
_PRAGMAS: Final = frozenset(
    {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
)
_TABLES: Final = TABLES | {"sqlite_sequence"}

# Action codes of SQLite's authorizer (sqlite.org/c3ref/c_alter_table.html), and which argument names the table.
_CREATE_INDEX, _CREATE_TABLE, _CREATE_TEMP_INDEX, _CREATE_TEMP_TABLE = 1, 2, 3, 4
_CREATE_TEMP_TRIGGER, _CREATE_TEMP_VIEW, _CREATE_TRIGGER, _CREATE_VIEW = 5, 6, 7, 8
_DELETE, _DROP_INDEX, _DROP_TABLE, _DROP_TEMP_INDEX, _DROP_TEMP_TABLE = 9, 10, 11, 12, 13
_DROP_TEMP_TRIGGER, _DROP_TEMP_VIEW, _DROP_TRIGGER, _DROP_VIEW, _INSERT, _PRAGMA = 14, 15, 16, 17, 18, 19
_TRANSACTION, _UPDATE, _ATTACH, _DETACH, _ALTER_TABLE = 22, 23, 24, 25, 26
_CREATE_VTABLE, _DROP_VTABLE, _FUNCTION = 29, 30, 31
_NAMED_FIRST: Final = frozenset(
    {
        _CREATE_TABLE, _CREATE_TEMP_TABLE, _CREATE_TEMP_VIEW, _CREATE_VIEW, _DELETE, _DROP_TABLE, _DROP_TEMP_TABLE,
        _DROP_TEMP_VIEW, _DROP_VIEW, _INSERT, _UPDATE, _CREATE_VTABLE, _DROP_VTABLE,
    }
)  # fmt: skip
_NAMED_SECOND: Final = frozenset(
    {
        _CREATE_INDEX, _CREATE_TEMP_INDEX, _CREATE_TEMP_TRIGGER, _CREATE_TRIGGER, _DROP_INDEX, _DROP_TEMP_INDEX,
        _DROP_TEMP_TRIGGER, _DROP_TRIGGER, _ALTER_TABLE,
    }
)  # fmt: skip
_NEVER: Final = frozenset({_TRANSACTION, _ATTACH, _DETACH})


class GuardedConnection(sqlite3.Connection):
    """A connection in a transaction that its user may neither end nor leave (module docstring)."""

    _deadline: float | None = None

    def guard(self, seconds_max: float) -> None:
        """Deny from now on what a user function may not do, and interrupt it after ``seconds_max``."""
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()
        self._deadline = time.monotonic() + seconds_max
        super().set_authorizer(self._authorize)
        super().set_progress_handler(self._look_at_clock, _INSTRUCTIONS_PER_LOOK)

    def allow_all(self) -> None:
        """Allow everything, for the store itself, and undo what a user function has set or left open."""
        super().set_authorizer(None)
        super().set_progress_handler(None, 0)
        if self._deadline is None:
            return
        for cursor in list(self._cursors):
            cursor.close()  # an unfinished query would keep the database locked
        self.row_factory = None
        self.text_factory = str

    def deny_all(self) -> None:
        """Deny everything: a user function may have kept the connection, and has no business with it any more.

        Call it after the end of the transaction: setting the isolation level commits.
        """
        self._deadline = None
        if self.isolation_level is not None:
            self.isolation_level = None
        super().set_authorizer(lambda *_: sqlite3.SQLITE_DENY)

    @property
    def is_late(self) -> bool:
        """Whether the user function has taken too long, even if it has swallowed the interrupt."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a cursor that ends with the function."""
        cursor = super().cursor(*arguments, **options)
        if self._deadline is not None:
            self._cursors.add(cursor)
        return cursor

    def execute(self, *arguments: Any) -> Any:
        """Run a statement with a cursor that ends with the function."""
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        """Run a statement for each of some rows."""
        return self.cursor().executemany(*arguments)

    def _look_at_clock(self) -> int:
        return self.is_late

    def _authorize(self, action: int, first: str | None, second: str | None, _database: Any, _by: Any) -> int:
        table = first if action in _NAMED_FIRST else second if action in _NAMED_SECOND else None
        is_denied = (
            action in _NEVER
            or (action == _PRAGMA and (first or "").lower() not in _PRAGMAS)
            or (action == _FUNCTION and (second or "").lower() == "load_extension")
            or (table is not None and table.lower() in _TABLES)
            # A conflict clause or a full disk may have ended the transaction: nothing may be written outside of it.
            or not self.in_transaction
        )
        return sqlite3.SQLITE_DENY if is_denied else sqlite3.SQLITE_OK

    def _refuse(self, what: str) -> NoReturn:
        raise sqlite3.ProgrammingError(
            f"{what} is not possible inside a transaction step: its rows are committed with its checkpoint when the "
            "function returns, and rolled back when it raises"
        )

    def commit(self) -> None:
        """Refuse: the store commits."""
        self._refuse("commit()")

    def rollback(self) -> None:
        """Refuse: the store rolls back when the function raises."""
        self._refuse("rollback()")

    def __enter__(self) -> NoReturn:
        """Refuse: leaving the block would commit."""
        self._refuse("'with connection'")

    def executescript(self, _script: str, /) -> NoReturn:
        """Refuse: it would commit first."""
        self._refuse("executescript()")

    def close(self) -> None:
        """Refuse while it is guarded: the connection belongs to the store."""
        if self._deadline is not None:
            self._refuse("close()")
        super().close()

    def set_authorizer(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Refuse: the store has set its own."""
        self._refuse("set_authorizer()")

    def set_progress_handler(self, *_arguments: Any, **_options: Any) -> NoReturn:
        """Refuse: the store has set its own."""
        self._refuse("set_progress_handler()")
