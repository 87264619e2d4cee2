"""The SQLite store keeps the contract of every store, in a file and in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract import StoreContract
from tests.stores.noticing import ExactNoticing

# Hundreds of databases are made here: where memory has a file system, their syncs need not wait for a disk.
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of its own for each test."""
    with tempfile.TemporaryDirectory(dir=_FOLDER) as name:
        yield Path(name)


class TestFile(ExactNoticing, StoreContract):
    """In a file."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new file."""
        return SqliteStore(tmp_path / "runs.db", durability="normal")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store on that file."""
        return SqliteStore(tmp_path / "runs.db")


class TestMemory(ExactNoticing, StoreContract):
    """In memory."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in memory."""
        return SqliteStore(":memory:")
