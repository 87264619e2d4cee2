"""Stores in a file that is new, as most tests of this folder want them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio.stores.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store."""
    store = SqliteStore(tmp_path / "runs.db")
    store.open()
    yield store
    store.close()


@pytest.fixture
def other(store: SqliteStore) -> Iterator[SqliteStore]:
    """Another store on the same file, as another process has it."""
    other = SqliteStore(store.path)
    other.open()
    yield other
    other.close()
