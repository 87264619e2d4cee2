"""What a watch gives: the present first, then changes in order, nothing twice in a row, each record of one instant."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunRecord, RunStatus, workflow
from durable_trio.engine.services import feed
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.stores.news_questions import ListChanges
from durable_trio.stores.questions import Question, ReadValues
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated, wait_status, wait_until
from tests.engine.watching.kit import gather, gather_until, nothing_more, quick, waiter
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


@workflow
async def again(ctx: Context, left: int) -> str:
    await ctx.publish("left", left)
    await ctx.wait_signal("go")
    if left:
        await ctx.continue_as_new(left - 1)
    return "done"


# ---- what is seen ----------------------------------------------------------------------------------------------------


async def test_a_watch_of_a_status_gives_only_that_status_and_does_not_tell_that_a_run_leaves_it(
    store_path: str,
) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        async with (
            engine.watch(status=S.SUSPENDED) as suspended,
            engine.watch(status=[S.SUSPENDED, S.COMPLETED]) as both,
            engine.watch(status=S.PENDING) as pending,
        ):
            assert [record.id for record in await gather(suspended, 1)] == [run.id]
            await run.signal("go", 1)
            await run.result()
            later = await engine.start(waiter, 1, delay=3600)
            records = await gather_until(both, lambda record: record.status is S.COMPLETED)
            assert {record.id for record in records} == {run.id}
            assert [record.id for record in await gather(pending, 1)] == [later.id]
            for changes in (suspended, both, pending):
                assert await nothing_more(changes)


async def test_a_run_that_comes_back_into_a_watched_status_shows_again_if_it_differs(store_path: str) -> None:
    """Suspended again, but with another value: a new record. Suspended again as before: none.

    Between them the run may be seen while it is due (``wake_at``), which is a state of its own.
    """

    @workflow
    async def teller(ctx: Context) -> None:
        for _ in range(2):
            await ctx.wait_signal("go")
        await ctx.publish("n", 1)
        await ctx.wait_signal("go")

    async with serving(store_path, teller) as engine:
        run = await engine.start(teller)
        await wait_passivated(engine)
        async with engine.watch(status="suspended") as changes:
            records = await gather(changes, 1)
            await run.signal("go")
            await wait_passivated(engine)
            await run.signal("go")
            records += await gather_until(changes, lambda record: record.values == {"n": 1})
            assert await nothing_more(changes)
    waiting = [record.values for record in records if record.wake_at is None]
    assert waiting in ([{}, {"n": 1}], [{}, {}, {"n": 1}])  # it was seen due in between, or not
    assert all(before != after for before, after in itertools.pairwise(records))


async def test_a_watch_of_one_run_and_a_status_keeps_a_state_that_was_not_taken_yet(store_path: str) -> None:
    """The run's later states, which are not to be shown, do not displace it."""
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1, delay=0.01)
        with trio.fail_after(PATIENCE_SECONDS):
            async with engine.watch(run_id=run.id, status=S.SUSPENDED) as changes:
                await wait_passivated(engine)
                await wait_status(run, S.SUSPENDED)
                await wait_until(lambda: any(is_shown for _, is_shown in changes._subscription.pending))
                await run.signal("go", 1)
                await run.result()
                await trio.sleep(3 * FEED_INTERVAL_SECONDS)
                assert [record.status async for record in changes] == [S.SUSPENDED]


async def test_the_same_record_never_comes_twice_in_a_row(store_path: str) -> None:
    """A value that is published again, and states that merge into the one before, are no news."""

    @workflow
    async def repeater(ctx: Context) -> None:
        for _ in range(5):
            await ctx.publish("same", 1)
            await ctx.wait_signal("go")
        await ctx.publish("same", 1)

    async with serving(store_path, repeater) as engine:
        run = await engine.start(repeater)
        seen: list[RunRecord] = []
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:

                async def look() -> None:
                    async with run.watch() as changes:
                        async for record in changes:
                            seen.append(record)

                nursery.start_soon(look)
                for _ in range(5):
                    await wait_passivated(engine)
                    await run.signal("go")
    assert seen[-1].status is S.COMPLETED
    assert all(before != after for before, after in itertools.pairwise(seen))


class LateStore(WrappedStore):
    """Gives its answers to watchers late, and values later: meanwhile the runs go on."""

    def ask(self, question: Question[Any]) -> Any:
        if isinstance(question, ReadValues):
            time.sleep(0.03)
        answer = super().ask(question)
        if isinstance(question, ListChanges):
            time.sleep(0.03)
        return answer


