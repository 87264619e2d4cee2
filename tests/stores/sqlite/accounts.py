"""A table of the user's, and how a transaction step writes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from durable_trio.stores.contract import Advance, Fence
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.kit import step


@contextmanager
def store_with_accounts(path: str | Path) -> Iterator[SqliteStore]:
    """Open a store with the user's table."""
    store = SqliteStore(path, durability="normal")
    store.open()
    with closing(store.connect()) as connection, connection:
        connection.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL UNIQUE)")
    yield store
    store.close()


def transact(store: SqliteStore, fence: Fence, do: Callable[[Any], object], seq: int = 1, seconds: float = 5.0) -> Any:
    """Run a function in a transaction step."""

    def fn(connection: Any) -> Advance:
        do(connection)
        return Advance(fence=fence, rows=(step(seq, "pay", seq),), now=20)

    return store.transact(fence, fn, seconds_max=seconds)


def amounts(store: SqliteStore) -> list[int]:
    """Return what the user's table holds."""
    connection = store.connect()
    try:
        return [row[0] for row in connection.execute("SELECT amount FROM account ORDER BY id").fetchall()]
    finally:
        connection.close()


def insert(connection: Any, amount: int = 7) -> None:
    """Write a row of the user's."""
    connection.execute("INSERT INTO account (amount) VALUES (?)", (amount,))
