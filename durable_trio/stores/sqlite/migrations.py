"""Migrations: from an empty file, or one of an earlier version, to today's schema.

sqlite-utils applies them, each once, and notes that in the file. It takes longer to import than all the rest of the
store, so this module is imported where there is something to migrate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlite_utils

from durable_trio.stores.sqlite import tables
from durable_trio.stores.sqlite.library import sqlite3

__all__ = ["MIGRATIONS", "migrate"]

MIGRATIONS: Final = sqlite_utils.Migrations("durable_trio")


def _version(version: int) -> Callable[[sqlite_utils.Database], None]:
    def apply(database: sqlite_utils.Database) -> None:
        for statement in tables.VERSIONS[version - 1]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")

    return apply


for _number in range(1, len(tables.VERSIONS) + 1):
    MIGRATIONS(name=str(_number))(_version(_number))


def migrate(connection: sqlite3.Connection, *, stop_before: str | None = None) -> None:
    """Bring the schema up to date, in one transaction. Call it in the write turn; done again it changes nothing.

    Args:
        stop_before: name of the first migration to leave out, to build a file of an older version.
    """
    database = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    connection.execute("BEGIN IMMEDIATE")
    try:
        MIGRATIONS.apply(database, stop_before=stop_before)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
