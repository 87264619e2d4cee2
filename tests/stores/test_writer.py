"""The async writer of a store: one writer, group commit, two drivers, and what a full disk does to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio import RunStatus
from durable_trio.errors import OwnershipLost, RunNotFound, StoreCorrupt, StoreFull, StoreInUse
from durable_trio.limits import BATCH_OPERATIONS_MAX, BATCH_STARTS_MAX, INLINE_COMMIT_MS_MAX
from durable_trio.stores import writer as writer_module
from durable_trio.stores.contract import (
    Advance,
    ContinueAsNew,
    DeleteRun,
    Fence,
    Finish,
    Operation,
    Park,
    Release,
    StartRun,
)
from durable_trio.stores.questions import CountRuns, FindLastChange, Question
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.stores.writer import Writer
from durable_trio.testing.store_contract.kit import start_operation
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")

Apply = Callable[[Sequence[Any]], list[Any]]


def echo(batch: Sequence[Any]) -> list[Any]:
    """The outcome of an operation is the name of its run."""
    return [name_of(operation) for operation in batch]


def name_of(operation: Any) -> str:
    if isinstance(operation, StartRun):
        return operation.id
    return str(operation.run_id if isinstance(operation, DeleteRun) else operation.fence.run)


class ScriptedStore(WrappedStore):
    """Applies nothing: it notes batches and threads, and does what it is told with them."""

    def __init__(self, apply: Apply = echo, *, may_block: bool = True) -> None:
        super().__init__(SqliteStore(":memory:"))
        self.may_block = may_block
        self.batches: list[list[str]] = []
        self.threads: list[threading.Thread] = []
        self.blocks: list[bool] = []
        self.script = apply
        self.has_turn = True
        self.answer_seconds = 0.0

    def ask(self, question: Question[Any]) -> Any:
        time.sleep(self.answer_seconds)
        return threading.current_thread()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        self.blocks.append(block)
        if not block and not self.has_turn:
            return None
        self.batches.append([name_of(operation) for operation in batch])
        self.threads.append(threading.current_thread())
        return self.script(batch)

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        self.batches.append([f"transaction {fence.run}"])
        self.threads.append(threading.current_thread())
        return fn(None)

    def wal_checkpoint(self, mode: Any = "passive") -> None:
        self.batches.append(["tidy"])
        self.threads.append(threading.current_thread())


async def asked_by(writer: Writer) -> Any:
    """Return the thread that answers a question."""
    return await writer.ask(FindLastChange())


def nobody() -> None:
    """Nobody is to be told."""


def writer_of(store: ScriptedStore) -> Writer:
    return Writer(store, failed=nobody)


@asynccontextmanager
async def running(store: ScriptedStore) -> AsyncIterator[Writer]:
    writer = writer_of(store)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        yield writer
        nursery.cancel_scope.cancel()


def caller(name: object) -> DeleteRun:
    """An operation that somebody calls for and waits for."""
    return DeleteRun(run_id=str(name))


def owner(run: int) -> Advance:
    """An operation of a run's owner: its outcome has happened already."""
    return Advance(fence=Fence(run, 1, 1), now=1)


