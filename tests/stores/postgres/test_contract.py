"""The contract of a store on a PostgreSQL server, behind a proxy that cuts it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from durable_trio.stores.contract import Store
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract import OutageContract, StoreContract
from tests.kit.postgres import lend_schema, port_of, return_schema
from tests.kit.proxy import Proxy


class TestPostgresStore(OutageContract, StoreContract):
    """Every verb."""

    url: str
    proxy: Proxy

    @pytest.fixture(autouse=True)
    def _schema(self) -> Iterator[None]:
        url = lend_schema()
        self.proxy = Proxy(port_of(url))
        self.url = self.proxy.url(url)
        yield
        self.proxy.close()
        return_schema(url)

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new schema."""
        return PostgresStore(self.url, durability="normal")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store in that schema."""
        return PostgresStore(self.url, durability="normal")

    def cut_off(self, store: Store, *, loses_reply: bool) -> AbstractContextManager[None]:
        """Return a block in which the proxy lets nothing through."""
        return self.proxy.cut(loses_reply=loses_reply)
