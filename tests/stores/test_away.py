"""A store that is cut off now and then keeps the contract of stores that are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.outages import OutageContract
from tests.stores.away import CutOffStore


class TestCutOffStore(OutageContract):
    """The store that tests of the engine cut off."""

    def make_store(self, tmp_path: Path) -> Store:
        """Return one that is reached."""
        return CutOffStore(SqliteStore(tmp_path / "runs.db", durability="normal"))

    @contextmanager
    def cut_off(self, store: Store, *, loses_reply: bool) -> Iterator[None]:
        """Cut it off inside the block."""
        assert isinstance(store, CutOffStore)
        store.is_away, store.loses_replies = True, loses_reply
        try:
            yield
        finally:
            store.is_away = False
