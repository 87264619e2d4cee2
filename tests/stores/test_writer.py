"""The async writer of a store: one writer, group commit, two drivers, and what becomes of an error."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio.errors import OwnershipLost, RunNotFound, StoreCorrupt, StoreError, StoreReadOnly
from durable_trio.limits import BATCH_OPERATIONS_MAX, BATCH_STARTS_MAX, INLINE_COMMIT_MS_MAX
from durable_trio.stores import writer as writer_module
from durable_trio.stores.contract import Advance, Fence, Sweep
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.threads import Linger
from durable_trio.stores.upkeep import UpkeepPace
from durable_trio.stores.writer import Writer
from durable_trio.testing.store_contract.kit import start_operation
from tests.engine.harness import PATIENCE_SECONDS
from tests.stores.scripted import Outcomes, ScriptedStore, caller, echo, owner, running, writer_of

pytestmark = pytest.mark.usefixtures("no_leaks")


async def asked_by(writer: Writer) -> Any:
    """Return the thread that answers a question."""
    return await writer.ask(FindCursor())


# ---- batches ---------------------------------------------------------------------------------------------------------


async def test_what_is_submitted_during_a_commit_is_the_next_batch_in_order() -> None:
    go = threading.Event()

    def apply(batch: Sequence[Any]) -> list[Any]:
        assert go.wait(PATIENCE_SECONDS)
        return echo(batch)

    store = ScriptedStore(apply)
    store.has_turn = False  # so that also a lone operation is the thread's
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("first"))
        await wait_all_tasks_blocked()
        outcomes.submit(writer, *[caller(number) for number in range(10)], owner(77))
        await wait_all_tasks_blocked()
        assert outcomes.found == []
        go.set()
        await outcomes.wait(12)
        assert store.batches == [["first"], [*map(str, range(10)), "77"]]
        assert outcomes.found == [(name, name) for name in ["first", *map(str, range(10)), "77"]]
        assert (writer.commit_count, writer.operation_count) == (2, 12)


async def test_a_batch_has_a_limit() -> None:
    store = ScriptedStore(may_block=False)
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, *[caller(number) for number in range(BATCH_OPERATIONS_MAX + 3)])
        await outcomes.wait(BATCH_OPERATIONS_MAX + 3)
    assert [len(batch) for batch in store.batches] == [BATCH_OPERATIONS_MAX, 3]


async def test_what_a_run_has_to_say_does_not_wait_behind_new_starts() -> None:
    store = ScriptedStore(may_block=False)
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, *[start_operation(f"start-{number}") for number in range(1000)], owner(77))
        await outcomes.wait(1001)
        outcomes.submit(writer, owner(78), start_operation("last"))
        await outcomes.wait(1003)
    first = store.batches[0]
    assert first[0] == "77"
    assert len(first) == 1 + BATCH_STARTS_MAX
    assert [name for name in outcomes.names if name.startswith("start")] == [f"start-{n}" for n in range(1000)]
    assert outcomes.names[-2:] == ["78", "last"]


async def test_pieces_of_upkeep_share_a_commit_while_they_are_short_and_steps_go_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = ScriptedStore()
    async with running(store) as writer:
        monkeypatch.setattr(writer._submitted, "pace", UpkeepPace(lambda: 0.0))  # no time passes
        outcomes = Outcomes()
        outcomes.submit(writer, *[Sweep(hidden_before=1) for _ in range(20)], owner(77))
        await outcomes.wait(21)
    sizes = [batch.count("upkeep") for batch in store.batches]
    assert sizes == [1, 2, 4, 8, 5]
    assert store.batches[0] == ["77", "upkeep"]


@pytest.mark.parametrize("busy", ["operations", "transactions"])
async def test_starts_have_their_part_however_much_runs_have_to_say(busy: str) -> None:
    store = ScriptedStore(may_block=False)
    async with running(store) as writer:
        outcomes = Outcomes()
        for number in range(3 * BATCH_OPERATIONS_MAX if busy == "operations" else 9):
            if busy == "operations":
                outcomes.submit(writer, owner(number))
            else:
                fence = Fence(number, 1, 1)
                fn = partial(lambda fence, _: Advance(fence=fence, now=1), fence)
                writer.submit_transaction(fence, fn, seconds_max=1, callback=partial(outcomes.take, "transaction"))
        outcomes.submit(writer, start_operation("new"))
        with trio.fail_after(PATIENCE_SECONDS):
            while "new" not in outcomes.names:
                await trio.lowlevel.checkpoint()
    assert any("new" in batch for batch in store.batches[:2])


async def test_an_event_is_set_after_the_next_batch_once_all_of_it_were_told() -> None:
    store = ScriptedStore(may_block=False)
    outcomes, event = Outcomes(), trio.Event()

    def first(outcome: Any) -> None:
        outcomes.take("a", outcome)
        assert not event.is_set()

    async with running(store) as writer:
        writer.set_at_commit(event)
        writer.submit(caller("a"), first)
        outcomes.submit(writer, caller("b"))
        await event.wait()
        assert outcomes.names == ["a", "b"]
        outcomes.submit(writer, caller("c"))  # nobody wants to know any more
        await outcomes.wait(3)


async def test_a_transaction_and_a_tidying_are_committed_alone_and_in_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "INLINE_COMMIT_MS_MAX", math.inf)  # however busy the machine is
    store = ScriptedStore()
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("a"), caller("b"))
        writer.submit_transaction(
            Fence(1, 1, 1), lambda _: owner(1), seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
        )
        outcomes.submit(writer, caller("c"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.tidy)
        await outcomes.wait(4)
    assert outcomes.names == ["a", "b", "t", "c"]
    assert store.batches == [["a", "b"], ["transaction 1"], ["c"], ["tidy"]]
    for batch, thread in zip(store.batches, store.threads, strict=True):
        assert (thread is threading.main_thread()) == (batch == ["c"])


# ---- inline or thread ------------------------------------------------------------------------------------------------


async def test_a_store_in_memory_is_used_on_the_event_loop_only() -> None:
    store = ScriptedStore(may_block=False)
    async with running(store) as writer:
        before = threading.active_count()
        outcomes = Outcomes()
        outcomes.submit(writer, *[caller(number) for number in range(5)])
        await outcomes.wait(5)
        assert await asked_by(writer) is threading.main_thread()
        assert threading.active_count() == before
    assert set(store.threads) == {threading.main_thread()}
    assert store.blocks == [True]


async def test_one_quick_operation_is_committed_inline_and_several_by_the_thread() -> None:
    store = ScriptedStore()
    async with running(store) as writer:
        assert await writer.write(caller("alone")) == "alone"
        outcomes = Outcomes()
        outcomes.submit(writer, caller("a"), caller("b"))
        await outcomes.wait(2)
        assert await asked_by(writer) is not threading.main_thread()
    assert store.blocks == [False, True]
    assert [thread is threading.main_thread() for thread in store.threads] == [True, False]


async def test_an_inline_commit_that_would_have_to_wait_for_the_turn_is_left_to_the_thread() -> None:
    store = ScriptedStore()
    store.has_turn = False
    async with running(store) as writer:
        assert await writer.write(caller("a")) == "a"
    assert store.blocks == [False, True]
    assert store.batches == [["a"]]
    assert store.threads[0] is not threading.main_thread()


async def test_slow_commits_move_to_the_thread_and_quick_ones_come_back() -> None:
    delay = INLINE_COMMIT_MS_MAX / 1000 * 20

    def apply(batch: Sequence[Any]) -> list[Any]:
        time.sleep(delay)
        return echo(batch)

    store = ScriptedStore(apply)
    async with running(store) as writer:
        await writer.write(caller("slow, inline"))
        await writer.write(caller("slow, in the thread"))
        delay = 0.0
        with trio.fail_after(PATIENCE_SECONDS):  # on a busy machine a quick one may take its time too
            while store.threads[-1] is not threading.main_thread() or len(store.threads) < 60:
                await writer.write(caller("quick"))
    assert store.threads[0] is threading.main_thread()
    assert store.threads[1] is not threading.main_thread()
    assert store.threads[-1] is threading.main_thread()


async def test_a_busy_loop_waits_a_moment_for_the_commit_in_flight() -> None:
    """Else the thread would have to fight for the GIL; an idle loop needs no such wait."""
    in_flight = False

    def apply(batch: Sequence[Any]) -> list[Any]:
        nonlocal in_flight
        in_flight = True
        time.sleep(0.05)
        in_flight = False
        return echo(batch)

    store = ScriptedStore(apply)
    passes = 0
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("a"), caller("b"))
        while not outcomes.found:
            passes += in_flight
            await trio.lowlevel.checkpoint()
    assert 1 <= passes <= 300  # 50 ms: a free loop makes thousands


async def test_commits_on_the_event_loop_have_no_pass_of_it_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for threads is called in each pass, of which a lone step takes three: only while they are used."""
    passes = 0
    before_io_wait = Linger.before_io_wait

    def counted(linger: Linger, timeout: float) -> None:
        nonlocal passes
        passes += 1
        before_io_wait(linger, timeout)

    monkeypatch.setattr(Linger, "before_io_wait", counted)
    monkeypatch.setattr(writer_module, "INLINE_COMMIT_MS_MAX", math.inf)
    store = ScriptedStore()
    async with running(store) as writer:
        for _ in range(50):
            await writer.write(caller("alone"))
        assert passes == 0
        for _ in range(3):  # it comes and goes with the work
            await asked_by(writer)
            assert passes > 0
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            passes = 0
            for _ in range(50):
                await writer.write(caller("alone"))
            assert passes == 0
    assert store.threads.count(threading.main_thread()) == 200