class Outcomes:
    """Takes the outcomes of submitted operations, in the order in which they come."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []
        self.changed = trio.Event()

    def submit(self, writer: Writer, *operations: Any) -> None:
        for operation in operations:
            writer.submit(operation, partial(self.take, name_of(operation)))

    def take(self, name: str, outcome: Any) -> None:
        self.found.append((name, outcome))
        self.changed.set()

    async def wait(self, count: int) -> list[tuple[str, Any]]:
        with trio.fail_after(PATIENCE_SECONDS):
            while len(self.found) < count:
                self.changed = trio.Event()
                await self.changed.wait()
        return self.found

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.found]


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


async def test_a_transaction_and_a_tidying_are_committed_alone_and_in_their_turn() -> None:
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
async def test_any_other_error_of_the_store_is_final_for_all_who_wait(may_block: bool) -> None:
    go = threading.Event()

    def apply(batch: Sequence[Any]) -> list[Any]:
        if may_block:
            assert go.wait(PATIENCE_SECONDS)
        raise StoreCorrupt("the disk is gone")

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
    assert caught.group_contains(StoreCorrupt, match="the disk is gone", depth=1)
    count = len(outcomes.found)
    assert outcomes.names == (["a", "1", "b", "2"] if may_block else ["a", "1"])
    assert all(isinstance(outcome, Exception) for _, outcome in outcomes.found)
    assert isinstance(writer.failure, StoreCorrupt)
    outcomes.submit(writer, owner(3))
    assert isinstance((await outcomes.wait(count + 1))[-1][1], Exception)
    with pytest.raises(StoreCorrupt):
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


# ---- a full disk -----------------------------------------------------------------------------------------------------


class Disk:
    """Refuses batches while it is full, or those with a run that is too large."""

    def __init__(self) -> None:
        self.is_full = True
        self.too_large: set[str] = set()
        self.committed: list[str] = []

    def apply(self, batch: Sequence[Any]) -> list[Any]:
        names = echo(batch)
        if self.is_full or self.too_large.intersection(names):
            raise StoreFull("no room")
        self.committed += names
        return names


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(writer_module, "STORE_RETRY_SECONDS", 0.02)
    return Disk()


@pytest.fixture(params=[False, True], ids=["memory", "file"])
def full_store(request: pytest.FixtureRequest, disk: Disk) -> ScriptedStore:
    return ScriptedStore(disk.apply, may_block=request.param)


async def test_a_full_disk_fails_a_callers_operation(full_store: ScriptedStore, disk: Disk) -> None:
    async with running(full_store) as writer:
        with pytest.raises(StoreFull):
            await writer.write(caller("a"))
        assert writer.is_full
        disk.is_full = False
        assert await writer.write(caller("b")) == "b"
        assert not writer.is_full
    assert disk.committed == ["b"]


async def test_a_full_disk_keeps_the_outcomes_of_owners_in_their_order_until_there_is_room(
    full_store: ScriptedStore, disk: Disk
) -> None:
    async with running(full_store) as writer:
        outcomes = Outcomes()
        fence = Fence(9, 1, 1)
        operations = [
            owner(1),
            Release(fence=Fence(2, 1, 1), status=RunStatus.SUSPENDED, wake_at=None, now=1),
            owner(3),
            Park(fence=fence, problem="{}", fingerprint="", now=1),
            ContinueAsNew(fence=Fence(8, 1, 1), args="[]", now=1),
        ]
        outcomes.submit(writer, *operations)
        await trio.sleep(0.05)
        outcomes.submit(writer, owner(4), Finish(fence=Fence(5, 1, 1), status=RunStatus.SUSPENDED, now=1))
        await trio.sleep(0.05)
        assert outcomes.found == []
        disk.is_full = False
        await outcomes.wait(7)
    assert outcomes.names == ["1", "2", "3", "9", "8", "4", "5"]
    assert disk.committed == ["1", "2", "3", "9", "8", "4", "5"]


async def test_a_full_disk_tells_callers_also_while_owners_wait_for_room(full_store: ScriptedStore, disk: Disk) -> None:
    """In whatever order they came: nobody waits for ever behind an outcome that has no room."""
    async with running(full_store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, owner(1), caller("a"), owner(2), caller("b"))
        with trio.fail_after(PATIENCE_SECONDS):
            assert [type(outcome) for _, outcome in await outcomes.wait(2)] == [StoreFull, StoreFull]
            assert outcomes.names == ["a", "b"]
            with pytest.raises(StoreFull):
                await writer.write(caller("c"))
        disk.is_full = False
        await outcomes.wait(4)
        assert outcomes.names == ["a", "b", "1", "2"]
    assert disk.committed == ["1", "2"]


async def test_one_operation_that_has_no_room_fails_no_other(full_store: ScriptedStore, disk: Disk) -> None:
    disk.is_full = False
    disk.too_large = {"large"}
    async with running(full_store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("a"), owner(1), caller("large"), owner(2), caller("b"))
        found = dict(await outcomes.wait(5))
    assert isinstance(found.pop("large"), StoreFull)
    assert found == {"a": "a", "b": "b", "1": "1", "2": "2"}
    assert [name for name in disk.committed if name in ("1", "2")] == ["1", "2"]


async def test_an_outcome_that_has_no_room_holds_up_its_own_run_only(full_store: ScriptedStore, disk: Disk) -> None:
    disk.is_full = False
    disk.too_large = {"1"}
    async with running(full_store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, owner(1), owner(2))
        outcomes.submit(writer, Finish(fence=Fence(1, 1, 1), status=RunStatus.COMPLETED, now=1), owner(3))
        await outcomes.wait(2)
        outcomes.submit(writer, owner(4), owner(1))
        await outcomes.wait(3)
        assert disk.committed == ["2", "3", "4"]
        await trio.sleep(0.05)
        disk.too_large = set()
        assert [name for name, _ in await outcomes.wait(6)] == ["2", "3", "4", "1", "1", "1"]


async def test_a_transaction_that_has_no_room_holds_up_its_own_run_only(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' commits do not have it tried again either: its function may be long."""
    monkeypatch.setattr(writer_module, "STORE_RETRY_SECONDS", 3600)

    class TooLarge(ScriptedStore):
        tries = 0

        def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
            self.tries += 1
            if disk.is_full:
                raise StoreFull("no room")
            return super().transact(fence, fn, seconds_max=seconds_max)

    store = TooLarge()
    outcomes = Outcomes()
    async with running(store) as writer:
        writer.submit_transaction(
            Fence(1, 1, 1), lambda _: owner(1), seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
        )
        outcomes.submit(writer, owner(1), owner(2))
        assert [name for name, _ in await outcomes.wait(1)] == ["2"]
        for number in range(20):
            assert await writer.write(caller(number)) == str(number)
        assert store.tries == 1
        disk.is_full = False
    assert outcomes.found == [("2", "2"), ("t", owner(1)), ("1", "1")]  # at the latest when it leaves


