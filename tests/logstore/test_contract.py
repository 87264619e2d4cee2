"""The store of the tests keeps the contract of every store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from durable_trio.stores.contract import Store
from durable_trio.testing.store_contract import OutageContract, StoreContract
from tests.logstore import LogStore
from tests.stores.noticing import ExactNoticing


class TestLogStore(ExactNoticing, OutageContract, StoreContract):
    """In a log."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new file."""
        return LogStore(tmp_path / "runs.log")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store on that file."""
        return LogStore(tmp_path / "runs.log")

    @contextmanager
    def cut_off(self, store: Store, *, loses_reply: bool) -> Iterator[None]:
        """Have the store be away."""
        assert isinstance(store, LogStore)
        store.is_away, store.loses_replies = True, loses_reply
        yield
        store.is_away = store.loses_replies = False

    def make_table(self, connection: Any) -> None:
        """Tables are there once something is in them."""

    def add_row(self, connection: Any, amount: int) -> None:
        """Add a row, under the next number."""
        number = connection.get("account", "last") or 0
        connection.put("account", "last", number + 1)
        connection.put("account", number, amount)

    def count_rows(self, connection: Any) -> int:
        """Return how many rows there are."""
        return connection.get("account", "last") or 0