async def test_neither_thread_nor_instrument_outlives_the_writer() -> None:
    async with running(ScriptedStore()) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("a"), caller("b"))
        await outcomes.wait(2)
    assert "durable_trio writer" not in {thread.name for thread in threading.enumerate()}


# ---- outcomes and errors ---------------------------------------------------------------------------------------------


async def test_an_error_as_outcome_is_raised_by_write_and_given_to_a_callback() -> None:
    store = ScriptedStore(lambda batch: [RunNotFound("no such run") for _ in batch], may_block=False)
    async with running(store) as writer:
        with pytest.raises(RunNotFound):
            await writer.write(caller("a"))
        outcomes = Outcomes()
        outcomes.submit(writer, caller("b"))
        ((_, outcome),) = await outcomes.wait(1)
        assert isinstance(outcome, RunNotFound)
        assert writer.failure is None


@pytest.mark.parametrize("error", [ValueError("the user's"), OwnershipLost("not ours")])
async def test_what_a_transactions_function_raises_is_its_outcome(error: Exception) -> None:
    def fail(_: Any) -> Advance:
        raise error

    store = ScriptedStore()
    async with running(store) as writer:
        outcomes = Outcomes()
        writer.submit_transaction(
            Fence(1, 1, 1), fail, seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
        )
        assert await outcomes.wait(1) == [("t", error)]
        assert await writer.write(caller("after")) == "after"


