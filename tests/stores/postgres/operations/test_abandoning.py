"""Abandoning a run beside its owner, its parent and its children."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from durable_trio.errors import OwnershipLost, RunFinished
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import Key
from durable_trio.stores.contract import Abandoned, Advance, ClaimDue
from durable_trio.stores.postgres.operations import abandoning
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.transaction import Transaction
from durable_trio.stores.questions import ListHistory
from durable_trio.testing.store_contract.kit import (
    abandon_operation,
    add,
    codes_of,
    fence_of,
    finish,
    one,
    owned,
    register,
    row_of,
    start,
    start_operation,
    step,
)
from tests.stores.postgres.kit import Doing, Rows, at_once, batch_under_way

Stores = Callable[[], PostgresStore]


def with_child(fence: Any, seq: int, run_id: str) -> Advance:
    row = step(seq, key=Key("", run_id, 0), kind=StepKind.CHILD, result=f'"{run_id}"')
    return Advance(fence=fence, rows=(row,), children=(start_operation(run_id, owner=None),), now=20)


def test_what_the_owner_has_under_way_is_committed_before_his_run_is_abandoned(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    """His row locks no run: without the lock of his executor it would get in afterwards."""
    row, fence = owned(store)
    compensable = step(1, "a", compensates=True)
    with batch_under_way(url, Advance(fence=fence, rows=(compensable,), now=20)) as (outcomes, wire):
        abandoning_it = Doing(lambda: one(store, abandon_operation()))
        rows.wait_until_blocked()
        assert not abandoning_it.is_done
        wire.execute("COMMIT")
        assert outcomes == [True]
        outcome = abandoning_it.result()
    assert outcome.not_undone_count == 1
    assert [each.key.branch for each in store.ask(ListHistory(row.run))] == ["", "compensate"]
    assert isinstance(one(store, Advance(fence=fence, rows=(step(9),), now=30)), OwnershipLost)


def test_while_a_run_is_abandoned_its_owner_waits_and_then_finds_it_gone(
    url: str, store: PostgresStore, rows: Rows
) -> None:
    row, fence = owned(store)
    with batch_under_way(url, abandon_operation()) as (_, wire):
        advancing = Doing(lambda: one(store, Advance(fence=fence, rows=(step(1),), now=20)))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(advancing.result(), OwnershipLost)
    assert store.ask(ListHistory(row.run)) == ()


def test_a_child_that_is_being_started_is_asked_to_cancel_as_well(url: str, store: PostgresStore, rows: Rows) -> None:
    _, fence = owned(store)
    with batch_under_way(url, with_child(fence, 1, "child")) as (_, wire):
        abandoning_it = Doing(lambda: one(store, abandon_operation()))
        rows.wait_until_blocked()
        wire.execute("COMMIT")
        assert isinstance(abandoning_it.result(), Abandoned)
    assert row_of(store, "child").status is RunStatus.CANCELLED


def test_one_that_is_claimed_just_then_is_taken_from_whoever_has_claimed_it(
    store: PostgresStore, rows: Rows, open_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimer = open_store()
    executor = register(claimer)
    row = start(store)
    execute = Transaction.execute
    claimed: list[Any] = []

    def claim_after(transaction: Any, text: str, *values: Any) -> Any:
        answer = execute(transaction, text, *values)
        if text == abandoning.FIND and not claimed:
            claimed.extend(one(claimer, ClaimDue(owner=executor, codes=codes_of("work"), now=1000, limit=9)))
        return answer

    monkeypatch.setattr(Transaction, "execute", claim_after)
    outcome = one(store, abandon_operation())
    assert [each.id for each in claimed] == [row.id]
    assert outcome.row == claimed[0]
    assert [each.owner for each in outcome.sent] == [executor]
    assert rows.all("SELECT status, owner, token FROM runs") == [("cancelled", None, 2)]


def test_of_an_end_and_an_abandonment_one_counts_and_the_parent_is_told_once(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store()]
    deadlocks = rows.deadlock_count
    for number in range(12):
        _, parent = owned(stores[0], f"parent-{number}")
        one(stores[0], with_child(parent, 1, f"child-{number}"))
        executor = register(stores[0])
        (row,) = one(stores[0], ClaimDue(owner=executor, codes=codes_of("work"), now=1000, limit=9))
        ended, abandoned = at_once(
            partial(finish, stores[0], fence_of(row)), partial(one, stores[1], abandon_operation(row.id))
        )
        assert (ended is True) == isinstance(abandoned, RunFinished)
        assert isinstance(ended, OwnershipLost) == isinstance(abandoned, Abandoned)
        told = rows.one("SELECT count(*) FROM mailbox WHERE run = %s AND kind = 'child'", parent.run)
        assert told == 1
    assert rows.deadlock_count == deadlocks


def test_a_parent_and_its_child_that_are_abandoned_at_the_same_time_both_end(open_store: Stores, rows: Rows) -> None:
    stores = [open_store(), open_store()]
    for number in range(12):
        _, parent = owned(stores[0], f"parent-{number}")
        one(stores[0], with_child(parent, 1, f"child-{number}"))
        add(stores[0], parent, step(2))
        at_once(
            partial(one, stores[0], abandon_operation(f"parent-{number}")),
            partial(one, stores[1], abandon_operation(f"child-{number}")),
        )
    assert set(rows.all("SELECT status FROM runs")) == {("cancelled",)}