async def test_many_outcomes_without_room_take_turns_at_being_tried_again(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_PROBES_MAX", 2)
    tried: list[str] = []

    def apply(batch: Sequence[Any]) -> list[Any]:
        tried.extend(echo(batch))
        return disk.apply(batch)

    async with running(ScriptedStore(apply, may_block=False)) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, *map(owner, range(7)))
        with trio.fail_after(PATIENCE_SECONDS):
            await wait_until(lambda: {*map(str, range(7))} <= {*tried[14:]})  # 7 together, 7 alone, then 2 at a time
        disk.is_full = False
        await outcomes.wait(7)
    assert sorted(disk.committed) == list(map(str, range(7)))


async def test_a_caller_that_makes_room_is_let_through(full_store: ScriptedStore, disk: Disk) -> None:
    """Pruning must be possible while outcomes wait for the room that it makes."""

    def apply(batch: Sequence[Any]) -> list[Any]:
        if echo(batch) == ["prune"]:
            disk.is_full = False
        return disk.apply(batch)

    full_store.script = apply
    async with running(full_store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, owner(1))
        await trio.sleep(0.05)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await writer.write(caller("prune")) == "prune"
        await outcomes.wait(1)
    assert disk.committed == ["prune", "1"]


async def test_a_writer_ends_although_outcomes_wait_for_room(full_store: ScriptedStore, disk: Disk) -> None:
    outcomes = Outcomes()
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(full_store) as writer:
            outcomes.submit(writer, owner(1))
            await trio.sleep(0.03)
    ((_, outcome),) = outcomes.found
    assert isinstance(outcome, Exception)
    assert disk.committed == []


async def test_a_kept_transaction_runs_again_once_there_is_room(disk: Disk) -> None:
    class FullOnce(ScriptedStore):
        def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
            if disk.is_full:
                disk.is_full = False
                raise StoreFull("no room")
            return super().transact(fence, fn, seconds_max=seconds_max)

    async with running(FullOnce()) as writer:
        outcomes = Outcomes()
        writer.submit_transaction(
            Fence(1, 1, 1), lambda _: owner(1), seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
        )
        assert await outcomes.wait(1) == [("t", owner(1))]


# ---- a file that somebody else holds ---------------------------------------------------------------------------------


