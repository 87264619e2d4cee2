"""What watches cost the store: a hundred no more than one, and runs that nobody has watched nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from durable_trio import Engine, RunStatus
from durable_trio.engine.services.feed import Subscription
from durable_trio.limits import FEED_INTERVAL_SECONDS
from durable_trio.stores.contract import Store
from durable_trio.stores.news_questions import Change, FindCursor, ListChanges, ListNews
from durable_trio.stores.questions import FindEnded, FindMissing, FindRun, ListRuns, Question, ReadValues
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated, wait_until
from tests.engine.watching.kit import gather, gather_until, quick, serving_on, waiter
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus


_COUNTED = (FindEnded, FindRun, ListRuns, ListChanges, ListNews, FindCursor, ReadValues, FindMissing)


class CountingStore(WrappedStore):
    """Counts reads, and the rows of changes that they give."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.reads: Counter[str] = Counter()
        self.row_count = 0

    def ask(self, question: Question[Any]) -> Any:
        answer = self.inner.ask(question)
        if isinstance(question, _COUNTED):
            self.reads[type(question).__name__] += 1
        if isinstance(question, ListChanges | ListNews):
            self.row_count += len(answer.changes)
        return answer


async def reads_with(count: int, path: str) -> Counter[str]:
    """Return the reads of a client with so many watchers after they have begun, while another makes 40 commits."""
    store = CountingStore(store_at(path))
    async with (
        Engine(path) as other,
        Engine(store) as client,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        watches = [client.watch(), client.watch(workflow="unknown"), client.watch(tags={"a": "b"})]
        every = [await stack.enter_async_context(watches[n % 3] if n < 3 else client.watch()) for n in range(count)]
        seen = [0] * count

        async def look(number: int) -> None:
            async for _ in every[number]:
                seen[number] += 1

        for number in range(count):
            nursery.start_soon(look, number)
        store.reads.clear()
        for commit in range(20):
            run = await other.start("unknown", tags={"a": "b"}, delay=3600)
            await wait_until(lambda: seen == [2 * commit + 1] * count)  # noqa: B023
            await run.cancel()
            await wait_until(lambda: seen == [2 * commit + 2] * count)  # noqa: B023
        nursery.cancel_scope.cancel()
    return store.reads


async def test_a_hundred_watchers_cost_no_more_queries_than_one(new_store: Callable[[], str]) -> None:
    """Beyond the first read of each, which gives it the present state."""
    one = await reads_with(1, new_store())
    hundred = await reads_with(100, new_store())
    assert one.keys() == hundred.keys() == {"ListNews"}
    assert {one["ListNews"], hundred["ListNews"]} <= {40, 41}  # once more for what came before, on a busy machine


async def test_a_hundred_watchers_of_executing_runs_cost_at_most_one_query_per_look(file_path: str) -> None:
    store = CountingStore(store_at(file_path, durability="normal"))
    async with serving_on(store, waiter) as engine:
        runs = [await engine.start(waiter, 5) for _ in range(10)]
        ended = 0

        async def look(number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            nonlocal ended
            async with runs[number % 10].watch() as changes:
                task_status.started()
                records = [record async for record in changes]
                assert records[-1].status is S.COMPLETED
                ended += 1

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    await nursery.start(look, number)
                store.reads.clear()
                began = trio.current_time()
                for number in range(5):
                    for run in runs:
                        await run.signal("go", number)
        looks = (trio.current_time() - began) / FEED_INTERVAL_SECONDS + 2
        assert ended == 100
        assert store.reads["ListNews"] + store.reads["ListChanges"] <= looks
        # A store that cannot tell whether others have committed has them looked for, once a second.
        assert set(store.reads) <= {"ListNews", "ListChanges", "FindCursor", "FindMissing", "ListSent"}


@pytest.mark.unmeasured
async def test_ten_thousand_runs_are_given_once_each_to_a_watcher_and_read_at_most_twice() -> None:
    """What a watcher reads grows with the runs, not with their square."""
    count = 10_000
    store = CountingStore(store_at(":memory:"))
    async with serving_on(store, quick) as engine:
        half: Sequence[int] = range(count // 2)
        for _ in half:
            await engine.start("unknown", delay=3600)
        store.row_count, store.reads = 0, Counter()
        seen: Counter[str] = Counter()
        with trio.fail_after(3 * PATIENCE_SECONDS):
            async with engine.watch() as changes, trio.open_nursery() as nursery:

                async def start() -> None:
                    for _ in half:
                        await engine.start("unknown", delay=3600)

                nursery.start_soon(start)
                async for record in changes:
                    seen[record.id] += 1
                    if len(seen) == count:
                        break
        assert set(seen.values()) == {1}
        assert store.row_count <= 2 * count  # by the watcher while it is behind, and by the feed for whoever is not


async def test_a_first_watcher_does_not_read_again_what_nobody_has_watched(file_path: str) -> None:
    """Runs whose results were waited for were not looked at; the first watch passes over them."""
    store = CountingStore(store_at(file_path, durability="normal"))
    async with serving_on(store, quick, waiter) as engine:
        other = await engine.start(waiter, 1)
        results: list[int] = []

        async def start_and_wait(number: int) -> None:
            results.append(await engine.run(quick, number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.result)  # so that somebody waits all the time
            for number in range(1200):
                await start_and_wait(number)
            store.row_count = 0
            async with other.watch() as changes:
                await other.signal("go", 1)
                records = await gather_until(changes, lambda record: False)
        assert records[-1].status is S.COMPLETED
        assert len(results) == 1200
        assert store.row_count < 20


async def test_who_only_waits_for_an_end_reads_nothing_of_what_others_start(file_path: str) -> None:
    store = CountingStore(store_at(file_path))
    async with serving_on(store, waiter) as engine, Engine(file_path) as client:
        run = await engine.start(waiter, 1)
        ended = trio.Event()

        async def wait() -> None:
            assert await run.result() == [1]
            ended.set()

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                for _ in range(200):
                    await client.start("unknown")
                await wait_until(lambda: store.reads["FindEnded"] > 0)
                await client.send_signal(run.id, "go", 1)
                await ended.wait()
    assert store.row_count == 0


async def test_a_change_is_offered_only_to_those_whom_it_may_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many runs with a watcher each cost no more than their number."""
    offered: list[str | None] = []
    offer = Subscription.offer

    def noted(subscription: Subscription, change: Change) -> None:
        offered.append(subscription.run_id)
        offer(subscription, change)

    monkeypatch.setattr(Subscription, "offer", noted)
    async with serving(":memory:", waiter) as engine, AsyncExitStack() as stack:
        runs = [await engine.start(waiter, 1) for _ in range(30)]
        await wait_passivated(engine)
        watches = [await stack.enter_async_context(run.watch()) for run in runs]
        for changes in watches:
            await gather(changes, 1)
        await runs[7].signal("go", 1)
        assert (await gather_until(watches[7], lambda _: False))[-1].status is S.COMPLETED
    assert set(offered) == {runs[7].id}
