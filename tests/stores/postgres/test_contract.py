"""The contract of a store on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_trio.stores.contract import Store
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract import StoreContract
from tests.kit.postgres import drop_schema, new_schema_url


class TestPostgresStore(StoreContract):
    """Every verb."""

    url: str

    @pytest.fixture(autouse=True)
    def _schema(self) -> Iterator[None]:
        self.url = new_schema_url()
        yield
        drop_schema(self.url)

    def make_store(self, tmp_path: Path) -> Store:
        """Return a store in a new schema."""
        return PostgresStore(self.url, durability="normal")

    def reopen(self, tmp_path: Path) -> Store:
        """Return another store in that schema."""
        return PostgresStore(self.url, durability="normal")
