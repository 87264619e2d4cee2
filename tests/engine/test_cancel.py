"""Cancelling runs: in every status, and at every instant."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, Retry, RunCancelled, RunNotFound, RunStatus, StepKind, current_step, workflow
from durable_trio.testing import VirtualClock
from tests.engine.flows import sleeper, waiter
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


async def test_a_pending_run_is_cancelled_at_once_and_never_begins(store_path: str) -> None:
    begun: list[str] = []

    @workflow
    async def noting(ctx: Context) -> None:
        begun.append(ctx.run_id)

    async with serving(store_path, noting) as engine:
        run = await engine.start(noting, delay=3600)
        assert await run.cancel("changed my mind")
        record = await run.record()
        assert record.status is S.CANCELLED
        assert record.started_at is None
        assert record.finished_at is not None
        assert await run.steps() == ()
        with pytest.raises(RunCancelled):
            await run.result()
    assert begun == []


async def test_a_running_run_is_cancelled_in_the_middle_of_its_step(store_path: str) -> None:
    begun = trio.Event()

    async def hang() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", hang)

    async with serving(store_path, hanging) as engine:
        run = await engine.start(hanging)
        await begun.wait()
        assert (await run.record()).status is S.RUNNING
        assert await run.cancel(wait=True)
        assert (await run.record()).status is S.CANCELLED
        # A function that raised only Cancelled has recorded nothing.
        assert [step.kind for step in await run.steps()] == [StepKind.CANCEL]


async def test_a_sleeping_run_that_left_memory_is_cancelled(store_path: str) -> None:
    async with serving(store_path, sleeper) as engine:
        run = await engine.start(sleeper, 3600.0)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.cancel(wait=True)
        record = await run.record()
        assert (record.status, record.wake_at) == (S.CANCELLED, None)


async def test_a_sleeping_run_in_memory_is_cancelled_and_its_timer_ends_with_it(autojump_clock: MockClock) -> None:
    woken: list[str] = []

    @workflow
    async def short(ctx: Context) -> None:
        await ctx.sleep(0.9)
        woken.append(ctx.run_id)

    async with serving(":memory:", short, clock=VirtualClock()) as engine:
        run = await engine.start(short)
        await wait_status(run, S.SUSPENDED)
        assert await run.cancel(wait=True)
        assert trio.current_time() < 0.9
        await trio.sleep(10)
        assert (await run.record()).status is S.CANCELLED
        assert [step.kind for step in await run.steps()] == [StepKind.CANCEL]
    assert woken == []


async def test_a_run_that_waits_for_a_signal_is_cancelled(store_path: str) -> None:
    async with serving(store_path, waiter) as engine:
        run = await engine.start(waiter)
        await wait_passivated(engine)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.cancel(wait=True)
        assert (await run.record()).status is S.CANCELLED


@pytest.mark.parametrize("delay", [0.9, 3600.0])
async def test_a_retry_that_waits_is_ended_by_cancel(autojump_clock: MockClock, delay: float) -> None:
    attempts: list[int] = []

    async def fail() -> None:  # sync ones run in threads, which virtual time does not wait for
        attempts.append(current_step().attempt)
        raise OSError("no")

    @workflow
    async def retrying(ctx: Context) -> None:
        await ctx.step("call", fail, retry=Retry.fixed(5, delay))

    async with serving(":memory:", retrying, clock=VirtualClock()) as engine:
        run = await engine.start(retrying)
        await wait_status(run, S.SUSPENDED)
        began = trio.current_time()
        assert await run.cancel(wait=True)
        assert trio.current_time() == began
        await trio.sleep(2 * delay)
        assert (await run.record()).status is S.CANCELLED
    assert attempts == [1]


async def test_a_run_that_compensates_is_not_cancelled_and_goes_on_compensating(store_path: str) -> None:
    begun, go = trio.Event(), trio.Event()
    undone: list[str] = []

    async def undo(result: str) -> None:
        begun.set()
        await go.wait()
        undone.append(result)

    @workflow
    async def failing(ctx: Context) -> None:
        for name in ("a", "b"):
            await ctx.step(name, lambda name: name, name, compensate=undo, returns=str)
        raise ValueError("no")

    async with serving(store_path, failing) as engine:
        run = await engine.start(failing)
        await begun.wait()
        assert (await run.record()).status is S.COMPENSATING
        assert await run.cancel("too late") is False
        assert await engine.cancel(run.id) is False
        go.set()
        record = await wait_status(run, S.FAILED)
        assert isinstance(record.error, ValueError)
    assert undone == ["b", "a"]


@pytest.mark.parametrize("ending", [S.COMPLETED, S.FAILED, S.CANCELLED])
async def test_cancelling_a_run_that_has_ended_changes_nothing_and_says_so(store_path: str, ending: RunStatus) -> None:
    @workflow
    async def ended(ctx: Context, how: str) -> str:
        if how == "failed":
            raise ValueError("no")
        if how == "cancelled":
            await ctx.sleep(3600)
        return "done"

    async with serving(store_path, ended) as engine:
        run = await engine.start(ended, ending.value)
        if ending is S.CANCELLED:
            await run.cancel("first", wait=True)
        before = await wait_status(run, ending)
        assert await run.cancel("second", wait=True) is False
        after = await run.record()
        assert (after.status, after.result, after.finished_at) == (before.status, before.result, before.finished_at)
        assert str(after.error) == str(before.error)


async def test_cancelling_an_unknown_run_is_an_error(store_path: str) -> None:
    async with serving(store_path, sleeper) as engine:
        with pytest.raises(RunNotFound) as caught:
            await engine.cancel("nobody")
        assert caught.value.run_id == "nobody"
        with pytest.raises(RunNotFound):
            await engine.get("nobody").cancel(wait=True)


async def test_a_parked_run_can_be_cancelled(store_path: str) -> None:
    goes_left = True

    @workflow
    async def fickle(ctx: Context) -> None:
        await ctx.step("left" if goes_left else "right", lambda: None)
        await ctx.wait_signal("go")

    async with serving(store_path, fickle) as engine:
        run = await engine.start(fickle)
        await wait_passivated(engine)
        goes_left = False
        await run.signal("go")
        await wait_parked(run)
        goes_left = True
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.cancel("give it up", wait=True)
        record = await run.record()
        assert (record.status, record.problem) == (S.CANCELLED, None)


async def test_a_run_whose_executor_is_gone_is_cancelled_by_the_next(file_path: str) -> None:
    async with serving(file_path, sleeper) as engine:
        await engine.start(sleeper, 3600.0, id="r")
        await wait_passivated(engine)
    async with Engine(file_path) as client:
        assert await client.cancel("r", reason="while nobody serves")
        assert (await client.get("r").record()).status is S.SUSPENDED
    async with serving(file_path, sleeper) as engine:
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunCancelled) as caught:
            await engine.get("r").result()
        assert caught.value.reason == "while nobody serves"


async def test_a_run_of_another_engine_is_cancelled(file_path: str) -> None:
    begun = trio.Event()

    async def hang() -> None:
        begun.set()
        await trio.sleep_forever()

    @workflow
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", hang)

    async with serving(file_path, hanging) as engine, Engine(file_path) as client:
        run = await engine.start(hanging)
        await begun.wait()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await client.get(run.id).cancel("from afar", wait=True)
        assert (await run.record()).status is S.CANCELLED


async def test_a_cancel_at_any_instant_of_a_start_is_noticed(file_path: str) -> None:
    """Sent as soon as the run is stored, while it is on its way into memory."""

    @workflow
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", trio.sleep_forever)

    async def cancel(engine: Engine, run_id: str) -> None:
        while True:
            try:
                await engine.cancel(run_id)
            except RunNotFound:
                continue
            return

    async with serving(file_path, hanging, grace_seconds=0) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(100):
                run_id = f"r{number}"
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel, engine, run_id)
                    run = await engine.start(hanging, id=run_id)
                with pytest.raises(RunCancelled):
                    await run.result()


async def test_a_cancel_at_any_instant_of_a_claim_is_noticed(file_path: str) -> None:
    """As above, for runs that the dispatcher takes."""

    @workflow
    async def hanging(ctx: Context) -> None:
        await ctx.step("hang", trio.sleep_forever)

    async with serving(file_path, hanging, grace_seconds=0) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            for number in range(60):
                run = await engine.start(hanging, delay=0.002)
                await trio.sleep(number % 8 / 1000)
                assert await run.cancel(wait=True)


async def test_a_cancel_that_comes_with_the_end_of_a_body_is_no_foreign_wait_of_it(file_path: str) -> None:
    """The end is refused then, and the cancel read first: what that waits for is ours, also where bodies are strict."""

    async def cancel(run_id: str) -> None:
        async with Engine(file_path) as client:
            assert await client.cancel(run_id)

    @workflow(strict=True)
    async def ending(ctx: Context) -> None:
        await ctx.step("work", trio.lowlevel.checkpoint)
        canceller = threading.Thread(target=trio.run, args=(cancel, ctx.run_id))
        canceller.start()
        canceller.join()  # so that nothing else of this process goes on, and nobody has heard of it

    async with serving(file_path, ending) as engine:
        run = await engine.start(ending)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RunCancelled):
            await run.result()
