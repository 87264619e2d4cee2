"""Executors beside others: what the dead one had under way is either there before its runs are free, or never."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from durable_trio.errors import OwnershipLost
from durable_trio.rows import Key
from durable_trio.stores.contract import Advance, ClaimDue, PutReport, ReapExecutor, RegisterExecutor, RenewLease
from durable_trio.stores.postgres.operations import leases
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.transaction import IS_EXECUTOR_ALIVE
from durable_trio.testing.store_contract.kit import codes_of, fence_of, one, register, step
from tests.stores.postgres.kit import Doing, Rows, at_once

Stores = Callable[[], PostgresStore]
OwnerSql = psycopg.Connection[Any]


def owned_runs(rows: Rows, count: int, executor: int, **columns: Any) -> None:
    rows.add_runs(count, owner=executor, wake_at=None, is_due=False, **({"status": "running", "token": 1} | columns))


def add_history(other: OwnerSql, run_id: str) -> None:
    """Add a row, as whoever writes for an owner does."""
    other.execute(
        "INSERT INTO history (run, key, seq, n, attempt, compensates, started_at, finished_at, kind, status, branch, "
        "name) SELECT run, gen_random_uuid(), 5, 0, 1, false, 1, 2, 'step', 'completed', '', 'a' FROM runs "
        "WHERE id = %s",
        [run_id],
    )


def as_owner(other: OwnerSql, executor: int) -> None:
    """Begin to write for an executor, as every batch does."""
    other.execute(IS_EXECUTOR_ALIVE.replace("$1", "%s"), [executor])


def test_who_reaps_an_executor_waits_for_what_it_has_under_way(
    store: PostgresStore, rows: Rows, other: OwnerSql
) -> None:
    """A reaper that only updated the executor's row would not wait, and the row would be committed afterwards."""
    executor = register(store)
    owned_runs(rows, 1, executor)
    as_owner(other, executor)
    reaping = Doing(lambda: one(store, ReapExecutor(executor=executor, now=90)))
    rows.wait_until_blocked()
    add_history(other, "run-0")
    assert not reaping.is_done
    other.commit()
    assert reaping.result() == 1
    # It has looked at the run after that: there was progress.
    assert rows.all("SELECT owner, recoveries, wake_at FROM runs") == [(None, 1, 90)]