async def test_a_held_file_fails_callers_and_keeps_the_outcomes_of_owners(disk: Disk) -> None:
    is_held = True

    def apply(batch: Sequence[Any]) -> list[Any]:
        if is_held:
            raise StoreInUse("process 7 has it")
        return echo(batch)

    async with running(ScriptedStore(apply)) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, owner(1), caller("a"), owner(2))
        ((name, outcome),) = await outcomes.wait(1)
        assert (name, type(outcome)) == ("a", StoreInUse)
        is_held = False
        await outcomes.wait(3)
        assert outcomes.names == ["a", "1", "2"]
        assert writer.failure is None


async def test_callers_are_told_also_behind_a_transaction_that_waits_for_the_file(disk: Disk) -> None:
    """It is written alone, so they are never in one batch with it."""
    is_held = True

    class Held(ScriptedStore):
        def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
            if is_held:
                raise StoreInUse("process 7 has it")
            return super().transact(fence, fn, seconds_max=seconds_max)

    async with running(Held()) as writer:
        outcomes = Outcomes()
        writer.submit_transaction(
            Fence(1, 1, 1), lambda _: owner(1), seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
        )
        outcomes.submit(writer, owner(1), caller("a"), owner(2))
        ((name, outcome),) = await outcomes.wait(1)
        assert (name, type(outcome)) == ("a", StoreInUse)
        is_held = False
        await outcomes.wait(4)
        assert outcomes.names == ["a", "t", "1", "2"]


@pytest.mark.parametrize("is_blocked_before", [False, True])
async def test_a_writer_ends_while_somebody_else_holds_the_file_and_says_what_it_leaves(
    disk: Disk, caplog: pytest.LogCaptureFixture, is_blocked_before: bool
) -> None:
    class Held(ScriptedStore):
        is_in_a_hurry = False

        def hurry(self) -> None:
            self.is_in_a_hurry = True

        def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
            self.batches.append(["transaction"])
            raise StoreInUse("process 7 has it")

        def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
            super().apply(batch, block=block)
            raise StoreInUse("process 7 has it")

    store = Held()
    outcomes = Outcomes()
    with trio.fail_after(PATIENCE_SECONDS):
        async with running(store) as writer:
            writer.submit_transaction(
                Fence(1, 1, 1), lambda _: owner(1), seconds_max=1, callback=lambda outcome: outcomes.take("t", outcome)
            )
            outcomes.submit(writer, owner(1), owner(2), caller("a"))
            if is_blocked_before:
                await outcomes.wait(1)
    assert store.is_in_a_hurry
    assert len(store.batches) <= 4  # none is tried on and on
    assert sorted(outcomes.names) == ["1", "2", "a", "t"]
    assert all(isinstance(outcome, Exception) for _, outcome in outcomes.found)
    assert "2 runs leave" in caplog.text
    assert "process 7 has it" in caplog.text


async def test_a_queue_that_is_full_refuses_callers_but_not_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "WRITER_QUEUE_MAX", 3)
    go = threading.Event()

    def apply(batch: Sequence[Any]) -> list[Any]:
        assert go.wait(PATIENCE_SECONDS)
        return echo(batch)

    store = ScriptedStore(apply)
    store.has_turn = False
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, caller("in flight"))
        await wait_all_tasks_blocked()
        outcomes.submit(writer, caller("a"), caller("b"), caller("c"))
        with pytest.raises(StoreInUse):
            await writer.write(caller("d"))
        outcomes.submit(writer, owner(1))
        go.set()
        await outcomes.wait(5)
    assert outcomes.names == ["in flight", "a", "b", "c", "1"]


@pytest.mark.parametrize("question", [FindLastChange(), CountRuns()])
async def test_a_busy_event_loop_waits_a_moment_in_each_pass_for_what_runs_read_and_not_for_what_people_ask(
    question: Question[Any],
) -> None:
    """Else a thread that has to get the GIL back starves beside it."""
    store = ScriptedStore()
    store.answers_apart, store.answer_seconds = True, 0.2
    passes = 0

    async def busy() -> None:
        nonlocal passes
        while True:
            passes += 1
            await trio.lowlevel.checkpoint()

    async with running(store) as writer, trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await writer.ask(question)
        nursery.cancel_scope.cancel()
    assert (passes < 400) == (not question.is_for_people)
