"""An engine that is suspended executes nothing and owns nothing; resumed, it goes on."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunStatus, workflow
from durable_trio.platforms import LifeCycle, WakeUp, WakeUpFailed
from durable_trio.stores.questions import CountBacklog, ListExecutors
from tests.engine.flows import sleeper
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_passivated, wait_status, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


@workflow
async def quick(ctx: Context) -> str:
    return await ctx.step("say", lambda: "done")


class Noted(WakeUp):
    """Notes what it is asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[datetime] = []
        self._error = error

    async def schedule(self, at: datetime) -> None:
        await trio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        self.asked.append(at)

    async def cancel(self) -> None:
        raise AssertionError("nobody takes a wake-up back")

    def describe(self) -> str:
        return "noted"


async def owns_nothing(engine: Engine) -> bool:
    """Whether nobody is an executor, and no run is owned."""
    writer = executor_of(engine).writer
    backlog = await writer.ask(CountBacklog((), now=0, due_max=1))
    return not backlog.owned_counts and not await writer.ask(ListExecutors())


async def test_suspended_it_executes_nothing_and_resumed_it_does(store_path: str) -> None:
    async with serving(store_path, quick) as engine:
        life = LifeCycle(engine)
        assert await life.suspend(5) is None
        assert life.is_suspended
        assert await owns_nothing(engine)
        run = await engine.start(quick)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert (await run.record()).status is RunStatus.PENDING
        await life.resume()
        assert not life.is_suspended
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "done"


async def test_a_step_in_hand_may_finish_and_the_next_is_for_later(store_path: str) -> None:
    begun, go = trio.Event(), trio.Event()
    done: list[str] = []

    async def step() -> None:
        begun.set()
        await go.wait()
        done.append("first")

    @workflow
    async def two(ctx: Context) -> None:
        await ctx.step("first", step)
        await ctx.step("second", lambda: done.append("second"))

    async with serving(store_path, two) as engine:
        life = LifeCycle(engine)
        run = await engine.start(two)
        await begun.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.suspend, math.inf)
            await wait_until(lambda: executor_of(engine).runs.is_draining)
            go.set()
        assert done == ["first"]
        assert await owns_nothing(engine)
        await life.resume()
        with trio.fail_after(PATIENCE_SECONDS):
            await run.result()
        assert done == ["first", "second"]


async def test_a_step_that_takes_longer_is_begun_again(store_path: str) -> None:
    begun: list[int] = []

    async def step() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            await trio.sleep_forever()

    @workflow
    async def slow(ctx: Context) -> None:
        await ctx.step("wait", step)

    async with serving(store_path, slow) as engine:
        life, run = LifeCycle(engine), await engine.start(slow)
        await wait_until(lambda: begun)
        due = await life.suspend(0.6)
        assert due is not None
        assert due <= datetime.now(UTC) + timedelta(seconds=PATIENCE_SECONDS)
        assert (await run.record()).recoveries == 0
        await life.resume()
        with trio.fail_after(PATIENCE_SECONDS):
            await run.result()
    assert begun == [0, 1]


async def test_a_step_in_a_thread_is_not_waited_for_and_is_not_executed_twice_at_a_time(store_path: str) -> None:
    go, begun, at_once = threading.Event(), [], []

    def step() -> None:
        at_once.append(1)
        begun.append(len(at_once))
        if len(begun) == 1:
            go.wait()
        at_once.pop()

    @workflow
    async def blocking(ctx: Context) -> None:
        await ctx.step("block", step)

    async with serving(store_path, blocking) as engine:
        life, run = LifeCycle(engine), await engine.start(blocking)
        await wait_until(lambda: begun)
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                await life.suspend(0)
                await life.resume()
            finally:
                go.set()
            await run.result()
    assert begun == [1, 1]


