"""Claims beside others: each run once, and nobody waits."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from durable_trio.errors import RunConflict
from durable_trio.limits import NAME_CHARACTERS_MAX, REFUSALS_MAX
from durable_trio.records import RunStatus
from durable_trio.rows import ServedCode
from durable_trio.rules.refused import refused_text
from durable_trio.stores.contract import Advance, ClaimDue, ClaimRun, Release, SendSignal
from durable_trio.stores.postgres.operations import claims
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import LoadRun
from durable_trio.testing.store_contract.kit import codes_of, fence_of, one, register, signal, suspend
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way

Stores = Callable[[], PostgresStore]


def due(owner: int, limit: int = 10, **options: Any) -> ClaimDue:
    return ClaimDue(owner=owner, codes=codes_of("work"), now=1000, limit=limit, **options)


def ids(claimed: Any) -> list[str]:
    return [row.id for row in claimed]


def test_an_index_has_room_for_as_many_refusals_as_a_run_may_have_whatever_they_and_its_workflow_are_called(
    store: PostgresStore, rows: Rows
) -> None:
    dice = random.Random(1)  # what repeats itself would be compressed
    workflow = "".join(chr(dice.randrange(0x20000, 0x2A000)) for _ in range(NAME_CHARACTERS_MAX))
    codes = {dice.randrange(10**9, 10**10) for _ in range(REFUSALS_MAX)}
    rows.add_runs(1, workflow=workflow, refused=refused_text(codes))
    served = ServedCode(workflow, 0, 1)
    assert ids(one(store, ClaimDue(owner=register(store), codes=(served,), now=1000, limit=1))) == ["run-0"]


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


def test_a_signal_that_is_under_way_is_passed_over_and_found_with_the_next_claim(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    rows.add_runs(2, status="suspended", token=1, is_due=False, wake_at=None, waits_for=["go"])
    first, second = register(store), register(store)
    send = SendSignal(run_id="run-1", name="go", payload="7", signal_id=None, now=40)
    with batch_under_way(url, send) as (outcomes, wire):
        assert outcomes[0].owner is None
        assert one(store, due(first)) == ()
        wire.execute("COMMIT")
    (row,) = one(store, due(second))
    assert [entry.payload for entry in store.ask(LoadRun(row.run)).unread] == ["7"]


def test_whoever_sends_to_a_run_that_is_being_claimed_waits_and_is_told_the_owner(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    rows.add_runs(1, status="suspended", token=1)
    executor = register(store)
    with batch_under_way(url, due(executor)) as (_, wire):
        send = SendSignal(run_id="run-0", name="go", payload="7", signal_id=None, now=40)
        sending = Doing(lambda: one(store, send))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert sending.result().owner == executor


def test_signals_and_claims_beside_each_other_lose_no_wake_up(open_store: Stores, rows: Rows) -> None:
    """Whoever lets a run go has read what came before, or is not let go; whoever sends wakes what sleeps."""
    stores = [open_store(), open_store(), open_store()]
    rows.add_runs(3, status="suspended", token=1, is_due=False, wake_at=None, waits_for=["go"])
    executors = [register(stores[0]), register(stores[1])]

    def execute(store: PostgresStore, executor: int) -> int:
        taken = 0
        while True:
            was_over = bool(is_over)
            claimed = one(store, due(executor))
            if was_over and not claimed:
                return taken
            for row in claimed:
                fence, loaded = fence_of(row), store.ask(LoadRun(row.run))
                while unread := loaded.unread:
                    entries = tuple((entry.id, entry.id) for entry in unread)
                    assert one(store, Advance(fence=fence, taken=entries, now=20)) is True
                    taken += len(entries)
                    loaded = store.ask(LoadRun(row.run))
                if suspend(store, fence, waits_for=("go",)) is False:
                    one(store, Release(fence=fence, status=RunStatus.RUNNING, wake_at=30))

    is_over: list[bool] = []

    def send() -> None:
        for number in range(90):
            signal(stores[2], f"run-{number % 3}", name="go", payload=str(number), now=30)
        is_over.append(True)

    *taken, _ = at_once(*(partial(execute, *pair) for pair in zip(stores[:2], executors, strict=True)), send)
    assert sum(taken) == 90
    assert rows.one("SELECT count(*) FROM mailbox WHERE seq IS NULL") == 0
