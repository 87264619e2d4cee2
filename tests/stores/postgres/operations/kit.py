"""Runs to remove."""

from __future__ import annotations

from typing import Any

from durable_trio.records import RunStatus
from durable_trio.stores.contract import Prune, Pruned
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.kit import add, finish, one, owned, step


def ended(store: PostgresStore, run_id: str = "run", *, rows: int = 1, now: int = 50, **options: Any) -> int:
    """Have a run end that has so many rows in its history; return its number."""
    row, fence = owned(store, run_id, **options)
    for start_at in range(0, rows, 500):
        add(store, fence, *(step(n + 1, n=n) for n in range(start_at, min(rows, start_at + 500))))
    finish(store, fence, now=now)
    return row.run


def prune(store: PostgresStore, limit: int = 99, after: tuple[int, int] | None = None) -> Pruned:
    """Remove runs that have ended long ago."""
    pruned = one(store, Prune(before=1000, statuses=tuple(RunStatus), limit=limit, after=after))
    assert isinstance(pruned, Pruned)
    return pruned
