"""New stores as copies of one: to make a schema step by step takes longer than most tests.

Where that is what is tested (``new_stores_are_made``), and in all programs of their own, it is made.
"""

from __future__ import annotations

import functools

from durable_trio.stores.sqlite.counters import IDENTIFY
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.migrations import migrate
from durable_trio.stores.sqlite.tables import APPLICATION_ID

__all__ = ["copy_or_migrate"]


@functools.cache
def _original() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection)
    return connection


def copy_or_migrate(connection: sqlite3.Connection) -> None:
    """Bring a schema up to date as ``migrate`` does; an empty file becomes a copy, with an identity of its own."""
    if connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]:
        migrate(connection)
        return
    _original().backup(connection)
    connection.execute("DELETE FROM store_identity")
    connection.execute(IDENTIFY)
