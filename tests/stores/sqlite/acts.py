"""What is committed, how the loss of it may be met, and copies of a database: for tests of what is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from durable_trio.records import RunStatus
from durable_trio.rows import Key, WaitRow
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    DeleteRun,
    Fence,
    RenewLease,
    RequestCancel,
)
from durable_trio.stores.sqlite import SqliteStore, sqlite3
from durable_trio.testing.store_contract.kit import (
    add,
    codes_of,
    finish,
    one,
    owned,
    park,
    register,
    signal,
    start,
    step,
    suspend,
)

Act = Callable[[SqliteStore, Fence], object]


def back_up(store: SqliteStore) -> str:
    target = f"{store.path}.copy"
    Path(target).unlink(missing_ok=True)
    with closing(sqlite3.connect(store.path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return target


def restore(store: SqliteStore, copy: str) -> None:
    """Write a copy over a database as ``.restore`` of SQLite's shell does."""
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(store.path)) as target:
        source.backup(target)


def content(path: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        names = [name for name, sql in tables if sql and sql.startswith("CREATE TABLE")]
        rows = [
            connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names if name != "mine"
        ]
        return hashlib.sha256(repr((tables, rows)).encode()).hexdigest()


def transact(store: SqliteStore, fence: Fence, seq: int = 99, do: Callable[[], object] = lambda: None) -> Any:
    def fn(_: Any) -> Advance:
        do()
        return Advance(fence=fence, rows=(step(seq, "t", seq),), now=20)

    return store.transact(fence, fn, seconds_max=5)


def wait_row() -> WaitRow:
    return WaitRow(key=Key("", "s", 5), kind="intent", started_at=7)


def suspend_once(store: SqliteStore, fence: Fence) -> None:
    """Let a run go whose status is that already, so that nobody is told."""
    assert suspend(store, fence, wake_at=500)


ACTS: dict[str, Act] = {
    "a step": lambda store, fence: add(store, fence, step(50, "s", 50)),
    "a step of the user's tables": lambda store, fence: transact(store, fence),
    "an intent": lambda store, fence: one(store, Advance(fence=fence, rows=(), waits=(wait_row(),), now=20)),
    "a release": suspend_once,
    "a start": lambda store, _: start(store, "new"),
    "a signal": lambda store, _: signal(store),
    "a cancel": lambda store, _: one(store, RequestCancel(run_id="run", reason="null", error="{}", now=9)),
    "an end": lambda store, fence: finish(store, fence),
    "a problem": lambda store, fence: park(store, fence),
    "a lease": lambda store, fence: one(store, RenewLease(executor=fence.owner)),
    "an executor": lambda store, _: register(store),
    "a removal": lambda store, _: one(store, DeleteRun(run_id="ended")),
}
LOOKS: dict[str, Act] = {
    "a write": lambda store, fence: add(store, fence, step(60, "s", 60)),
    "a step of the user's tables": lambda store, fence: transact(store, fence, 61),
    "a look": lambda store, _: store.foreign_changes(),
    "a claim that finds nothing": lambda store, fence: one(
        store, ClaimDue(owner=fence.owner, codes=codes_of("none"), now=1, limit=1)
    ),
}


def prepare(store: SqliteStore) -> Fence:
    """Store a run with a history, and one that has ended."""
    finish(store, owned(store, "ended")[1])
    fence = owned(store, "run")[1]
    add(store, fence, *(step(seq, "s", seq) for seq in range(3)))
    one(store, Advance(fence=fence, rows=(step(3, "s", 3),), status=RunStatus.SUSPENDED, wake_at=500, now=20))
    return fence


def keep_ended_run(store: SqliteStore) -> None:
    """Have the commit of its removal refused, and of all that is in one batch with it: nobody looks so far before."""
    with closing(store.connect()) as connection, connection:
        connection.execute("CREATE TABLE mine (run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE)")
        connection.execute("CREATE TABLE parts (run REFERENCES mine (run) DEFERRABLE INITIALLY DEFERRED)")
        connection.execute("INSERT INTO mine SELECT run FROM runs WHERE id = 'ended'")
        connection.execute("INSERT INTO parts SELECT run FROM mine")


REFUSED = DeleteRun(run_id="ended")
