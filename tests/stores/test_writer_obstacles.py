"""What a full disk, a file that somebody holds, and a full queue do to whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from durable_trio import RunStatus
from durable_trio.errors import StoreError, StoreFull, StoreInUse
from durable_trio.stores import kept
from durable_trio.stores import writer as writer_module
from durable_trio.stores.contract import Advance, ContinueAsNew, Fence, Finish, Operation, Refuse, Release
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import CountRuns, Question
from durable_trio.testing.store_contract.kit import start_operation
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.stores.scripted import Outcomes, ScriptedStore, caller, echo, owner, running, writer_of

pytestmark = pytest.mark.usefixtures("no_leaks")


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
    monkeypatch.setattr(kept, "STORE_RETRY_SECONDS", 0.02)
    return Disk()


@pytest.fixture(params=[False, True], ids=["memory", "file"])
def full_store(request: pytest.FixtureRequest, disk: Disk) -> ScriptedStore:
    return ScriptedStore(disk.apply, may_block=request.param)


async def test_a_full_disk_fails_a_callers_operation(full_store: ScriptedStore, disk: Disk) -> None:
    async with running(full_store) as writer:
        with pytest.raises(StoreFull):
            await writer.write(caller("a"))
        assert writer.kept.is_full
        disk.is_full = False
        assert await writer.write(caller("b")) == "b"
        assert not writer.kept.is_full
    assert disk.committed == ["b"]


async def test_a_full_disk_keeps_the_outcomes_of_owners_in_their_order_until_there_is_room(
    full_store: ScriptedStore, disk: Disk
) -> None:
    async with running(full_store) as writer:
        outcomes = Outcomes()
        fence = Fence(9, 1, 1)
        operations = [
            owner(1),
            Release(fence=Fence(2, 1, 1), status=RunStatus.SUSPENDED, wake_at=None),
            owner(3),
            Refuse(fence=fence, code=1, problem="{}", now=1),
            ContinueAsNew(fence=Fence(8, 1, 1), args="[]", now=1),
        ]
        outcomes.submit(writer, *operations)
        await wait_until(lambda: len(writer._submitted.held) == 5)  # each was tried
        outcomes.submit(writer, owner(4), Finish(fence=Fence(5, 1, 1), status=RunStatus.SUSPENDED, now=1))
        await wait_until(lambda: len(writer._submitted.held) == 7)
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
    monkeypatch.setattr(kept, "STORE_RETRY_SECONDS", 3600)

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
    monkeypatch.setattr(kept, "PROBES_MAX", 2)
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
    assert "number 1 (a transaction)" in caplog.text


# ---- a batch of which the store commits only the first ---------------------------------------------------------------


@pytest.mark.parametrize("may_block", [False, True])
async def test_what_the_store_has_not_committed_is_submitted_again_before_what_came_later(may_block: bool) -> None:
    store = ScriptedStore(lambda batch: echo(batch[:2]), may_block=may_block)
    async with running(store) as writer:
        outcomes = Outcomes()
        outcomes.submit(writer, owner(1), start_operation("a"), owner(2), caller("b"), start_operation("c"))
        for name in "defg":
            assert await writer.write(caller(name)) == name
    # The first takes one that was submitted in the same pass along.
    assert store.batches[:3] == [["1", "2", "b", "d", "a", "c"], ["b", "d", "a", "c"], ["a", "c"]]
    assert outcomes.names == ["1", "2", "b", "a", "c"]
    assert writer.operation_count == 9


@pytest.mark.parametrize("count", [0, 3])
async def test_a_store_that_gives_no_outcome_or_too_many_has_failed(count: int) -> None:
    outcomes = Outcomes()
    writer = writer_of(ScriptedStore(lambda batch: ["x"] * count))
    with pytest.RaisesGroup(StoreError):
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            outcomes.submit(writer, owner(1), caller("a"))
    assert [type(outcome) for _, outcome in outcomes.found] == [StoreError] * 2


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


@pytest.mark.parametrize("question", [FindCursor(), CountRuns()])
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


# ---- what is logged ------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Return the level, event and number of writes of each line of the store."""
    found = [record for record in caplog.records if record.name == "durable_trio.store"]
    return [(record.levelname, vars(record)["event"], vars(record)["waiting"]) for record in found]


async def test_a_full_disk_is_told_once_when_it_begins_and_once_when_it_is_over(
    full_store: ScriptedStore, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    outcomes = Outcomes()
    async with running(full_store) as writer:
        for _ in range(2):
            outcomes.submit(writer, owner(1), owner(2), owner(1), caller("c"))
            full_store.batches.clear()
            await wait_until(lambda: len(full_store.batches) > 12)
            disk.is_full = False
            await wait_until(lambda: not writer._submitted.held)
            await writer.write(caller("a"))
            disk.is_full = True
    assert told(caplog) == [("WARNING", "writes_kept", 3), ("INFO", "writes_stored", 3)] * 2
    assert vars(caplog.records[0])["cause"] == "StoreFull: no room"
    assert "no room. It is tried again until it can. What runs" in caplog.records[0].getMessage()


async def test_a_file_that_somebody_holds_is_told_too(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    is_held = True

    def apply(batch: Sequence[Any]) -> list[Any]:
        if is_held:
            raise StoreInUse("process 7 has it")
        return echo(batch)

    store = ScriptedStore(apply)
    outcomes = Outcomes()
    async with running(store) as writer:
        outcomes.submit(writer, owner(1), owner(2))
        await wait_until(lambda: len(store.batches) > 3)
        is_held = False
        await outcomes.wait(2)
    assert told(caplog) == [("WARNING", "writes_kept", 2), ("INFO", "writes_stored", 2)]
    assert "process 7 has it" in caplog.text


async def test_one_outcome_that_has_no_room_is_told_once_though_others_are_stored(
    full_store: ScriptedStore, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk.is_full, disk.too_large = False, {"1"}
    outcomes = Outcomes()
    async with running(full_store) as writer:
        outcomes.submit(writer, owner(1))
        for number in range(20):
            await writer.write(caller(f"c{number}"))
            await trio.sleep(0.005)
        await wait_until(lambda: len(told(caplog)) == 1)
        disk.too_large.clear()
        await outcomes.wait(1)
    assert told(caplog) == [("WARNING", "writes_kept", 1), ("INFO", "writes_stored", 1)]


async def test_what_only_callers_are_refused_is_not_logged(
    full_store: ScriptedStore, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(full_store) as writer:
        with pytest.raises(StoreFull):
            await writer.write(caller("a"))
    assert told(caplog) == []
