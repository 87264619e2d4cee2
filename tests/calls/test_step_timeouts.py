"""Sync functions in threads, heartbeats, and timeouts."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunCancelled, RunFailed, StepTimeout, current_step, workflow
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving

pytestmark = pytest.mark.usefixtures("no_leaks")


# ---- sync functions --------------------------------------------------------------------------------------------------


async def test_a_sync_function_runs_in_a_thread_and_knows_its_step(store_path: str) -> None:
    here = threading.get_ident()

    def work(factor: int, number: int) -> list[Any]:
        step = current_step()
        return [threading.get_ident() != here, step.run_id, step.key, step.attempt, factor * number]

    @workflow
    async def threaded(ctx: Context) -> list[Any]:
        return await ctx.step("work", work, 6, 7)

    async with serving(store_path, threaded) as engine:
        assert await engine.run(threaded, id="r") == [True, "r", "work#0", 1, 42]


async def _wait_row(engine: Any, run_id: str, kind: str) -> None:
    """Return once the run has a history row of that kind."""
    with trio.fail_after(PATIENCE_SECONDS):
        while all(step.kind != kind for step in await engine.get(run_id).steps()):  # noqa: ASYNC110
            await trio.sleep(0.002)


async def test_a_cancel_waits_for_a_sync_function_and_its_outcome_is_recorded(store_path: str) -> None:
    begun, release = threading.Event(), threading.Event()
    delivered: list[str] = []

    def work() -> str:
        begun.set()
        assert release.wait(PATIENCE_SECONDS)
        return "done"

    @workflow
    async def blocks(ctx: Context) -> None:
        delivered.append(await ctx.step("work", work))
        await ctx.step("never", lambda: delivered.append("never"))

    try:
        async with serving(store_path, blocks) as engine:
            run = await engine.start(blocks, id="r")
            assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
            assert await run.cancel()
            await _wait_row(engine, "r", "cancel")
            assert not (await run.record()).status.is_final
            assert delivered == []
            release.set()
            with pytest.raises(RunCancelled):
                await run.result()
            assert [step.key for step in await run.steps() if step.kind == "step"] == ["work#0"]
    finally:
        release.set()
    assert delivered == ["done"]


async def test_a_heartbeat_is_the_cancel_point_of_a_sync_function(store_path: str) -> None:
    begun = threading.Event()
    events: list[str] = []

    def work() -> None:
        begun.set()
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                current_step().heartbeat()
                time.sleep(0.002)
            events.append("was not cancelled")
        except BaseException as error:
            events.append(type(error).__name__)
            raise

    @workflow
    async def beats(ctx: Context) -> None:
        await ctx.step("work", work)

    async with serving(store_path, beats) as engine:
        run = await engine.start(beats)
        assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        assert [step.kind for step in await run.steps()] == ["cancel"]
    assert events == ["Cancelled"]


async def test_a_timeout_waits_for_a_sync_function(store_path: str) -> None:
    """Its outcome counts, for the effect took place; without a heartbeat there is no point at which it could stop."""
    events: list[str] = []

    def work() -> str:
        time.sleep(0.25)
        events.append("worked")
        return "late"

    @workflow
    async def slow(ctx: Context) -> str:
        value = await ctx.step("slow", work, timeout=0.1)
        events.append("returned")
        return value

    async with serving(store_path, slow) as engine:
        assert await engine.run(slow) == "late"
    assert events == ["worked", "returned"]


async def test_a_heartbeat_past_the_timeout_ends_a_sync_function(store_path: str) -> None:
    beats: list[int] = []

    def work() -> None:
        for number in range(50):
            time.sleep(0.1)
            beats.append(number)
            current_step().heartbeat()

    @workflow
    async def slow(ctx: Context) -> str:
        try:
            await ctx.step("slow", work, timeout=0.01)
        except StepTimeout as error:
            return str(error.step)
        return "no timeout"

    async with serving(store_path, slow) as engine:
        assert await engine.run(slow) == "slow#0"
    assert len(beats) < 50


async def test_a_heartbeat_restarts_the_timeout(autojump_clock: MockClock) -> None:
    async def work(beat: bool) -> str:
        for _ in range(5):
            await trio.sleep(4)
            if beat:
                current_step().heartbeat()
        return "done"

    @workflow
    async def beats(ctx: Context, beat: bool) -> str:
        return await ctx.step("work", work, beat, timeout=5)

    async with serving(":memory:", beats, clock=VirtualClock()) as engine:
        assert await engine.run(beats, True) == "done"
        with pytest.raises(RunFailed) as caught:
            await engine.run(beats, False)
    assert isinstance(caught.value.error, StepTimeout)


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_abandon_lets_go_of_a_sync_function(store_path: str, how: str) -> None:
    begun, release = threading.Event(), threading.Event()
    events: list[str] = []

    def work() -> None:
        begun.set()
        release.wait(PATIENCE_SECONDS)
        events.append("came out")

    @workflow
    async def lets_go(ctx: Context) -> None:
        await ctx.step("work", work, abandon=True, timeout=0.3 if how == "timeout" else None)

    try:
        async with serving(store_path, lets_go) as engine:
            run = await engine.start(lets_go)
            assert await trio.to_thread.run_sync(begun.wait, PATIENCE_SECONDS)
            if how == "cancel":
                await run.cancel()
            with pytest.raises(RunFailed if how == "timeout" else RunCancelled) as caught:
                await run.result()
            assert events == []
            if isinstance(caught.value, RunFailed):
                assert isinstance(caught.value.error, StepTimeout)
    finally:
        release.set()


# ---- timeouts --------------------------------------------------------------------------------------------------------


async def test_a_timeout_is_recorded_and_given_back_on_replay(autojump_clock: MockClock) -> None:
    seen: list[Exception] = []

    @workflow
    async def slow(ctx: Context) -> None:
        try:
            await ctx.step("slow", trio.sleep, 100, timeout=timedelta(seconds=5))
        except trio.TooSlowError as error:
            seen.append(error)
        await ctx.sleep(60)

    async with serving(":memory:", slow, clock=VirtualClock()) as engine:
        run = await engine.start(slow, id="r")
        await run.result()
        row = (await run.steps())[0]
    live, replayed = seen
    assert type(live) is type(replayed) is StepTimeout
    assert str(live) == str(replayed)
    assert live.step == replayed.step == "slow#0"
    assert live.run_id == replayed.run_id == "r"
    assert (row.status, row.attempt) == ("timed_out", 1)
    assert row.finished_at - row.started_at == timedelta(seconds=5)


async def test_a_timeout_counts_per_attempt(autojump_clock: MockClock) -> None:
    attempts: list[int] = []

    async def third_time_quick() -> str:
        attempts.append(current_step().attempt)
        await trio.sleep(4 if len(attempts) == 3 else 6)
        return "done"

    @workflow
    async def slow(ctx: Context) -> str:
        return await ctx.step("slow", third_time_quick, timeout=5, retry=Retry.fixed(3, 1))

    async with serving(":memory:", slow, clock=VirtualClock()) as engine:
        run = await engine.start(slow)
        assert await run.result() == "done"
        row = (await run.steps())[0]
    assert attempts == [1, 2, 3]
    assert row.finished_at - row.started_at == timedelta(seconds=5 + 1 + 5 + 1 + 4)


@pytest.mark.parametrize("timeout", [0, -1])
async def test_a_timeout_of_nothing_is_due_at_once(autojump_clock: MockClock, timeout: float) -> None:
    @workflow
    async def hasty(ctx: Context) -> bool:
        try:
            await ctx.step("hasty", trio.sleep, 1, timeout=timeout)
        except StepTimeout:
            return True
        return False

    async with serving(":memory:", hasty, clock=VirtualClock()) as engine:
        assert await engine.run(hasty) is True