async def test_status_and_values_of_a_record_are_of_one_instant(file_path: str) -> None:
    """A run whose value is its generation is never shown with the value of a later one."""

    @workflow
    async def generations(ctx: Context) -> None:
        await ctx.publish("generation", ctx.generation)
        if ctx.generation < 100:
            await ctx.continue_as_new()

    late = LateStore(
        store_at(file_path, durability="normal")
    )  # in an engine of its own: the other's reads do not wait for it
    async with serving(file_path, generations, durability="normal") as engine, Engine(late) as client:
        run = await engine.start(generations, delay=0.05)
        async with client.watch(run_id=run.id) as changes:
            records = await gather_until(changes, lambda record: record.status.is_final)
    assert len(records) >= 3
    for record in records:
        assert record.values.get("generation", -1) in (record.generation - 1, record.generation)
    assert records[-1].values == {"generation": 100}


async def test_generations_rise_and_the_last_one_ends_the_watch(store_path: str) -> None:
    async with serving(store_path, again) as engine:
        run = await engine.start(again, 3)
        generations: list[int] = []
        signaled: set[int] = set()
        with trio.fail_after(PATIENCE_SECONDS):
            async with run.watch() as changes:
                async for record in changes:
                    generations.append(record.generation)
                    if record.status is S.SUSPENDED:
                        assert record.values == {"left": 3 - record.generation}
                        if record.generation not in signaled:  # it may be seen due, too, before it goes on
                            signaled.add(record.generation)
                            await run.signal("go")
    assert (record.status, record.values) == (S.COMPLETED, {"left": 0})
    assert generations == sorted(generations)
    assert set(generations) == {0, 1, 2, 3}


async def test_published_values_are_the_same_in_value_values_record_and_watch(store_path: str) -> None:
    @workflow
    async def publisher(ctx: Context) -> None:
        await ctx.publish("a", {"deep": [1, None]})
        await ctx.publish("b", False)
        await ctx.wait_signal("go")
        await ctx.publish("b", "")

    async with serving(store_path, publisher) as engine:
        run = await engine.start(publisher)
        await wait_passivated(engine)
        async with run.watch() as changes:
            (record,) = await gather(changes, 1)
            expected = {"a": {"deep": [1, None]}, "b": False}
            assert record.values == (await run.record()).values == await run.values() == expected
            assert (await run.value("a"), await run.value("b"), await run.value("c")) == (expected["a"], False, None)
            await run.signal("go")
            records = await gather_until(changes, lambda record: record.status.is_final)
        assert records[-1].values == await run.values() == {**expected, "b": ""}


async def test_a_finished_run_that_is_resumed_needs_a_new_watch_and_shows_in_one_of_all(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        async with engine.watch(workflow=waiter) as every, run.watch() as one:
            await run.cancel(wait=True)
            assert (await gather_until(one, lambda record: record.status.is_final))[-1].status is S.CANCELLED
            await gather_until(every, lambda record: record.status is S.CANCELLED)
            await engine.resume(run.id)
            await wait_passivated(engine)
            with pytest.raises(StopAsyncIteration):
                await anext(one)
            resumed = await gather_until(every, lambda record: record.status is S.SUSPENDED)
            assert not any(record.status.is_final for record in resumed)
            async with run.watch() as anew:
                await run.signal("go", 1)
                assert (await gather_until(anew, lambda record: False))[-1].status is S.COMPLETED
            await gather_until(every, lambda record: record.status is S.COMPLETED)


# ---- a slow watcher --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["_UNTAKEN_RUNS_MAX", "_UNTAKEN_CHARACTERS_MAX"])
async def test_a_watcher_that_takes_nothing_holds_a_bounded_number_of_runs_and_still_misses_none(
    store_path: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(feed, limit, 20)
    monkeypatch.setattr("durable_trio.engine.watching._PAGE_RUNS", 7)
    async with serving(store_path, quick, waiter) as engine:
        first = await engine.start(waiter, 1)
        async with engine.watch() as changes:
            held = changes._subscription.pending
            most = 0
            for number in range(90):
                await engine.run(quick, number)
                most = max(most, len(held))
                if number % 30 == 0:
                    await trio.sleep(2 * FEED_INTERVAL_SECONDS)
            await first.signal("go", 1)
            await first.result()
            records = await gather_until(changes, lambda record: record.id == first.id and record.status.is_final)
            ended = [record.id for record in records if record.status.is_final]
            assert len(ended) == len(set(ended)) == 91
            assert most <= 20
            assert await nothing_more(changes)