def test_while_an_executor_is_being_reaped_nobody_begins_to_write_for_it(
    store: PostgresStore, rows: Rows, other: OwnerSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reaper that only updated the executor's row would let a key share in."""
    executor = register(store)
    owned_runs(rows, 2, executor)
    seen: list[Any] = []
    set_free = leases._set_free

    def look_before(*values: Any, **options: Any) -> int:
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            as_owner(other, executor)
        seen.append(True)
        return set_free(*values, **options)

    monkeypatch.setattr(leases, "_set_free", look_before)
    assert one(store, ReapExecutor(executor=executor, now=90)) == 2
    assert seen == [True]
    other.rollback()
    as_owner(other, executor)
    assert rows.all("SELECT 1 FROM executors WHERE id = %s AND ended_at IS NULL", executor) == []


def test_mail_that_comes_while_a_run_is_set_free_wakes_it(store: PostgresStore, rows: Rows, other: OwnerSql) -> None:
    """Its sender has seen an owner, who would read it, and does not wake the run; so the reaper must see the mail."""
    executor = register(store)
    owned_runs(rows, 2, executor, status="suspended")
    other.execute("SELECT 1 FROM runs WHERE id = 'run-1' FOR NO KEY UPDATE")
    reaping = Doing(lambda: one(store, ReapExecutor(executor=executor, now=90)))
    rows.wait_until_blocked()
    other.execute(
        "INSERT INTO mailbox (run, created_at, kind, name) SELECT run, 1, 'signal', 'go' FROM runs WHERE id = 'run-1'"
    )
    other.commit()
    assert reaping.result() == 2
    assert rows.all("SELECT id, owner, wake_at FROM runs ORDER BY run") == [("run-0", None, None), ("run-1", None, 90)]


def test_a_renewal_that_is_under_way_wins(store: PostgresStore, rows: Rows, other: OwnerSql) -> None:
    executor = register(store)
    owned_runs(rows, 1, executor)
    seen = rows.one("SELECT renewals FROM executors")
    other.execute("UPDATE executors SET renewals = renewals + 1 WHERE id = %s", [executor])
    reaping = Doing(lambda: one(store, ReapExecutor(executor=executor, renewals=seen, now=90)))
    rows.wait_until_blocked()
    other.commit()
    assert reaping.result() is None
    assert rows.all("SELECT owner FROM runs") == [(executor,)]


def test_two_that_reap_each_other_wait_for_nobody(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store()]
    before = rows.deadlock_count
    for _ in range(15):
        executors = [register(store) for store in stores]
        for executor in executors:
            owned_runs(rows, 3, executor)

        def reap(own: int, stores: list[PostgresStore] = stores, executors: list[int] = executors) -> Any:
            return one(stores[own], ReapExecutor(executor=executors[1 - own], now=90))

        assert at_once(lambda: reap(0), lambda: reap(1)) == [3, 3]
    assert rows.deadlock_count == before


def test_of_many_who_reap_one_executor_one_does(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(5)]
    for _ in range(5):
        executor = register(stores[0])
        owned_runs(rows, 4, executor)
        reap = ReapExecutor(executor=executor, renewals=0, now=90)
        outcomes = at_once(*(lambda store=store: one(store, reap) for store in stores))  # noqa: B023
        assert sorted(outcomes, key=str) == [4, None, None, None, None]
    assert rows.one("SELECT count(*) FROM runs WHERE owner IS NOT NULL") == 0


def test_registering_sets_the_runs_of_no_living_executor_free(open_store: Stores, rows: Rows) -> None:
    """And those of the living stay with them, however many register at the same time."""
    stores = [open_store() for _ in range(4)]
    executors = [register(store) for store in stores]
    for executor in executors:
        owned_runs(rows, 3, executor)
    owned_runs(rows, 5, 4711)
    owned_runs(rows, 5, 4713)
    at_once(*(lambda store=store: register(store) for store in stores))
    found = rows.all("SELECT owner, count(*) FROM runs GROUP BY owner ORDER BY owner NULLS FIRST")
    assert found == [(None, 10), *((executor, 3) for executor in executors)]


def test_many_who_register_the_same_codes_at_the_same_time_get_the_same_numbers(open_store: Stores, rows: Rows) -> None:
    stores = [open_store() for _ in range(4)]
    codes = tuple((f"workflow-{number}", 1, "abc") for number in range(20))
    before = rows.deadlock_count
    orders = (codes, codes[::-1], codes, codes[::-1])

    def register_with(store: PostgresStore, order: tuple[tuple[str, int, str], ...]) -> Any:
        return one(store, RegisterExecutor(pid=1, host="h", lease=9, codes=order, now=1))

    at_once(*(lambda pair=pair: register_with(*pair) for pair in zip(stores, orders, strict=True)))
    assert rows.one("SELECT count(*) FROM codes") == 20
    assert set(rows.all("SELECT executor, count(*) FROM executor_codes GROUP BY executor")) == {
        (executor, 20) for (executor,) in rows.all("SELECT id FROM executors")
    }
    assert rows.deadlock_count == before


def test_rows_of_executors_that_have_ended_are_kept_up_to_a_thousand(store: PostgresStore, rows: Rows) -> None:
    first = register(store)
    rows.execute(
        "INSERT INTO executors (instance, pid, host, started_at, renewed_at, lease, ended_at) "
        "SELECT 1, 1, 'h', 1, 1, 1, 2 FROM generate_series(1, 1200)"
    )
    last = register(store)
    assert rows.all("SELECT min(id), count(*) FROM executors WHERE ended_at IS NOT NULL") == [(last - 999, 999)]
    assert rows.one("SELECT count(*) FROM executors WHERE id = %s", first) == 1


def test_a_report_says_which_open_store_it_is_of(open_store: Stores, rows: Rows) -> None:
    first, second = open_store(), open_store()
    one(first, PutReport(process="a", report="{}", now=1))
    of_first = rows.one("SELECT instance FROM reports")
    one(second, PutReport(process="a", report="{}", now=2))
    assert rows.one("SELECT instance FROM reports") != of_first
    assert rows.one("SELECT count(*) FROM instances WHERE instance = %s", of_first) == 1


def test_no_row_of_a_dead_owner_gets_in_while_another_goes_on_with_his_run(open_store: Stores, rows: Rows) -> None:
    """Every row is of whoever owned the run then, and what one owner has been told is stored is there for the next."""
    stores = [open_store(), open_store(), open_store()]
    rows.add_runs(6)
    deadlocks = rows.deadlock_count
    living: dict[int, int] = {}

    def work(place: int) -> list[tuple[int, int, int]]:
        store, said = stores[place], []
        for turn in range(14):
            executor = living[place] = register(store)
            claimed = one(store, ClaimDue(owner=executor, codes=codes_of("work"), now=1000, limit=3))
            for number in range(6):
                for row in () if isinstance(claimed, OwnershipLost) else claimed:  # it was declared dead at once
                    seq = 1000 * row.token + number
                    new = step(seq, key=Key("", f"{row.token}-{number}", 0), result=str(executor))
                    outcome = one(store, Advance(fence=fence_of(row), rows=(new,), now=20))
                    if outcome is True:
                        said.append((row.run, row.token, seq))
                    else:
                        assert isinstance(outcome, OwnershipLost)
            one(store, ReapExecutor(executor=living.get((place + turn) % 3, executor), now=90))
            one(store, ReapExecutor(executor=executor, now=90))
        return said

    said = at_once(*(partial(work, place) for place in range(3)))
    stored = rows.all("SELECT run, seq / 1000, seq, result::bigint FROM history ORDER BY run, seq")
    assert sorted((run, token, seq) for run, token, seq, _ in stored) == sorted(each for some in said for each in some)
    # Rows of one claim are there before the first of the next: each row is in the order in which it was written.
    in_order = rows.all("SELECT run, seq FROM history ORDER BY run, xmin::text::bigint, seq")
    assert in_order == sorted(in_order)
    assert rows.deadlock_count == deadlocks


def test_batches_that_write_and_reap_each_other_wait_for_nobody(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store()]
    deadlocks = rows.deadlock_count
    for _ in range(15):
        executors = [register(store) for store in stores]
        rows.add_runs(4)

        def apply(own: int, executors: list[int] = executors) -> Any:
            return stores[own].apply(
                [
                    ClaimDue(owner=executors[own], codes=codes_of("work"), now=1000, limit=2),
                    RenewLease(executor=executors[own]),
                    ReapExecutor(executor=executors[1 - own], now=90),
                ]
            )

        first, second = at_once(partial(apply, 0), partial(apply, 1))
        # Whoever comes second finds that it is dead already.
        late = [outcomes for outcomes in (first, second) if isinstance(outcomes[0], OwnershipLost)]
        assert [outcomes[1:] for outcomes in late] == [[False, late[0][2]]]
    assert rows.deadlock_count == deadlocks
