"""The SQLite store keeps the contract of every store, in a file and in memory."""

from __future__ import annotations

from pathlib import Path

from durable_trio.stores.base import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract import StoreContract


class TestFile(StoreContract):
    """In a file."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new file."""
        return SqliteStore(tmp_path / "runs.db", durability="normal")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store on that file."""
        return SqliteStore(tmp_path / "runs.db")


class TestMemory(StoreContract):
    """In memory."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in memory."""
        return SqliteStore(":memory:")
