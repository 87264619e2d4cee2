"""Removals beside others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from durable_trio.errors import RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.stores.contract import DeleteRun, Pruned, Started, Sweep
from durable_trio.stores.postgres.operations import removals
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.kit import add, fence_of, finish, one, owned, register, start_operation, step
from durable_trio.testing.store_contract.kit import signal as send
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way
from tests.stores.postgres.operations.kit import ended, prune

Stores = Callable[[], PostgresStore]


def test_a_start_with_the_id_of_a_run_that_is_being_deleted_waits_and_is_new(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    old = ended(store, args_digest=b"old")
    with batch_under_way(url, DeleteRun(run_id="run")) as (outcomes, wire):
        assert outcomes == [True]
        starting = Doing(lambda: one(store, start_operation(args_digest=b"new")))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        started = starting.result()
    assert isinstance(started, Started)
    assert started.created
    assert started.row.run != old
    assert rows.all("SELECT run FROM runs") == [(started.row.run,)]
    assert rows.all("SELECT run FROM history") == []


def test_a_run_that_is_being_deleted_takes_no_signal_and_none_is_left_behind(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    ended(store)
    with batch_under_way(url, DeleteRun(run_id="run")) as (_, wire):
        sending = Doing(lambda: send(store))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(sending.result(), RunNotFound)
    assert rows.one("SELECT count(*) FROM mailbox") == 0


def test_of_many_who_delete_and_start_the_same_id_nothing_is_left_of_what_went(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(4)]

    def work(store: PostgresStore) -> int:
        created = 0
        for _ in range(12):
            started = one(store, start_operation())
            assert isinstance(started, Started)
            created += started.created
            send(store, signal_id="once")
            one(store, DeleteRun(run_id="run"))  # while it is pending that is refused
            rows_of = one(store, start_operation("done", owner=executors[store]))
            if rows_of.created and rows_of.claimed:
                add(store, fence_of(rows_of.row), step(1))
                finish(store, fence_of(rows_of.row))
            one(store, DeleteRun(run_id="done"))
        return created

    executors = {store: register(store) for store in stores}
    created = at_once(*(lambda store=store: work(store) for store in stores))
    assert sum(created) == 1
    for table in ("history", "mailbox", "waits"):
        assert rows.one(f"SELECT count(*) FROM {table} WHERE run NOT IN (SELECT run FROM runs)") == 0
    assert rows.one("SELECT count(*) FROM mailbox") == 1


def test_of_two_that_prune_at_the_same_time_each_run_is_removed_by_one(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store(), open_store()]
    for number in range(60):
        ended(stores[0], f"run-{number}", now=100 - number)
    deadlocks = rows.deadlock_count

    def prune_all(store: PostgresStore) -> int:
        return sum(prune(store, 7).count for _ in range(12))

    counts = at_once(*(lambda store=store: prune_all(store) for store in stores))
    assert sum(counts) + prune(stores[0]).count == 60
    assert rows.one("SELECT count(*) FROM runs") == rows.one("SELECT count(*) FROM history") == 0
    assert rows.deadlock_count == deadlocks


def test_prune_passes_over_what_somebody_holds_and_runs_with_a_child_that_somebody_holds(
    store: PostgresStore, rows: Rows, other: psycopg.Connection[Any]
) -> None:
    for run_id in ("held", "parent", "free"):
        run = ended(store, run_id)
        if run_id == "parent":
            owned(store, "child", parent=run)
    other.execute("SELECT 1 FROM runs WHERE id IN ('held', 'child') FOR NO KEY UPDATE")
    assert prune(store) == Pruned(1, 0, None)
    assert rows.all("SELECT id FROM runs ORDER BY run") == [("held",), ("parent",), ("child",)]
    other.rollback()
    assert prune(store) == Pruned(2, 0, None)
    assert rows.all("SELECT id, parent FROM runs") == [("child", None)]


def test_a_run_that_is_resumed_while_it_is_looked_at_is_not_pruned(
    store: PostgresStore, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(store)
    look = removals._oldest

    def resume_after(*values: Any) -> Any:
        found = look(*values)
        rows.execute("UPDATE runs SET status = 'pending', finished_at = NULL, wake_at = 60")
        return found

    monkeypatch.setattr(removals, "_oldest", resume_after)
    assert prune(store) == Pruned(0, 0, None)
    assert rows.one("SELECT count(*) FROM history") == 1


def test_two_that_sweep_do_not_wait_for_each_other(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store()]
    for number in range(4):
        ended(stores[0], f"run-{number}", rows=UPKEEP_ROWS_MAX + 200)
        assert one(stores[0], DeleteRun(run_id=f"run-{number}")) is True

    def sweep_all(store: PostgresStore) -> int:
        total = 0
        while count := one(store, Sweep(hidden_before=1)):
            total += count
        return total

    counts = at_once(*(lambda store=store: sweep_all(store) for store in stores))
    assert sum(counts) + sweep_all(stores[0]) == 4 * (UPKEEP_ROWS_MAX + 201)
    assert rows.one("SELECT count(*) FROM runs") == rows.one("SELECT count(*) FROM history") == 0
