"""Opening connections: what every connection to a store's database has in common.

Connections commit by themselves (``isolation_level=None``); transactions are begun and ended by statements of our
own, always ``BEGIN IMMEDIATE`` where something is written: a transaction that begins by reading and then writes can
fail with BUSY at once, without any waiting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Final, TypeVar

from durable_trio.stores.sqlite.layout import decode
from durable_trio.stores.sqlite.library import sqlite3

__all__ = [
    "BUSY_TIMEOUT_MS",
    "open_connection",
    "open_for_user",
    "reading_anything",
    "set_up_reader",
    "set_up_writer",
    "tells_json_from_harm",
]

AnyConnection = TypeVar("AnyConnection", bound=sqlite3.Connection)

# How long a program that is not of this library may hold SQLite's write lock before it is an error.
BUSY_TIMEOUT_MS: Final = 5000
# The log is cut back to this size when it is reset, so that one huge transaction does not keep its room for ever.
JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024
# Pages in memory per connection, in KiB (SQLite's sign for KiB is the minus).
CACHE_KIB: Final = -2_000


def open_connection(
    target: str, factory: type[AnyConnection], *, uri: bool = False, statements_max: int = 256
) -> AnyConnection:
    """Open a connection with the settings that all share.

    ``check_same_thread`` is off because the writer may move between its loop and its thread; the store's own lock
    keeps two threads from using a connection at once. Memory-mapped reads stay off: a damaged disk then gives an error
    rather than SIGBUS. A hostile file cannot call functions from its schema, as far as the library allows it.
    """
    connection = sqlite3.connect(
        target,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=statements_max,
        uri=uri,
        factory=factory,
    )
    try:
        _distrust_schema(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA mmap_size = 0").fetchall()
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = {CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_user(target: str, *, uri: bool) -> sqlite3.Connection:
    """Open a connection that is the user's own: it never moves the log, which is left to the write turn."""
    connection = sqlite3.connect(target, timeout=BUSY_TIMEOUT_MS / 1000, uri=uri, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    _distrust_schema(connection)
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    return connection


def _distrust_schema(connection: sqlite3.Connection) -> None:
    """Have nothing in a file's schema call functions that could do harm, where this SQLite can tell which these are.

    Older ones (3.40, for example) take JSON functions for such, which the triggers for tags call. There the schema is
    trusted, as by every program that says nothing: without extensions there is no function that could do harm.
    """
    if tells_json_from_harm():
        connection.execute("PRAGMA trusted_schema = OFF")


@cache
def tells_json_from_harm() -> bool:
    """Return whether a schema that is not trusted may call this SQLite's JSON functions."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("CREATE TABLE tried (text)")
        connection.execute(
            "CREATE TRIGGER trial AFTER INSERT ON tried WHEN json_valid(new.text) BEGIN "
            "SELECT count(*) FROM json_each(new.text); END"
        )
        try:
            connection.execute("INSERT INTO tried VALUES ('{}')")
        except sqlite3.OperationalError:
            return False
    return True


def set_up_writer(connection: sqlite3.Connection, durability: str) -> None:
    """Give a connection that writes its sync level; "memory" has nothing to sync and no log."""
    if durability == "memory":
        connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
        connection.execute("PRAGMA synchronous = OFF")
        return
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL" if durability == "normal" else "PRAGMA synchronous = FULL")


def set_up_reader(connection: sqlite3.Connection) -> None:
    """Make a connection read only, and keep it from moving the log."""
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()


@contextmanager
def reading_anything(connection: sqlite3.Connection) -> Iterator[None]:
    """Inside the block, text that is not UTF-8 is ``NotText``. Not always: each text would cost several times more."""
    connection.text_factory = decode
    try:
        yield
    finally:
        connection.text_factory = str
