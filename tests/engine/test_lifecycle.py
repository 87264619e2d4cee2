"""An engine that serves: order, delays, draining, and what becomes of the runs that are under way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Detached, Engine, Run, RunStatus, workflow
from durable_trio.testing import VirtualClock
from tests.engine.flows import gated, waiter
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, serving, start_in_scope

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


@workflow
async def quick(ctx: Context, value: int) -> int:
    return value


# ---- order and delay -------------------------------------------------------------------------------------------------


async def test_runs_are_taken_by_priority_and_then_in_order(store_path: str) -> None:
    """With room for one, while it is taken."""
    go = trio.Event()
    taken: list[str] = []

    @workflow
    async def noting(ctx: Context) -> None:
        taken.append(ctx.run_id)
        if ctx.run_id == "first":
            await ctx.step("hold", go.wait)

    async with serving(store_path, noting, concurrency=1) as engine:
        await engine.start(noting, id="first")
        wanted = [
            ("low", -5),
            ("normal 1", 0),
            ("high", 10),
            ("normal 2", 0),
            ("highest", 2**31 - 1),
            ("lowest", -(2**31)),
        ]
        runs = [await engine.start(noting, id=run_id, priority=priority) for run_id, priority in wanted]
        go.set()
        with trio.fail_after(PATIENCE_SECONDS):
            for run in runs:
                await run.result()
        assert (await engine.get("high").record()).priority == 10
    assert taken == ["first", "highest", "high", "normal 1", "normal 2", "low", "lowest"]


@pytest.mark.parametrize("priority", [2**31, -(2**31) - 1, 1.0, "1", True, None])
async def test_a_priority_that_cannot_be_stored_is_refused(priority: Any) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(ValueError, match="priority"):
            await engine.start(quick, 0, priority=priority)
        assert (await engine.list_runs()).runs == ()


async def test_no_more_runs_are_in_memory_than_the_concurrency_allows(store_path: str) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        inside -= 1

    @workflow
    async def working(ctx: Context) -> None:
        await ctx.step("work", work)
        await ctx.step("work", work)

    async with serving(store_path, working, concurrency=3) as engine:
        runs: list[Run[None]] = []

        async def start(number: int) -> None:
            runs.append(await engine.start(working, delay=None if number % 2 else 0.001))

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(start, number)
            for run in runs:
                await run.result()
                assert (await engine.status()).resident_runs <= 3
    assert most == 3


async def test_a_delayed_run_begins_after_its_delay_and_not_before(autojump_clock: MockClock) -> None:
    @workflow
    async def timed(ctx: Context) -> float:
        return trio.current_time()

    async with serving(":memory:", timed, clock=VirtualClock()) as engine:
        run = await engine.start(timed, delay=90.0)
        record = await run.record()
        assert (record.status, record.started_at) == (S.PENDING, None)
        assert record.wake_at == datetime(2030, 1, 1, 0, 1, 30, tzinfo=UTC)
        assert 90.0 <= await run.result() < 90.001
        run = await engine.start(timed, at=datetime(2030, 1, 1, 1, tzinfo=UTC))
        assert 3600.0 <= await run.result() < 3600.001


@pytest.mark.parametrize(
    "options", [{"delay": 0}, {"delay": -5.0}, {"delay": timedelta(0)}, {"at": datetime(2000, 1, 1, tzinfo=UTC)}]
)
async def test_a_delay_that_is_over_is_none(autojump_clock: MockClock, options: dict[str, Any]) -> None:
    async with serving(":memory:", quick, clock=VirtualClock()) as engine:
        assert await engine.run(quick, 3, **options) == 3
        assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": float("nan")}, ValueError),
        ({"at": datetime(2030, 1, 1)}, ValueError),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, ValueError),
        ({"delay": "1"}, TypeError),
        ({"at": 5.0}, TypeError),
        ({"ttl": float("nan")}, ValueError),
        ({"tags": {"a": 1}}, TypeError),
        ({"tags": {"": "x"}}, ValueError),
        ({"queue": " "}, ValueError),
    ],
)
async def test_options_of_a_start_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(error):
            await engine.start(quick, 0, **options)
        assert (await engine.list_runs()).runs == ()


async def test_a_delay_is_kept_over_a_restart(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, quick, clock=clock) as engine:
        await engine.start(quick, 7, id="r", delay=100)
    clock.advance(99.9)
    async with serving(file_path, quick, clock=clock) as engine:
        await trio.sleep(0.05)
        assert (await engine.get("r").record()).status is S.PENDING
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 7


async def test_a_delay_given_by_a_client_is_noticed_by_who_serves(file_path: str) -> None:
    async with serving(file_path, quick) as engine, Engine(file_path) as client:
        far = await client.start("quick", 1, delay=3600)
        near = await client.start("quick", 2, delay=0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await client.get(near.id, quick).result() == 2
        assert (await engine.get(far.id).record()).status is S.PENDING


async def test_tags_are_those_of_the_workflow_and_of_the_start(store_path: str) -> None:
    @workflow(tags={"team": "blue", "size": "S"})
    async def tagged(ctx: Context) -> None:
        pass

    async with serving(store_path, tagged) as engine:
        run = await engine.start(tagged, tags={"size": "L", "é": ""}, queue="mail")
        record = await run.record()
        assert record.tags == {"team": "blue", "size": "L", "é": ""}
        assert record.queue == "mail"


async def test_a_run_can_be_started_by_name(store_path: str) -> None:
    async with serving(store_path, quick) as engine:
        run = await engine.start("quick", 5)
        assert await run.result() == 5
        with pytest.raises(TypeError):
            await engine.start("quick", 1, 2, 3)
        with pytest.raises(TypeError):
            await engine.start(cast(Any, lambda ctx: None))


# ---- ways to serve ---------------------------------------------------------------------------------------------------


async def test_serve_as_a_child_task_is_ready_when_started_and_usable(file_path: str) -> None:
    engine = Engine(file_path, workflows=[quick])
    with pytest.raises(RuntimeError, match="not open"):
        await engine.start(quick, 0)
    async with trio.open_nursery() as nursery:
        served = await nursery.start(engine.serve)
        assert served is engine
        assert await engine.run(quick, 3) == 3
        with pytest.raises(RuntimeError, match="in use"):
            await engine.serve()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await engine.start(quick, 0)
    with pytest.raises(trio.ClosedResourceError):
        await engine.serve()


@pytest.mark.parametrize("opened", [Engine.serve, Engine.__aenter__])
def test_an_engine_that_asyncio_opens_says_that_it_needs_trio(
    opened: Callable[[Engine], Coroutine[Any, Any, Any]],
) -> None:
    with pytest.raises(RuntimeError, match=r"call trio\.run\(main\); asyncio cannot run it"):
        asyncio.run(opened(Engine(":memory:")))


async def test_serve_of_a_client_says_what_serves(file_path: str) -> None:
    async with Engine(file_path, workflows=[quick]) as client:
        with pytest.raises(RuntimeError, match=r"executes nothing: to serve, use `async with open_engine"):
            await client.serve()


async def test_serve_cancelled_as_a_child_lets_the_step_in_flight_finish_and_begins_no_other(file_path: str) -> None:
    begun, go = trio.Event(), trio.Event()
    ran: list[str] = []

    async def first() -> str:
        begun.set()
        await go.wait()
        ran.append("first")
        return "first"

    @workflow
    async def two(ctx: Context) -> list[str]:
        return [await ctx.step("first", first), await ctx.step("second", note, "second")]

    async def note(name: str) -> str:
        ran.append(name)
        return name

    engine = Engine(file_path, workflows=[two])
    async with trio.open_nursery() as nursery:
        scope = await start_in_scope(nursery, engine)
        await engine.start(two, id="r")
        await begun.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert ran == ["first"]
    async with Engine(file_path) as client:
        run = client.get("r")
        assert [step.key for step in await run.steps()] == ["first#0"]
        record = await run.record()
        assert not record.status.is_final
        assert record.recoveries == 0
    async with serving(file_path, two) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == ["first", "second"]
    assert ran == ["first", "second"]


async def test_after_its_grace_serve_detaches_what_still_runs(file_path: str) -> None:
    begun = trio.Event()
    seen: list[str] = []
    hangs = True

    async def hang() -> str:
        begun.set()
        try:
            if hangs:
                await trio.sleep_forever()
        finally:
            seen.append("step ends")
        return "done"

    @workflow
    async def hanging(ctx: Context) -> str:
        try:
            return await ctx.step("hang", hang)
        finally:
            seen.append(f"finally, detaching: {ctx.detaching}")

    engine = Engine(file_path, workflows=[hanging], grace_seconds=0.1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        scope = await start_in_scope(nursery, engine)
        await engine.start(hanging, id="r")
        await begun.wait()
        scope.cancel()
    assert 0.1 <= trio.current_time() - began < PATIENCE_SECONDS
    assert sorted(seen) == ["finally, detaching: True", "step ends"]
    hangs = False
    async with Engine(file_path) as client:
        assert await client.get("r").steps() == ()
    async with serving(file_path, hanging) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "done"


async def test_durable_calls_of_a_body_that_is_detached_raise_and_write_nothing(file_path: str) -> None:
    seen: list[str] = []
    begun = trio.Event()

    async def hang() -> None:
        begun.set()
        await trio.sleep_forever()

    steps: list[Callable[[], Any]] = [hang, lambda: None]

    @workflow
    async def stubborn(ctx: Context) -> str:
        try:
            await ctx.step("hang", steps[0])
        except trio.Cancelled:
            calls: list[Callable[[], Any]] = [
                lambda: ctx.step("more", lambda: seen.append("ran")),
                lambda: ctx.sleep(0),
                lambda: ctx.wait_signal("go"),
                lambda: ctx.publish("key", 1),
            ]
            for call in calls:
                try:
                    with trio.CancelScope(shield=True):
                        await call()
                except Detached:
                    seen.append("Detached")
            raise
        return "done"

    async with serving(file_path, stubborn, grace_seconds=0) as engine:
        await engine.start(stubborn, id="r")
        await begun.wait()
    assert seen == ["Detached"] * 4
    steps.pop(0)
    async with serving(file_path, stubborn) as engine:
        run = engine.get("r")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "done"
        assert [step.key for step in await run.steps()] == ["hang#0"]
        assert await run.values() == {}


async def test_a_sync_step_in_flight_is_waited_for_when_the_engine_drains(file_path: str) -> None:
    working, begun, go = gated()
    async with trio.open_nursery() as nursery:
        async with serving(file_path, working) as engine:
            await engine.start(working, id="r")
            await trio.to_thread.run_sync(begun.wait)
            nursery.start_soon(set_soon, go)
    async with serving(file_path, working) as engine:
        assert [step.result for step in await engine.get("r").steps()] == ["worked"]
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "worked"


async def set_soon(event: threading.Event) -> None:
    await trio.sleep(0.03)
    event.set()


async def test_nothing_is_claimed_any_more_while_the_engine_drains(file_path: str) -> None:
    begun, go = trio.Event(), trio.Event()
    ran: list[str] = []

    async def hold() -> None:
        begun.set()
        await go.wait()

    @workflow
    async def holding(ctx: Context) -> None:
        await ctx.step("hold", hold)

    @workflow
    async def noting(ctx: Context) -> None:
        ran.append(ctx.run_id)

    engine = Engine(file_path, workflows=[holding, noting])
    async with trio.open_nursery() as nursery:
        scope = await start_in_scope(nursery, engine)
        await engine.start(holding)
        await begun.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        late = await engine.start(noting)
        assert (await late.record()).status is S.PENDING
        go.set()
    assert ran == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
async def test_serve_drains_and_returns_at_a_signal_it_was_told_of(file_path: str) -> None:
    engine = Engine(file_path, workflows=[waiter])
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[Engine]) -> None:
                await engine.serve(signals=[signal.SIGUSR1], task_status=task_status)

            await nursery.start(serve)
            run = await engine.start(waiter)
            os.kill(os.getpid(), signal.SIGUSR1)
    async with Engine(file_path) as client:
        assert not (await client.get(run.id).record()).status.is_final