@pytest.mark.parametrize("may_block", [False, True])
@pytest.mark.parametrize("final", [StoreCorrupt, StoreReadOnly, StoreError])
async def test_any_other_error_of_the_store_is_final_for_all_who_wait(may_block: bool, final: type[StoreError]) -> None:
    go = threading.Event()

    def apply(batch: Sequence[Any]) -> list[Any]:
        if may_block:
            assert go.wait(PATIENCE_SECONDS)
        raise final("the disk is gone")

    store = ScriptedStore(apply, may_block=may_block)
    store.has_turn = False
    writer = writer_of(store)
    outcomes = Outcomes()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is what fails
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            outcomes.submit(writer, caller("a"), owner(1))
            if may_block:
                await wait_all_tasks_blocked()
                outcomes.submit(writer, caller("b"), owner(2))
                go.set()
            await trio.sleep_forever()
    assert caught.group_contains(final, match="the disk is gone", depth=1)
    count = len(outcomes.found)
    assert outcomes.names == (["a", "1", "b", "2"] if may_block else ["a", "1"])
    assert all(isinstance(outcome, Exception) for _, outcome in outcomes.found)
    assert type(writer.failure) is final
    outcomes.submit(writer, owner(3))
    assert isinstance((await outcomes.wait(count + 1))[-1][1], Exception)
    with pytest.raises(final):
        await writer.write(caller("c"))
    assert len(store.batches) == 1


# ---- cancellation ----------------------------------------------------------------------------------------------------


async def test_cancelling_a_writer_does_not_abandon_its_commit() -> None:
    go = threading.Event()

    def apply(batch: Sequence[Any]) -> list[Any]:
        assert go.wait(PATIENCE_SECONDS)
        return echo(batch)

    store = ScriptedStore(apply)
    store.has_turn = False
    results: list[str] = []
    async with running(store) as writer:
        scope = trio.CancelScope()

        async def write(name: str) -> None:
            with scope:
                results.append(await writer.write(caller(name)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, "a")
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert results == []
            go.set()
        assert results == ["a"]


async def test_a_write_in_a_cancelled_scope_submits_nothing() -> None:
    store = ScriptedStore(may_block=False)
    async with running(store) as writer:
        with trio.CancelScope() as scope:
            scope.cancel()
            await writer.write(caller("a"))
        await wait_all_tasks_blocked()
        assert scope.cancelled_caught
    assert store.batches == []


async def test_a_cancelled_writer_commits_what_waits_and_takes_nothing_more() -> None:
    store = ScriptedStore(may_block=False)
    writer = writer_of(store)
    outcomes = Outcomes()
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        await wait_all_tasks_blocked()
        outcomes.submit(writer, caller("a"), owner(1))
        nursery.cancel_scope.cancel()
    assert outcomes.found == [("a", "a"), ("1", "1")]
    with pytest.raises(trio.ClosedResourceError):
        await writer.write(caller("b"))
    outcomes.submit(writer, owner(2))
    assert isinstance((await outcomes.wait(3))[-1][1], trio.ClosedResourceError)


async def test_nothing_can_be_written_before_the_writer_runs() -> None:
    writer = writer_of(ScriptedStore(may_block=False))
    with pytest.raises(trio.ClosedResourceError):
        await writer.write(caller("a"))
