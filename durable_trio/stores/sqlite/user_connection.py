"""The connection that user functions get inside a transaction step, and what it refuses.

It is in the middle of the store's own transaction: whatever would end that transaction, reach another database, or
touch the engine's tables is denied when the statement is compiled. A trigger is compiled with what sets it off: so that
is tried when the trigger is created, or it would deny every later write to its table. Statements are not cached on this
connection, so that none compiled for the store itself escapes the check. It guards against mistakes, not against
malice: the function runs in this very process.

A connection is used again only if nothing of a function is left in it: no temporary object, nothing registered, no
setting changed, and nobody who still has it and could write into the transaction of another run. A new one costs as
much as several transactions that leave nothing.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, NoReturn, Self

from durable_trio.stores.sqlite.library import AUTH, code_of, is_of_the_store, note_errno, sqlite3
from durable_trio.stores.sqlite.tables import TABLES

__all__ = ["Use", "UserConnection"]

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
_CREATES_TRIGGER: Final = frozenset({_CREATE_TEMP_TRIGGER, _CREATE_TRIGGER})
_NEVER: Final = frozenset({_TRANSACTION, _ATTACH, _DETACH})

# Methods that would end the transaction or the guard, wait for the transaction's end, or change the database below it.
_REFUSED: Final = frozenset(
    {"backup", "close", "commit", "deserialize", "executescript", "rollback", "set_authorizer", "set_progress_handler"}
)
# Methods that leave nothing in a connection. All others may, also those that a future version of Python will have.
_PASSING: Final = frozenset({"cursor", "execute", "executemany", "getlimit", "interrupt", "iterdump"})
_BLOBS: Final = frozenset({"blobopen", "open_blob"})


class Use:
    """One function's use of a connection: its thread, its time, what it has opened, and what SQLite has told it."""

    def __init__(self, seconds_max: float) -> None:
        self.is_over = False
        #: What SQLite has said first that is the store's affair, whatever the function has made of it.
        self.fault: sqlite3.Error | None = None
        #: Something was registered, or is there in the temporary database.
        self.has_left_something = False
        #: Triggers that were created, with their tables, and are not looked at yet.
        self.triggers: list[tuple[str, str]] = []
        #: The trigger or view in which something was denied last.
        self.denied_in: str | None = None
        self.opened: weakref.WeakSet[Any] = weakref.WeakSet()
        self._thread = threading.get_ident()
        self._deadline = time.monotonic() + seconds_max

    @property
    def is_late(self) -> bool:
        """Whether the function has taken too long, even if it has swallowed the interrupt."""
        return time.monotonic() > self._deadline

    def call(self, fn: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call into SQLite and note what it says: the function may swallow an error, or raise it as another."""
        if self.is_over or threading.get_ident() != self._thread:
            raise sqlite3.ProgrammingError(
                "the connection of a transaction step belongs to its function, in its thread and until it returns"
            )
        try:
            return fn(*arguments, **options)
        except sqlite3.Error as error:
            if is_of_the_store(error):
                note_errno(error)
                self.fault = self.fault or error
            elif code_of(error) == AUTH:
                if self.denied_in is not None:
                    error.add_note(f"It is {self.denied_in!r} that was set off, a trigger or a view.")
                error.add_note(
                    "Inside a transaction step there is no commit, rollback, attach or pragma, and the tables of the "
                    "engine cannot be written."
                )
            raise


class UserCursor(sqlite3.Cursor):
    """A cursor that ends with the function."""

    def __init__(self, connection: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(connection, *arguments, **options)
        self._use: Use = connection.use
        self._use.opened.add(self)

    def execute(self, *arguments: Any, **options: Any) -> Self:
        """Run a statement."""
        self._use.call(super().execute, *arguments, **options)
        if self._use.triggers:
            connection: Any = self.connection
            connection.check_triggers(self._use)
        return self

    def executemany(self, *arguments: Any, **options: Any) -> Self:
        """Run a statement for each of some rows."""
        self._use.call(super().executemany, *arguments, **options)
        return self

    def executescript(self, _script: str, /) -> NoReturn:
        """Refuse: it would commit first."""
        _refuse("executescript()")

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._use.call(super().fetchone)

    def fetchmany(self, *arguments: Any, **options: Any) -> Any:
        """Return the next rows."""
        return self._use.call(super().fetchmany, *arguments, **options)

    def fetchall(self) -> Any:
        """Return all rows that are left."""
        return self._use.call(super().fetchall)

    def __next__(self) -> Any:
        return self._use.call(super().__next__)


class UserBlob:
    """A value opened as a file, which ends with the function."""

    def __init__(self, use: Use, blob: Any) -> None:
        self._use = use
        self._blob = blob
        use.opened.add(self)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._blob, name)
        return lambda *arguments: self._use.call(method, *arguments)

    def __len__(self) -> int:
        return len(self._blob)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._blob)

    def __getitem__(self, index: Any) -> Any:
        return self._use.call(self._blob.__getitem__, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._use.call(self._blob.__setitem__, index, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it. What was written in vain may show only now."""
        self._blob.close()


class UserConnection(sqlite3.Connection):
    """A connection in a transaction that its user may neither end nor leave (module docstring)."""

    #: The function that has it now.
    use: Use | None = None
    _thread: int | None = None
    _is_spent = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if self.use is not None:
            _refuse("__init__()")
        super().__init__(*arguments, **options)

    # ---- for the store -------------------------------------------------------------------------------------------

    def allow_all(self) -> None:
        """Allow everything, for the store itself in this thread."""
        self._thread = threading.get_ident()
        super().set_authorizer(None)
        super().set_progress_handler(None, 0)

    def lend(self, fn: Callable[[Any], Any], use: Use) -> Any:
        """Call a user's function with this connection, deny what it may not do, and interrupt it when it is late."""
        self.use = use
        super().set_authorizer(self._authorize)
        super().set_progress_handler(lambda: use.is_late, _INSTRUCTIONS_PER_LOOK)
        self._is_spent = True  # unless all goes well
        settings, references = self._settings(), _reference_count(self)
        try:
            result = fn(self)
            has_kept = references is None or _reference_count(self) != references
            self._is_spent = has_kept or use.has_left_something or self._settings() != settings
            return result
        finally:
            use.is_over = True
            self.use = None
            with suppress(sqlite3.Error):  # it was closed
                self.allow_all()
                for opened in list(use.opened):
                    _end(opened)  # an unfinished query would keep the database locked
                self.row_factory = None
                self.text_factory = str

    def deny_all(self) -> None:
        """Deny everything until it is used again."""
        self._thread = None
        super().set_authorizer(lambda *_: sqlite3.SQLITE_DENY)

    @property
    def is_spent(self) -> bool:
        """Whether the next function must not find this connection as the last one has left it."""
        return self._is_spent

    def _settings(self) -> object:
        # ``autocommit`` came with Python 3.12. What else the function may have set are attributes of its own.
        return self.isolation_level, getattr(self, "autocommit", None), len(vars(self))

    def _authorize(self, action: int, first: str | None, second: str | None, database: str | None, by: Any) -> int:
        table = first if action in _NAMED_FIRST else second if action in _NAMED_SECOND else None
        is_denied = (
            action in _NEVER
            or (action == _PRAGMA and (first or "").lower() not in _PRAGMAS)
            or (action == _FUNCTION and (second or "").lower() == "load_extension")
            or (table is not None and table.lower() in _TABLES)
            # A conflict clause or a full disk may have ended the transaction: nothing may be written outside of it.
            or not self.in_transaction
        )
        if is_denied and self.use is not None:
            self.use.denied_in = by
        is_new_trigger = action in _CREATES_TRIGGER and not is_denied
        if is_new_trigger and self.use is not None and first is not None and second is not None:
            self.use.triggers.append((first, second))
        if database == "temp" and self.use is not None:
            self.use.has_left_something = True
        return sqlite3.SQLITE_DENY if is_denied else sqlite3.SQLITE_OK

    def check_triggers(self, use: Use) -> None:
        """Look at new triggers; remove one that writes what a transaction step may not write.

        Raises:
            sqlite3.DatabaseError: there is one.
        """
        triggers, use.triggers = use.triggers, []
        for name, table in triggers:
            columns = [row[1] for row in self._try(f"PRAGMA table_xinfo({_quoted(table)})") if row[-1] == 0]
            values = ", ".join(f"{_quoted(column)} = NULL" for column in columns)
            for statement in ("DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES", f"UPDATE {{}} SET {values}"):
                try:
                    self._try(f"EXPLAIN {statement.format(_quoted(table))}")
                except sqlite3.Error as error:
                    if code_of(error) != AUTH:
                        continue  # a view without a trigger for that, say
                    self._try(f"DROP TRIGGER IF EXISTS {_quoted(name)}")  # the statement may have failed otherwise
                    raise sqlite3.DatabaseError(
                        f"trigger {name!r} on {table!r} writes a table of the engine, or does what a transaction step "
                        "may not do: whatever sets it off would be refused; it was not created"
                    ) from error

    def _try(self, statement: str) -> list[Any]:
        cursor = super().cursor()
        try:
            return cursor.execute(statement).fetchall()
        finally:
            cursor.close()

    # ---- for the function ----------------------------------------------------------------------------------------

    def cursor(self, factory: Any = UserCursor) -> Any:
        """Return a cursor that ends with the function."""
        if self._thread not in (None, threading.get_ident()):
            raise sqlite3.ProgrammingError("the connection of a transaction step belongs to its function's thread")
        if self.use is None:
            return super().cursor()
        if isinstance(factory, type) and not issubclass(factory, UserCursor):
            factory = type(factory.__name__, (UserCursor, factory), {})
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        """Run a statement with a cursor that ends with the function."""
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        """Run a statement for each of some rows."""
        return self.cursor().executemany(*arguments)

    def __enter__(self) -> NoReturn:
        """Refuse: leaving the block would commit."""
        _refuse("'with connection'")


def _checked(name: str) -> Callable[..., Any]:
    """Return a method of the connection for users for one of a plain connection that may not, or not only, pass."""
    method = getattr(sqlite3.Connection, name)

    def call(self: UserConnection, *arguments: Any, **options: Any) -> Any:
        use = self.use
        if use is None:
            return method(self, *arguments, **options)
        if name in _REFUSED:
            _refuse(f"{name}()")
        use.has_left_something = True
        result = use.call(method, self, *arguments, **options)
        return UserBlob(use, result) if name in _BLOBS else result

    call.__name__ = name
    return call


for _name in dir(sqlite3.Connection):
    _is_method = not _name.startswith("_") and type(getattr(sqlite3.Connection, _name)).__name__ == "method_descriptor"
    if _is_method and _name not in _PASSING:
        setattr(UserConnection, _name, _checked(_name))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _refuse(what: str) -> NoReturn:
    raise sqlite3.ProgrammingError(
        f"{what} is not possible inside a transaction step: its rows are committed with its checkpoint when the "
        "function returns, and rolled back when it raises"
    )


def _end(opened: Any) -> None:
    if isinstance(opened, UserBlob):
        opened.close()
    else:
        sqlite3.Cursor.close(opened)  # not a method of the user's, whose factory may have made it


def _reference_count(connection: UserConnection) -> int | None:
    """Return how many references there are to a connection, where Python can tell."""
    count = getattr(sys, "getrefcount", None)
    return None if count is None else int(count(connection))