async def test_the_wake_up_is_asked_for_the_next_run_that_is_due(file_path: str) -> None:
    wake_up = Noted()
    async with serving(file_path, sleeper) as engine:
        life = LifeCycle(engine, wake_up=wake_up)
        await life.suspend(timedelta(seconds=5))
        assert wake_up.asked == []  # nothing is due by itself
        await life.resume()
        run = await engine.start(sleeper, 3600.0)
        await wait_status(run, RunStatus.SUSPENDED)
        due = await life.suspend(5)
        assert wake_up.asked == [due]
        assert (await run.record()).wake_at == due
        assert await life.suspend(5) == due
        await life.resume()
        await life.resume()
        await wait_passivated(engine)


async def test_others_go_on_with_what_was_given_back(file_path: str) -> None:
    begun = trio.Event()
    where: list[str] = []

    def make(name: str) -> Any:
        @workflow(name="stays")
        async def stays(ctx: Context) -> None:
            async def step() -> None:
                where.append(name)
                if len(where) == 1:
                    begun.set()
                    await trio.sleep_forever()

            await ctx.step("wait", step)

        return stays

    first, second = make("first"), make("second")
    async with serving(file_path, first) as engine:
        run = await engine.start(first)
        await begun.wait()
        life = LifeCycle(engine)
        await life.suspend(0)
        async with serving(file_path, second):
            with trio.fail_after(PATIENCE_SECONDS):
                await run.result()
        await life.resume()
    assert where == ["first", "second"]


async def test_who_comes_back_at_once_does_not_wait_for_the_drain(store_path: str) -> None:
    """A step in hand is begun again."""
    begun, go = trio.Event(), trio.Event()

    async def step() -> None:
        begun.set()
        await go.wait()

    @workflow
    async def slow(ctx: Context) -> None:
        await ctx.step("wait", step)

    async with serving(store_path, slow, quick) as engine:
        life, run = LifeCycle(engine), await engine.start(slow)
        await begun.wait()
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.suspend, math.inf)
                await wait_until(lambda: executor_of(engine).runs.is_draining)
                await life.resume()
            assert not life.is_suspended
            assert await engine.run(quick) == "done"
            go.set()
            await run.result()


async def test_a_suspension_that_is_cancelled_has_not_been(store_path: str) -> None:
    begun = trio.Event()

    async def step() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def slow(ctx: Context) -> None:
        await ctx.step("wait", step)

    async with serving(store_path, slow, quick, grace_seconds=0.05) as engine:
        await engine.start(slow)
        await begun.wait()
        life = LifeCycle(engine)
        with trio.move_on_after(0.05):
            await life.suspend(math.inf)
        assert not life.is_suspended
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(quick) == "done"


async def test_that_nobody_wakes_it_up_is_told_and_it_rests_all_the_same(file_path: str) -> None:
    async with serving(file_path, quick) as engine:
        await engine.start(quick, delay=3600)
        life = LifeCycle(engine, wake_up=Noted(WakeUpFailed("no such platform")))
        with pytest.raises(WakeUpFailed):
            await life.suspend(5)
        assert life.is_suspended
        assert await owns_nothing(engine)
        await life.resume()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(quick) == "done"


async def test_a_service_that_crashes_meanwhile_does_not_have_it_go_on(file_path: str) -> None:
    async with serving(file_path, quick) as engine:
        life = LifeCycle(engine)
        await life.suspend(5)
        recovery = executor_of(engine).recovery
        before = recovery._scope
        recovery.failed(RuntimeError("a fault of ours"))
        await wait_until(lambda: recovery._scope is not before)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert await owns_nothing(engine)
        await life.resume()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.run(quick) == "done"


async def test_a_client_has_nothing_to_suspend(file_path: str) -> None:
    async with Engine(file_path) as client:
        with pytest.raises(RuntimeError, match="executes nothing in this process"):
            await LifeCycle(client).suspend(1)
        with pytest.raises(RuntimeError, match="executes nothing in this process"):
            await LifeCycle(client).resume()
    with pytest.raises(RuntimeError, match="not open"):
        await LifeCycle(Engine(file_path)).resume()
