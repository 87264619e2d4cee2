"""Claims beside others: each run once, and nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from durable_trio.errors import RunConflict
from durable_trio.stores.contract import ClaimDue, ClaimRun
from durable_trio.stores.postgres.operations import claims
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.kit import codes_of, one, register
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way

Stores = Callable[[], PostgresStore]


def due(owner: int, limit: int = 10, **options: Any) -> ClaimDue:
    return ClaimDue(owner=owner, codes=codes_of("work"), now=1000, limit=limit, **options)


def ids(claimed: Any) -> list[str]:
    return [row.id for row in claimed]


def test_of_many_who_claim_at_the_same_time_one_gets_each_run(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(6)]
    executors = [register(store) for store in stores]
    rows.add_runs(600)
    rows.add_runs(600, priority=3)
    rows.add_runs(300, is_due=False)

    def claim_all(store: PostgresStore, executor: int) -> list[tuple[str, int]]:
        got = []
        while rows_of := one(store, due(executor, 32)):
            got += [(row.id, row.token) for row in rows_of]
        return got

    pairs = list(zip(stores, executors, strict=True))
    got = at_once(*(partial(claim_all, *pair) for pair in pairs))
    claimed = [each for of_one in got for each in of_one]
    # What others had locked when the last of one's claims looked is theirs; nothing is left over but by that.
    claimed += claim_all(stores[0], executors[0])
    assert sorted(claimed) == sorted((f"run-{number}", 1) for number in range(1500))
    for executor, of_one in zip(executors[1:], got[1:], strict=True):
        assert rows.one("SELECT count(*) FROM runs WHERE owner = %s", executor) == len(of_one)


def test_a_claim_passes_over_what_somebody_else_holds(
    store: PostgresStore, rows: Rows, other: psycopg.Connection[Any]
) -> None:
    rows.add_runs(30)
    other.execute("SELECT 1 FROM runs WHERE id IN ('run-0', 'run-2') FOR NO KEY UPDATE")
    executor = register(store)
    assert ids(one(store, due(executor, 2))) == ["run-1", "run-3"]
    other.execute("SELECT 1 FROM runs WHERE owner IS NULL ORDER BY run LIMIT 20 FOR NO KEY UPDATE")
    assert ids(one(store, due(executor, 2))) == ["run-22", "run-23"]
    other.rollback()
    assert ids(one(store, due(executor, 2))) == ["run-0", "run-2"]


def test_a_claim_holds_no_run_that_it_does_not_take(url: str, store: PostgresStore, rows: Rows) -> None:
    rows.add_runs(5)
    rows.add_runs(5, token=1, status="suspended", recoveries=2)
    first, second = register(store), register(store)
    with batch_under_way(url, due(first, 3, suspects_max=1)) as (outcomes, wire):
        assert ids(outcomes[0]) == ["run-5", "run-0", "run-1"]
        assert ids(one(store, due(second, 20))) == [*(f"run-{n}" for n in (6, 7, 8, 9, 2, 3, 4))]
        wire.execute("COMMIT")


def test_a_run_that_was_claimed_while_a_claim_by_its_id_waited_is_another_ones(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    rows.add_runs(1)
    first, second = register(store), register(store)
    with batch_under_way(url, due(first)) as (_, wire):
        claim = ClaimRun(owner=second, run_id="run-0", codes=codes_of("work"), now=20)
        waiting = Doing(lambda: one(store, claim))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(waiting.result(), RunConflict)
    assert rows.all("SELECT owner, token FROM runs") == [(first, 1)]


def test_a_run_that_was_changed_between_a_look_and_its_lock_is_left_as_it_is(
    store: PostgresStore, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another claim's, or sleeps, or was refused: whatever has come in between."""
    rows.add_runs(5)
    look = claims._Search._heads

    def change_after(search: Any, depth: int) -> Any:
        found = look(search, depth)
        rows.execute("UPDATE runs SET owner = 9, wake_at = NULL WHERE id = 'run-0'")
        rows.execute("UPDATE runs SET wake_at = NULL WHERE id = 'run-1'")
        rows.execute("UPDATE runs SET refused = ',0,' WHERE id = 'run-2'")
        rows.execute("UPDATE runs SET version = 7 WHERE id = 'run-3'")
        return found

    monkeypatch.setattr(claims._Search, "_heads", change_after)
    executor = register(store)
    assert ids(one(store, due(executor))) == ["run-4"]
    assert rows.all("SELECT id FROM runs WHERE owner = %s", executor) == [("run-4",)]


def test_a_run_with_a_status_that_nobody_knows_is_parked_and_the_others_are_claimed(
    store: PostgresStore, rows: Rows
) -> None:
    rows.execute("ALTER TABLE runs DROP CONSTRAINT runs_status_check")
    rows.add_runs(1, status="dreaming")
    rows.add_runs(1)
    damaged, sound = one(store, due(register(store)))
    assert "status holds 'dreaming'" in damaged.damage
    assert (damaged.owner, sound.damage) == (None, None)
    assert rows.all("SELECT status, problem LIKE %s FROM runs WHERE id = 'run-0'", "%dreaming%") == [
        ("suspended", True)
    ]
    assert one(store, due(register(store))) == ()
