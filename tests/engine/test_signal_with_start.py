"""A start that comes with a signal: both or neither."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunConflict, RunFinished, RunStatus, StepStatus, workflow
from durable_trio.stores.questions import FindRun, ListUnread
from tests.engine.harness import serving, wait_passivated
from tests.kit.crash_points import at_every_commit, crashing_store, live_through
from tests.kit.traces import counting, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


@workflow
async def collecting(ctx: Context, count: int) -> list[Any]:
    return [await ctx.wait_signal("item") for _ in range(count)]


async def test_the_first_call_starts_the_run_and_the_others_find_it(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        for number in range(3):
            run = await engine.signal_with_start(collecting, 3, signal="item", payload=number, id="basket")
            await wait_passivated(engine)
        assert await run.result() == [0, 1, 2]
        assert len((await engine.list_runs()).runs) == 1


async def test_it_takes_the_options_of_a_start(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        began = trio.current_time()
        run = await engine.signal_with_start(
            collecting, 1, signal="item", id="basket", delay=50, tags={"kind": "test"}, queue="slow"
        )
        assert await run.result() == [None]
        record = await run.record()
        assert (dict(record.tags), record.queue) == ({"kind": "test"}, "slow")
        assert trio.current_time() - began >= 50


async def test_a_refused_start_leaves_no_signal(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        run = await engine.signal_with_start(collecting, 2, signal="item", payload="first", id="basket")
        with pytest.raises(RunConflict):
            await engine.signal_with_start(collecting, 3, signal="item", payload="refused", id="basket")
        await run.signal("item", "second")
        assert await run.result() == ["first", "second"]
        with pytest.raises(RunFinished):
            await engine.signal_with_start(collecting, 2, signal="item", payload="late", id="basket")


async def test_a_refused_signal_leaves_no_run(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        refused: list[dict[str, Any]] = [
            {"signal": " item", "id": "x"},
            {"signal": "item", "payload": object(), "id": "x"},
            {"signal": "item", "signal_id": "", "id": "x"},
            {"signal": "item", "id": ""},
        ]
        for options in refused:
            with pytest.raises(Exception, match=r"signal|run id"):
                await engine.signal_with_start(collecting, 1, **options)
        assert (await engine.list_runs()).runs == ()


async def test_the_same_signal_id_is_one_signal(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:
        for _ in range(3):
            run = await engine.signal_with_start(collecting, 2, signal="item", payload=1, id="b", signal_id="one")
        await run.signal("item", 2)
        assert await run.result() == [1, 2]


async def test_many_at_once_start_one_run(autojump_clock: MockClock) -> None:
    async with virtual(collecting) as engine:

        async def send(number: int) -> None:
            await engine.signal_with_start(collecting, 20, signal="item", payload=number, id="basket")

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(send, number)
        assert sorted(await engine.get("basket", collecting).result()) == list(range(20))


async def test_both_or_neither_are_stored_whatever_commit_crashes(autojump_clock: MockClock) -> None:
    seen_in_between: set[tuple[int, int]] = set()

    async def scenario(engine: Engine) -> Any:
        runs = (await engine.list_runs()).runs
        writer = engine._client.services_in_use().writer  # the mailbox is nowhere in the public API
        row = writer.store.ask(FindRun("basket"))
        if row is not None and row.status is S.PENDING:
            seen_in_between.add((len(runs), len(writer.store.ask(ListUnread(row.run)))))
        run = await engine.signal_with_start(
            collecting, 1, signal="item", payload=7, id="basket", signal_id="one", delay=5
        )
        return await run.result(), [(step.key, step.status) for step in await run.steps()]

    found, crash_count = await at_every_commit([collecting], scenario)
    assert found == ([7], [("item#0", StepStatus.COMPLETED)])
    assert seen_in_between == {(1, 1)}
    assert crash_count > 5


async def test_a_client_may_start_and_signal_what_it_does_not_know(file_path: str) -> None:
    async with Engine(file_path) as client:
        await client.signal_with_start("collecting", 1, signal="item", payload="hello", id="basket")
    async with serving(file_path, collecting) as engine:
        with trio.fail_after(20):
            assert await engine.get("basket", collecting).result() == ["hello"]


async def test_a_scenario_that_never_crashes_needs_one_life(autojump_clock: MockClock) -> None:
    """The harness itself: without a crash it is one engine, with one it is two."""
    lives: list[int] = []

    async def scenario(engine: Engine) -> int:
        lives.append(1)
        await engine.run(counting, 0, 1)
        return len(lives)

    async with crashing_store() as store:
        assert await live_through(store, [counting], scenario) == 1
    async with crashing_store() as store:
        store.crash_after(5)
        assert await live_through(store, [counting], scenario) == 3
