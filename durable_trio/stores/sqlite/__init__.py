"""The store in one SQLite file, or in memory."""

from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "sqlite3"]
