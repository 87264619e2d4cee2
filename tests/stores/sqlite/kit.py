"""What the tests of a store in a file share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from durable_trio.stores.contract import Fence
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import add, owned, step

Spawn = Callable[..., "subprocess.Popen[str]"]


def fill(store: SqliteStore, run_id: str, count: int = 20) -> Fence:
    """Start a run and give it a history."""
    fence = owned(store, run_id)[1]
    add(store, fence, *(step(seq, "s", seq, result="x" * 200) for seq in range(count)))
    return fence


def vacuum(store: SqliteStore, target: Path) -> None:
    with closing(store.connect()) as connection:
        connection.execute("VACUUM INTO ?", (str(target),))


def ticks(connection: sqlite3.Connection | None, work: Callable[[], object], *, each: int) -> int:
    """Return how often some work takes so many instructions of SQLite's machine, on one connection."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    assert connection is not None
    connection.set_progress_handler(tick, each)
    work()
    connection.set_progress_handler(None, 0)
    return count


def names_of_runs(path: Path) -> list[str]:
    store = SqliteStore(path)
    store.open()
    try:
        with closing(store.connect()) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return [row[0] for row in connection.execute("SELECT id FROM runs ORDER BY id").fetchall()]
    finally:
        store.close()
