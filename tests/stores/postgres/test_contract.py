"""The contract of a store on a PostgreSQL server, where it goes away behind a proxy that cuts it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
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
    def _schema(self, request: pytest.FixtureRequest) -> Iterator[None]:
        url = self.url = lend_schema()
        with ExitStack() as stack:
            stack.callback(return_schema, url)
            if hasattr(OutageContract, request.function.__name__):  # others need not pay for what passes the proxy
                self.proxy = stack.enter_context(closing(Proxy(port_of(url))))
                self.url = self.proxy.url(url)
            yield

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new schema."""
        return PostgresStore(self.url, durability="normal")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store in that schema."""
        return PostgresStore(self.url, durability="normal")

    def cut_off(self, store: Store, *, loses_reply: bool) -> AbstractContextManager[None]:
        """Return a block in which the proxy lets nothing through."""
        return self.proxy.cut(loses_reply=loses_reply)
