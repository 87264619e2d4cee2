"""Stores in a file that is new, as most tests of this folder want them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio.stores.sqlite import SqliteStore, opening
from durable_trio.stores.sqlite.migrations import migrate


@pytest.fixture
def new_stores_are_made(monkeypatch: pytest.MonkeyPatch, new_stores_are_copies: None) -> None:
    """The schema of a new store is made step by step, as for users."""
    monkeypatch.setattr(opening, "_migrate", migrate)


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
