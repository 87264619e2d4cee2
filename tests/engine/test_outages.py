"""A store that cannot be reached for a while: ``serve`` goes on, what was done is kept, nothing is done twice."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunCancelled, RunFailed, RunStatus, StoreAway, open_engine, workflow
from durable_trio.engine import overdue, waiting
from durable_trio.stores.contract import Finish, Operation, RequestCancel, SendSignal, StartRun
from tests.engine.harness import (
    PATIENCE_SECONDS,
    executor_of,
    start_in_scope,
    stored,
    wait_passivated,
    wait_status,
    wait_until,
)
from tests.kit.stores import store_at
from tests.stores.away import CutOffStore

pytestmark = pytest.mark.usefixtures("no_leaks")

_DONE: Counter[tuple[str, int]] = Counter()


@pytest.fixture(autouse=True)
def forget() -> None:
    _DONE.clear()


@pytest.fixture
def store(file_path: str) -> CutOffStore:
    return CutOffStore(store_at(file_path, durability="normal"))


async def note(run: str, number: int) -> int:
    _DONE[run, number] += 1
    return number


def note_in(connection: object, run: str, number: int) -> int:
    _DONE[run, number] += 1
    return number


@workflow
async def busy(ctx: Context) -> int:
    total = await ctx.step("first", note, ctx.run_id, 1)
    await ctx.sleep(0.01)
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_branch, 10, name="a")
        nursery.start_soon(_branch, 20, name="b")
    total += await ctx.transaction("in the store", note_in, ctx.run_id, 2)
    total += await ctx.wait_signal("go", int)
    return total + await ctx.step("last", note, ctx.run_id, 3)


async def _branch(ctx: Context, first: int) -> None:
    for number in range(first, first + 3):
        await ctx.step("s", note, ctx.run_id, number)


@workflow
async def steps(ctx: Context, count: int) -> str:
    for number in range(count):
        await ctx.step("s", note, ctx.run_id, number)
    return "done"


@pytest.mark.parametrize("seed", range(4))
async def test_each_step_is_done_once_however_often_the_store_is_cut_off(file_path: str, seed: int) -> None:
    store = CutOffStore(store_at(file_path, durability="normal"), dice=random.Random(seed))
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(store, workflows=[busy]) as engine:
            runs = [await engine.start(busy, id=f"r{number}") for number in range(12)]
            for number, run in enumerate(runs):
                await run.signal("go", 100, id=f"s{number}")
            assert [await run.result() for run in runs] == [106] * len(runs)
            store._dice, store.is_away = None, False
            assert (await engine.status()).runs_by_status[RunStatus.COMPLETED] == len(runs)
    assert store.known_count, "no reply was lost"
    assert store.repeated_count, "no batch was lost"
    again = {key: count for key, count in _DONE.items() if count != 1 and key[1] != 2}
    assert not again
    assert len(_DONE) == 9 * len(runs)


async def test_a_transaction_whose_reply_was_lost_is_not_called_again(store: CutOffStore) -> None:
    async with open_engine(store, workflows=[busy]) as engine:
        run = await engine.start(busy, id="r")
        await wait_until(lambda: _DONE["r", 12] and _DONE["r", 22])
        await wait_passivated(engine)
        await run.signal("go", 1)
        assert await run.result() == 7
    assert _DONE["r", 2] == 1


async def test_calls_wait_a_while_and_then_say_whether_they_have_perhaps_happened(store: CutOffStore) -> None:
    async with open_engine(store, workflows=[steps], away_seconds_max=0.1) as engine:
        first = await engine.start(steps, 2, id="first")
        await first.result()
        store.is_away = store.loses_replies = True
        with pytest.raises(StoreAway, match="the same again") as sent:
            await engine.start(steps, 3, id="sent")
        assert sent.value.in_doubt
        with pytest.raises(StoreAway, match="nothing was done") as kept:
            await engine.start(steps, 4, id="not sent")
        assert not kept.value.in_doubt
        with pytest.raises(StoreAway):
            await first.record()
        store.is_away = False
        with trio.fail_after(PATIENCE_SECONDS):
            assert await (await engine.start(steps, 3, id="sent")).result() == "done"
            assert not (await engine.list_runs(status="pending")).runs
            assert {record.id for record in (await engine.list_runs()).runs} == {"first", "sent"}
    assert {(run, number): 1 for run, count in (("first", 2), ("sent", 3)) for number in range(count)} == _DONE


@pytest.mark.parametrize("fails", [False, True])
async def test_who_has_waited_for_a_result_waits_on_for_what_is_read_after_the_end(
    store: CutOffStore, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    @workflow
    async def ends(ctx: Context) -> str:
        await ctx.wait_signal("end")
        if fails:
            raise ValueError("it fails")
        return "done"

    def cut_after_the_end(batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        outcomes = apply(batch, block=block)
        store.is_away = store.is_away or (outcomes is not None and Finish in map(type, batch))
        return outcomes

    apply = store.apply
    monkeypatch.setattr(store, "apply", cut_after_the_end)
    found: list[object] = []

    async def wait(engine: Engine) -> None:
        try:
            found.append(await engine.get("r").result())  # of a workflow that this handle does not know
        except RunFailed as error:
            found.append(str(error.error))

    async with open_engine(store, workflows=[ends], away_seconds_max=0.05) as engine, trio.open_nursery() as nursery:
        run = await engine.start(ends, id="r")
        nursery.start_soon(wait, engine)
        await run.signal("end")
        await wait_until(lambda: store.is_away and store.vain_count > 5)
        await trio.sleep(0.1)  # longer than callers wait
        assert found == []
        store.is_away = False
        with trio.fail_after(PATIENCE_SECONDS):
            await wait_until(lambda: bool(found))
    assert found == ["it fails" if fails else "done"]


async def test_who_waits_for_a_result_waits_on_where_it_cannot_be_told_whether_anybody_serves(
    store: CutOffStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.2)
    found: list[object] = []

    async def wait(engine: Engine) -> None:
        found.append(await engine.get("r").result())

    async with open_engine(store, workflows=[busy], away_seconds_max=0.05) as engine:
        run = await engine.start(busy, id="r")
        await wait_passivated(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, engine)
            await wait_until(lambda: bool(engine._client.services_in_use().feed._waiters))
            await run.record()  # behind its first look
            store.is_away = True
            await trio.sleep(0.5)  # longer than it takes until somebody looks, and than callers wait
            store.is_away = False
            await run.signal("go", 1, id="the same if it is asked again")
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_until(lambda: bool(found))
    assert found == [7]


async def test_who_watches_already_watches_on_through_an_outage_of_any_length(
    store: CutOffStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue, "_LOOK_SECONDS", 0.02)

    async with open_engine(store, workflows=[busy], away_seconds_max=0.05) as engine:
        run = await engine.start(busy, id="r")
        await wait_passivated(engine)
        async with engine.watch() as changes, engine.watch(overdue=True) as late, trio.open_nursery() as nursery:
            assert (await anext(changes)).id == "r"
            nursery.start_soon(anext, late)
            await wait_until(lambda: late._look_at > 0)  # type: ignore[attr-defined]
            store.is_away, late._look_at = True, 1  # type: ignore[attr-defined]
            changes._subscription.fall_behind()
            seen: list[RunStatus] = []

            async def follow() -> None:
                async for record in changes:
                    seen.append(record.status)

            nursery.start_soon(follow)
            await wait_until(lambda: store.vain_count > 10)
            await trio.sleep(0.2)  # longer than callers wait
            store.is_away = False
            await run.signal("go", 1, id="the same if it is asked again")
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_until(lambda: RunStatus.COMPLETED in seen and late._look_at > 1)  # type: ignore[attr-defined]
            nursery.cancel_scope.cancel()


async def test_what_steps_have_done_is_kept_and_stored_when_the_store_is_back(store: CutOffStore) -> None:
    gate = trio.Event()

    @workflow
    async def held(ctx: Context) -> str:
        await ctx.step("one", note, ctx.run_id, 1)
        await ctx.step("two", gated, ctx.run_id)
        await ctx.step("three", note, ctx.run_id, 3)
        return "done"

    async def gated(run: str) -> None:
        await gate.wait()
        await note(run, 2)

    async with open_engine(store, workflows=[held], away_seconds_max=0.05) as engine:
        runs = [await engine.start(held, id=f"r{number}") for number in range(5)]
        await wait_until(lambda: sum(number == 1 for _, number in _DONE) == 5)
        store.is_away = True
        gate.set()
        await wait_until(lambda: store.vain_count > 10)
        await trio.sleep(0.1)  # longer than callers wait
        store.is_away = False
        with trio.fail_after(PATIENCE_SECONDS):
            assert [await run.result() for run in runs] == ["done"] * 5
    assert set(_DONE.values()) == {1}
    assert len(_DONE) == 15


async def test_after_a_lease_an_executor_gives_up_its_runs_and_comes_back_as_another(
    store: CutOffStore, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = trio.Event()

    @workflow
    async def held(ctx: Context) -> str:
        await ctx.step("one", note, ctx.run_id, 1)
        await ctx.step("two", gated, ctx.run_id)
        return "done"

    async def gated(run: str) -> None:
        await gate.wait()
        await note(run, 2)

    async with open_engine(store, workflows=[held], lease_seconds=0.3) as engine:
        before = executor_of(engine).id
        with caplog.at_level(logging.WARNING, logger="durable_trio.processes"):
            run = await engine.start(held, id="r")
            await wait_until(lambda: _DONE["r", 1])
            await wait_status(run, RunStatus.RUNNING)
            store.is_away = True
            await wait_until(
                lambda: any("gives" in each.message or "given up" in each.message for each in caplog.records)
            )
        await wait_until(lambda: not executor_of(engine).runs.resident_rows())
        gate.set()
        store.is_away = False
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "done"
        assert executor_of(engine).id != before
    assert _DONE == {("r", 1): 1, ("r", 2): 1}


async def test_an_engine_that_ends_while_the_store_is_away_leaves_its_runs_to_others(
    store: CutOffStore, file_path: str
) -> None:
    async with trio.open_nursery() as nursery:
        engine = Engine(store, workflows=[steps, busy], grace_seconds=0.1)
        scope = await start_in_scope(nursery, engine)
        run = await engine.start(busy, id="r")
        await wait_until(lambda: _DONE["r", 1])
        store.is_away = True
        with trio.fail_after(PATIENCE_SECONDS):
            scope.cancel()
            await wait_until(lambda: not nursery.child_tasks)
    del run
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(file_path, workflows=[busy]) as engine:
            run = engine.get("r")
            await run.signal("go", 1)
            assert await run.result() == 7


async def test_a_parents_cancel_reaches_its_child_though_the_store_was_away_for_longer_than_callers_wait(
    store: CutOffStore,
) -> None:
    @workflow
    async def child(ctx: Context) -> None:
        await ctx.wait_signal("never")

    @workflow
    async def parent(ctx: Context) -> None:
        await ctx.start_child(child, id="child")
        await ctx.wait_signal("fail")
        raise ValueError("the parent fails")

    async with open_engine(store, workflows=[parent, child], away_seconds_max=0.05) as engine:
        run = await engine.start(parent, id="parent")
        await stored(engine, "child")
        await wait_status(engine.get("child"), RunStatus.SUSPENDED)
        store.cuts_off = RequestCancel
        await run.signal("fail")
        await wait_until(lambda: store.vain_count > 6)
        await trio.sleep(0.1)  # longer than callers wait
        store.cuts_off, store.is_away = None, False
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunCancelled):
            await engine.get("child").result()


@pytest.mark.parametrize("is_busy", [False, True], ids=["it sleeps", "another branch of it works"])
async def test_a_signal_of_which_the_caller_was_told_that_it_is_in_doubt_reaches_its_run(
    store: CutOffStore, is_busy: bool
) -> None:
    """Nobody else is there who would look, and the caller does not ask again."""
    has_come = trio.Event()

    async def until_it_has_come(ctx: Context) -> None:
        await ctx.step("until it has come", has_come.wait)

    @workflow
    async def waiter(ctx: Context) -> int:
        async with ctx.open_nursery() as nursery:
            if is_busy:
                nursery.start_soon(until_it_has_come)
            value = await ctx.wait_signal("go", int)
            has_come.set()
        return value

    async with open_engine(store, workflows=[waiter], away_seconds_max=0.05) as engine:
        run = await engine.start(waiter)
        if is_busy:
            await wait_until(lambda: has_come.statistics().tasks_waiting)
        else:
            await wait_status(run, RunStatus.SUSPENDED)
            await wait_passivated(engine)
        store.cuts_off, store.loses_replies = SendSignal, True  # and not what the run may be writing just now
        with pytest.raises(StoreAway) as told:
            await run.signal("go", 7)
        assert told.value.in_doubt
        store.cuts_off, store.is_away = None, False
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 7


async def test_a_run_of_which_the_caller_was_told_that_it_is_in_doubt_begins_when_it_is_due(store: CutOffStore) -> None:
    async with open_engine(store, workflows=[steps], away_seconds_max=0.05) as engine:
        for delay in (0.0, 0.3):
            run_id = f"after {delay}"
            store.cuts_off = StartRun
            with pytest.raises(StoreAway) as told:
                await engine.start(steps, 1, id=run_id, delay=delay)
            assert told.value.in_doubt
            store.cuts_off, store.is_away = None, False
            with trio.fail_after(PATIENCE_SECONDS):
                await wait_until(lambda run_id=run_id: _DONE[run_id, 0])  # type: ignore[misc]
                await engine.get(run_id).result()
