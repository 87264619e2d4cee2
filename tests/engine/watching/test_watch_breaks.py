"""Watches while runs are removed under them, and while the feed crashes: nobody waits for ever, nothing is missed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from durable_trio import Engine, RunCancelled, RunNotFound, RunStatus
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.stores.contract import Store
from durable_trio.stores.news_questions import ListNews, ListSent
from durable_trio.stores.questions import FindEnded, Question
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated
from tests.engine.watching.kit import gather, gather_until, nothing_more, serving_on, waiter
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


FOR_EVER = datetime(2100, 1, 1, tzinfo=UTC)


class BlindStore(WrappedStore):
    """Notices no commit of others while a test says so."""

    is_blind = False

    def foreign_changes(self) -> bool | None:
        return None if self.is_blind else self.inner.foreign_changes()


# ---- runs that are removed -------------------------------------------------------------------------------------------


async def test_a_run_that_is_deleted_after_its_end_was_seen_ends_its_watch_as_usual(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter, 1)
        async with run.watch() as changes:
            await gather(changes, 1)
            await run.signal("go", 1)
            await run.result()
            await trio.sleep(3 * FEED_INTERVAL_SECONDS)
            await engine.delete(run.id)
            records = await gather_until(changes, lambda record: False)
    assert records[-1].status is S.COMPLETED


@pytest.mark.parametrize("how", ["delete", "prune", "delete and start anew"])
async def test_a_run_that_others_remove_before_its_end_was_seen_ends_its_watch_and_its_wait(
    file_path: str, how: str
) -> None:
    store = BlindStore(store_at(file_path))
    errors: list[BaseException] = []

    async def expect_not_found(wait: Callable[[], Any]) -> None:
        with pytest.raises(RunNotFound) as caught:
            await wait()
        errors.append(caught.value)

    async with serving(file_path, waiter) as engine, Engine(store) as client:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        async with client.watch(run_id=run.id) as changes, client.watch() as every:
            await gather(changes, 1)
            await gather(every, 1)
            with trio.fail_after(PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(expect_not_found, lambda: anext(changes))
                    if how != "delete and start anew":
                        nursery.start_soon(expect_not_found, client.get(run.id).result)
                    await trio.sleep(3 * FEED_INTERVAL_SECONDS)
                    store.is_blind = True
                    await run.signal("go", 1)
                    await run.result()
                    assert await engine.prune(FOR_EVER) == 1 if how == "prune" else True
                    if how != "prune":
                        await engine.delete(run.id)
                    if how == "delete and start anew":
                        await engine.start(waiter, 1, id=run.id, tags={"new": "yes"})
                    store.is_blind = False
            with pytest.raises(StopAsyncIteration):
                await anext(changes)
            if how == "delete and start anew":
                assert (await gather(every, 1))[0].tags == {"new": "yes"}
            else:
                assert await nothing_more(every)
    assert len(errors) == (1 if how == "delete and start anew" else 2)


async def test_a_run_that_this_process_removes_at_once_leaves_no_watcher_waiting(store_path: str) -> None:
    """Its end may or may not have been seen; in no case does the iteration go on for ever."""
    async with serving(store_path, waiter) as engine:
        for _ in range(20):
            run = await engine.start(waiter, 1)
            async with run.watch() as changes:
                await run.signal("go", 1)
                await run.result()
                await engine.delete(run.id)
                with trio.fail_after(PATIENCE_SECONDS):
                    try:
                        assert [record async for record in changes][-1].status is S.COMPLETED
                    except RunNotFound:
                        continue


# ---- the feed crashes ------------------------------------------------------------------------------------------------


class FaultyStore(WrappedStore):
    """Fails at some reads, each once, when a test says so."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.faults: set[type[Question[Any]]] = set()

    def ask(self, question: Question[Any]) -> Any:
        if (asked := type(question)) in self.faults:
            self.faults.discard(asked)
            raise RuntimeError(f"a fault in the answer to {asked.__name__}")
        return self.inner.ask(question)


async def test_a_feed_that_has_crashed_misses_nothing_once_it_is_started_again(store_path: str) -> None:
    """It has noticed the last commit and then crashed; no further commit wakes it."""
    store = FaultyStore(store_at(store_path))
    async with serving_on(store, waiter) as engine:
        run = await engine.start(waiter, 1)
        await wait_passivated(engine)
        async with run.watch() as one, engine.watch() as every:
            await gather(one, 1)
            await gather(every, 1)
            await nothing_more(every)
            store.faults.add(ListNews)
            await run.signal("go", 1)
            await run.result()
            for changes in (one, every):
                records = await gather_until(changes, lambda record: record.status.is_final)
                assert records[-1].status is S.COMPLETED
            assert await nothing_more(every)
    assert not store.faults


async def test_messages_and_ends_of_other_processes_are_not_missed_when_the_feed_crashes(file_path: str) -> None:
    store = FaultyStore(store_at(file_path))
    async with serving_on(store, waiter) as engine, Engine(file_path) as client:
        run = await engine.start(waiter, 1)
        unknown = await client.start("unknown")
        with trio.fail_after(PATIENCE_SECONDS):
            store.faults.add(ListSent)
            await client.send_signal(run.id, "go", 1)
            assert await run.result() == [1]
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(RunCancelled):
                        await engine.get(unknown.id).result()

                nursery.start_soon(wait)
                await trio.sleep(3 * FEED_INTERVAL_SECONDS)
                store.faults.add(FindEnded)
                await client.cancel(unknown.id)
    assert not store.faults
