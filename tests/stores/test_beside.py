"""Transactions of the user's beside the batches: some at once, a run's rows in order, the same again if in doubt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from durable_trio.errors import OwnershipLost, StoreAway, StoreCorrupt, StoreError, StoreFull
from durable_trio.stores.contract import Advance, Fence
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.stores.scripted import Outcomes, ScriptedStore, owner, running


class BesideStore(ScriptedStore):
    """Calls two transactions at once; each waits until it may go on, and then does what its run's script says."""

    def __init__(self) -> None:
        super().__init__()
        self.transact_concurrency = 2
        self.began: list[int] = []
        self.gates: dict[int, threading.Event] = {}
        self.errors: dict[int, list[StoreError | Exception]] = {}

    def gate(self, run: int) -> threading.Event:
        return self.gates.setdefault(run, threading.Event())

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        self.began.append(fence.run)
        assert self.gate(fence.run).wait(PATIENCE_SECONDS)
        errors = self.errors.get(fence.run)
        if errors:
            raise errors.pop(0)
        self.batches.append([f"transaction {fence.run}"])
        return f"transacted {fence.run}"


def begin(writer: Any, outcomes: Outcomes, *runs: int) -> None:
    for run in runs:
        fence = Fence(run, 1, 1)

        def done(outcome: Any, run: int = run) -> None:
            outcomes.take(f"t{run}", outcome)

        writer.submit_transaction(fence, lambda connection: owner(0), seconds_max=1, callback=done)


async def test_transactions_hold_up_no_other_run_and_a_runs_own_rows_keep_their_order() -> None:
    store, outcomes = BesideStore(), Outcomes()
    async with running(store) as writer:
        outcomes.submit(writer, owner(1))
        begin(writer, outcomes, 1, 2, 3)
        outcomes.submit(writer, owner(1), owner(2), owner(4))
        begin(writer, outcomes, 1)
        await outcomes.wait(2)
        assert outcomes.names == ["1", "4"]
        await wait_until(lambda: sorted(store.began) == [1, 2])  # not more than two at once
        store.gate(2).set()
        await outcomes.wait(4)
        assert outcomes.names[2:] == ["t2", "2"]
        await wait_until(lambda: sorted(store.began) == [1, 2, 3])
        store.gate(3).set()
        store.gate(1).set()
        await outcomes.wait(8)
    names = [name for name in outcomes.names if name in ("1", "t1")]
    assert names == ["1", "t1", "1", "t1"]
    assert outcomes.found[2] == ("t2", "transacted 2")


@pytest.mark.parametrize("passing", [StoreAway("away"), StoreFull("full")])
async def test_one_that_may_not_have_been_committed_is_called_again_before_what_came_after_it(
    passing: StoreError,
) -> None:
    store, outcomes = BesideStore(), Outcomes()
    store.errors[1] = [passing, passing]
    store.gate(1).set()
    async with running(store) as writer:
        begin(writer, outcomes, 1)
        outcomes.submit(writer, owner(1), owner(2))
        await outcomes.wait(3)
    assert outcomes.names == ["2", "t1", "1"]
    assert store.began == [1, 1, 1]


async def test_what_its_function_raises_and_a_lost_run_are_its_outcome() -> None:
    store, outcomes = BesideStore(), Outcomes()
    store.errors = {1: [KeyError("x")], 2: [OwnershipLost("gone")]}
    for run in (1, 2):
        store.gate(run).set()
    async with running(store) as writer:
        begin(writer, outcomes, 1, 2)
        await outcomes.wait(2)
    assert {name: type(found) for name, found in outcomes.found} == {"t1": KeyError, "t2": OwnershipLost}


async def test_any_other_error_of_the_store_is_final_for_all_who_wait() -> None:
    store, outcomes = BesideStore(), Outcomes()
    store.errors[1] = [StoreCorrupt("damaged")]
    with pytest.RaisesGroup(StoreCorrupt):
        async with running(store) as writer:
            begin(writer, outcomes, 1, 2)
            outcomes.submit(writer, owner(2))
            await wait_until(lambda: sorted(store.began) == [1, 2])
            store.gate(1).set()
            await outcomes.wait(3)
    store.gate(2).set()  # nobody waits for it any more
    assert {type(found) for _, found in outcomes.found} == {StoreCorrupt}


async def test_a_writer_that_ends_waits_for_those_under_way() -> None:
    store, outcomes = BesideStore(), Outcomes()
    async with trio.open_nursery() as nursery:
        async with running(store) as writer:
            begin(writer, outcomes, 1)
            outcomes.submit(writer, owner(1))
            await wait_until(lambda: store.began == [1])

            async def let_go() -> None:
                await trio.sleep(0.02)
                store.gate(1).set()

            nursery.start_soon(let_go)
        assert outcomes.names == ["t1", "1"]
