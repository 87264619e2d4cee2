"""Places on the server for tests, stores there, and a look at their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from durable_trio.stores.postgres.schema import migrate
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import Place, parse_url
from tests.kit.postgres import drop_schema, lend_schema, new_schema_url, return_schema
from tests.stores.postgres.kit import Rows, connect
from tests.stores.postgres.payments import Payments


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema that holds nothing."""
    lent = lend_schema()
    yield lent
    return_schema(lent)


@pytest.fixture
def new_url() -> Iterator[str]:
    """Of a schema that is not there yet, and that a test may make unfit for others."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.fixture
def place(url: str) -> Place:
    """One with its tables."""
    return _migrated(url)


@pytest.fixture
def other_place() -> Iterator[Place]:
    """Another one in the same database."""
    lent = lend_schema()
    yield _migrated(lent)
    return_schema(lent)


def _migrated(url: str) -> Place:
    found = parse_url(url)
    wire = found.connect()
    migrate(wire, found.schema, found.name)
    wire.close()
    return found


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[[], PostgresStore]]:
    """What opens a store, another one at each call; all are closed afterwards."""
    stores: list[PostgresStore] = []

    def open_one() -> PostgresStore:
        store = PostgresStore(url, durability="normal")
        store.open()
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], PostgresStore]) -> PostgresStore:
    """An open store."""
    return open_store()


@pytest.fixture
def rows(url: str, store: PostgresStore) -> Iterator[Rows]:
    """The tables of the store."""
    with connect(url) as connection:
        yield Rows(connection)


@pytest.fixture
def other(url: str, store: PostgresStore) -> Iterator[psycopg.Connection[Any]]:
    """A connection of somebody else's, in a transaction until it commits."""
    with connect(url, autocommit=False) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def payments(store: PostgresStore, rows: Rows) -> Payments:
    """A run."""
    rows.execute("CREATE TABLE public.account (amount bigint NOT NULL)")
    return Payments(store, rows)
