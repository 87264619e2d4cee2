"""What happens in one process beside others: runs are locked in one order, and a lock decides who comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from durable_trio.errors import OwnershipLost
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.stores.contract import (
    Advance,
    Fence,
    Finish,
    ReapExecutor,
    Release,
    RenewLease,
    RequestCancel,
    SendSignal,
    SignalWithStart,
    Started,
)
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListUnread, LoadRun
from durable_trio.testing.store_contract.kit import (
    add,
    finish,
    one,
    owned,
    row_of,
    signal,
    start,
    start_operation,
    step,
    suspend,
)
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way, wait_until

Stores = Callable[[], PostgresStore]


def go(run_id: str = "run", *, signal_id: str | None = None) -> SendSignal:
    return SendSignal(run_id=run_id, name="go", payload="1", signal_id=signal_id, now=60)


def released(fence: Fence) -> Release:
    return Release(fence=fence, status=RunStatus.SUSPENDED, wake_at=None, waits_for=("go",))


def names_of(store: PostgresStore, row: RunRow) -> list[str]:
    return [entry.name for entry in store.ask(ListUnread(row.run))]


# ---- who comes first ---------------------------------------------------------------------------------------------


def test_a_run_is_not_released_past_a_signal_that_is_being_sent(store: PostgresStore, rows: Rows, url: str) -> None:
    _, fence = owned(store)
    with batch_under_way(url, go()) as (_, wire):
        releasing = Doing(lambda: one(store, released(fence)))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    assert releasing.result() is False
    assert row_of(store).owner == fence.owner


def test_a_signal_that_comes_while_a_run_is_released_wakes_it(store: PostgresStore, rows: Rows, url: str) -> None:
    _, fence = owned(store)
    with batch_under_way(url, released(fence)) as (outcomes, wire):
        assert outcomes == [True]
        sending = Doing(lambda: one(store, go()))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    sent = sending.result()
    assert (sent.owner, sent.follows) == (None, None)
    assert row_of(store).wake_at == 60


def test_a_run_does_not_end_past_a_request_to_cancel(store: PostgresStore, rows: Rows, url: str) -> None:
    _, fence = owned(store)
    with batch_under_way(url, RequestCancel(run_id="run", reason="null", now=60)) as (_, wire):
        ending = Doing(lambda: finish(store, fence, unless_cancelled=True))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    assert ending.result() is False


def test_what_an_owner_adds_to_the_history_waits_for_nobody(
    store: PostgresStore, other: psycopg.Connection[Any]
) -> None:
    row, fence = owned(store)
    other.execute("SELECT 1 FROM runs FOR NO KEY UPDATE")
    add(store, fence, step(1))
    assert len(store.ask(LoadRun(row.run)).history) == 1


def test_who_declares_an_owner_dead_waits_for_what_it_has_under_way_and_nothing_comes_after(
    store: PostgresStore, rows: Rows, url: str
) -> None:
    row, fence = owned(store)
    with batch_under_way(url, Advance(fence=fence, rows=(step(1),), now=20)) as (outcomes, wire):
        assert outcomes == [True]
        reaping = Doing(lambda: one(store, ReapExecutor(executor=fence.owner, now=90)))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    assert reaping.result() == 1
    assert row_of(store).recoveries == 1
    late = one(store, Advance(fence=fence, rows=(step(2, n=1),), now=20))
    assert isinstance(late, OwnershipLost)
    assert len(store.ask(LoadRun(row.run)).history) == 1


def test_an_owner_that_is_being_declared_dead_writes_nothing(store: PostgresStore, rows: Rows, url: str) -> None:
    row, fence = owned(store)
    with batch_under_way(url, ReapExecutor(executor=fence.owner, now=90)) as (outcomes, wire):
        assert outcomes == [1]
        advancing = Doing(lambda: one(store, Advance(fence=fence, rows=(step(1),), now=20)))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    assert isinstance(advancing.result(), OwnershipLost)
    assert store.ask(LoadRun(row.run)).history == ()


# ---- starts ------------------------------------------------------------------------------------------------------


def test_a_run_that_somebody_else_is_storing_is_waited_for(store: PostgresStore, rows: Rows, url: str) -> None:
    with batch_under_way(url, start_operation()) as (outcomes, wire):
        starting = Doing(lambda: one(store, start_operation()))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    started = starting.result()
    assert (started.created, started.row.run) == (False, outcomes[0].row.run)


def test_a_run_that_somebody_else_does_not_store_after_all_is_stored(
    store: PostgresStore, rows: Rows, url: str
) -> None:
    with batch_under_way(url, start_operation()) as (_, wire):
        starting = Doing(lambda: one(store, start_operation()))
        rows.wait_until_blocked()
        wire.execute("ROLLBACK")
    assert starting.result().created


def test_a_signal_goes_to_the_run_that_somebody_else_has_stored_at_the_same_moment(
    store: PostgresStore, rows: Rows, url: str
) -> None:
    """It is not locked, as it was not there when the others were: all of it is done again."""
    with batch_under_way(url, start_operation()) as (_, wire):
        sending = Doing(lambda: one(store, SignalWithStart(start=start_operation(), signal=go())))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
    started = sending.result()
    assert isinstance(started, Started)
    assert not started.created
    assert names_of(store, started.row) == ["go"]


def test_two_who_store_the_same_runs_in_other_orders_wait_for_each_other_in_one_direction(
    open_store: Stores, rows: Rows
) -> None:
    stores, before = [open_store(), open_store()], rows.deadlock_count
    for turn in range(4):
        ids = [f"{turn}-{number}" for number in range(150)]

        def start_all(store: PostgresStore, ids: list[str]) -> Any:
            return store.apply([start_operation(run_id) for run_id in ids])

        first, second = at_once(
            lambda ids=ids: start_all(stores[0], ids),  # type: ignore[misc]
            lambda ids=ids: start_all(stores[1], ids[::-1]),  # type: ignore[misc]
        )
        created = [each.row.id for each in first + second if each.created]
        assert sorted(created) == sorted(ids)
        assert {each.row.id: each.row.run for each in first} == {each.row.id: each.row.run for each in second}
    assert rows.deadlock_count == before


# ---- mailboxes ---------------------------------------------------------------------------------------------------


def test_each_entry_follows_the_one_that_was_committed_before_it(open_store: Stores) -> None:
    stores = [open_store() for _ in range(4)]
    _, fence = owned(stores[0])

    def send_all(store: PostgresStore) -> list[Any]:
        return [each for _ in range(10) for each in store.apply([go(), go()]) or ()]

    found = at_once(*(lambda store=store: send_all(store) for store in stores))
    sent = sorted((each for all_of_one in found for each in all_of_one), key=lambda each: each.entry.id)
    assert len(sent) == 80
    last = 0
    for each in sent:
        assert each.follows == (fence.token, last)
        last = each.entry.id


def test_ends_of_children_at_the_same_time_are_all_told(open_store: Stores) -> None:
    stores = [open_store() for _ in range(3)]
    parent, fence = owned(stores[0], "parent")
    fences = [owned(stores[0], f"child-{number}", parent=parent.run)[1] for number in range(12)]
    suspend(stores[0], fence)

    def end(store: PostgresStore, which: list[Fence]) -> Any:
        return store.apply([Finish(fence=each, status=RunStatus.COMPLETED, now=70) for each in which])

    at_once(*(lambda pair=pair: end(*pair) for pair in zip(stores, (fences[:4], fences[4:8], fences[8:]), strict=True)))
    assert sorted(names_of(stores[0], parent)) == sorted(f"child-{number}" for number in range(12))
    assert row_of(stores[0], "parent").wake_at == 70


def test_a_run_and_its_parent_in_one_batch_meet_in_their_order(store: PostgresStore) -> None:
    parent, parent_fence = owned(store, "parent")
    _, first = owned(store, "first", parent=parent.run)
    _, second = owned(store, "second", parent=parent.run)
    end = [Finish(fence=fence, status=RunStatus.COMPLETED, now=70) for fence in (first, second)]
    assert store.apply([end[0], released(parent_fence)]) == [True, False]
    (entry,) = store.ask(ListUnread(parent.run))
    taking = Advance(fence=parent_fence, rows=(step(1),), taken=((entry.id, 1),), now=71)
    assert store.apply([taking, released(parent_fence), end[1]]) == [True, True, True]
    row = row_of(store, "parent")
    assert (row.owner, row.wake_at) == (None, 70)
    assert names_of(store, parent) == ["second"]


# ---- no two wait for each other ----------------------------------------------------------------------------------


def test_signals_to_the_same_runs_in_other_orders_do_not_wait_for_each_other(open_store: Stores, rows: Rows) -> None:
    stores, before = [open_store() for _ in range(3)], rows.deadlock_count
    ids = [start(stores[0], f"run-{number}").id for number in range(10)]

    def send_all(store: PostgresStore, ids: list[str]) -> None:
        for _ in range(20):
            store.apply([go(run_id) for run_id in ids])

    orders = (ids, ids[::-1], ids[5:] + ids[:5])
    at_once(*(lambda pair=pair: send_all(*pair) for pair in zip(stores, orders, strict=True)))
    assert rows.one("SELECT count(*) FROM mailbox") == 600
    assert rows.deadlock_count == before


def test_two_that_take_each_other_for_dead_do_not_wait_for_each_other_whatever_else_they_write(
    open_store: Stores, rows: Rows
) -> None:
    stores, before = [open_store(), open_store()], rows.deadlock_count
    for turn in range(10):
        fences = [owned(store, f"{turn}-{number}")[1] for number, store in enumerate(stores)]

        def reap(own: int, fences: list[Fence] = fences) -> Any:
            mine, theirs = fences[own], fences[1 - own]
            return stores[own].apply(
                [
                    RenewLease(executor=mine.owner),
                    Advance(fence=mine, rows=(step(1),), now=20),
                    ReapExecutor(executor=theirs.owner, now=90),
                ]
            )

        found = at_once(lambda: reap(0), lambda: reap(1))
        assert sorted(each[2] for each in found) == [1, 1]
        first, second = sorted(found, key=lambda each: each[0] is True, reverse=True)
        assert first[:2] == [True, True]
        assert second[0] is False
        assert isinstance(second[1], OwnershipLost)
    assert rows.deadlock_count == before


def test_of_two_that_wait_for_each_other_all_the_same_one_is_done_again(
    store: PostgresStore, rows: Rows, other: psycopg.Connection[Any]
) -> None:
    """Somebody else's transaction knows no order."""
    start(store, "a")
    start(store, "b")
    other.execute("SET deadlock_timeout = '60s'")
    other.execute("SELECT 1 FROM runs WHERE id = 'b' FOR NO KEY UPDATE")
    before = rows.deadlock_count
    sending = Doing(lambda: store.apply([go("a"), go("b")]))
    rows.wait_until_blocked()
    other.execute("SELECT 1 FROM runs WHERE id = 'a' FOR NO KEY UPDATE")
    other.commit()
    assert [each.created for each in sending.result()] == [True, True]
    wait_until(lambda: rows.deadlock_count == before + 1)  # the server counts at its leisure
    assert rows.one("SELECT count(*) FROM mailbox") == 2


def test_a_thread_that_waits_for_a_lock_lets_others_work(store: PostgresStore, other: psycopg.Connection[Any]) -> None:
    start(store, "a")
    other.execute("SELECT 1 FROM runs FOR NO KEY UPDATE")
    sending = Doing(lambda: signal(store, "a"))
    done = threading.Event()
    Doing(done.set).result()
    assert done.is_set()
    assert not sending.is_done
    other.commit()
    assert sending.result().created
