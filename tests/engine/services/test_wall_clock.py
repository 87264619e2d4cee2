"""A wall clock that is set while runs wait: nothing comes early, late or twice."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from durable_trio import (
    Clock,
    Context,
    Engine,
    Retry,
    Run,
    RunExpired,
    RunStatus,
    SignalTimeout,
    StepKind,
    current_step,
    workflow,
)
from tests.engine.flows import sleeper
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, serving, wait_passivated, wait_status

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


class Jumping(Clock):
    """The real clocks, with a wall clock that a test can set."""

    nap_seconds_max = 0.02

    def __init__(self) -> None:
        self.offset_ns = 0
        super().__init__(wall=lambda: time.time_ns() + self.offset_ns)

    def follow(self, instant: int, *, between: tuple[int, int]) -> None:
        """That of a database is set as this one is."""


async def test_a_wall_clock_set_back_neither_delays_a_timer_nor_fires_it_early(file_path: str) -> None:
    clock = Jumping()
    async with serving(file_path, sleeper, clock=clock) as engine:
        began = trio.current_time()
        run = await engine.start(sleeper, 0.4)
        await wait_status(run, S.SUSPENDED)
        clock.offset_ns = -3600 * 10**9
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "up"
        assert trio.current_time() - began >= 0.4


async def test_a_wall_clock_set_forward_past_the_due_time_fires_the_timer_soon(file_path: str) -> None:
    clock = Jumping()
    async with serving(file_path, sleeper, clock=clock) as engine:
        run = await engine.start(sleeper, 3600.0)
        await wait_passivated(engine)
        clock.offset_ns = 3601 * 10**9
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "up"
        assert [step.kind for step in await run.steps()] == [StepKind.SLEEP]


DAY = 86_400.0


async def _fail() -> None:
    raise OSError("not yet")


@workflow
async def waiting_somehow(ctx: Context, way: str) -> str:
    """Wait for 100 seconds, and say how it ended."""
    try:
        if way == "sleep":
            await ctx.sleep(100)
        elif way == "branches":
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(BranchContext.sleep, 100.0)
                nursery.start_soon(BranchContext.wait_signal, "never", Any, 100.0)
        elif way == "signal":
            await ctx.wait_signal("never", timeout=100)
        elif way == "deadline":
            with ctx.move_on_after(100):
                await ctx.wait_signal("never")
        elif way == "retry":
            await ctx.step("fail", _fail, retry=Retry.fixed(2, 100))
        elif way == "ttl":
            await ctx.wait_signal("never")
    except (OSError, SignalTimeout, ExceptionGroup):
        pass
    return "over"


class BranchContext:
    """Durable calls as branches."""

    @staticmethod
    async def sleep(ctx: Context, seconds: float) -> None:
        await ctx.sleep(seconds)

    @staticmethod
    async def wait_signal(ctx: Context, name: str, type: Any, timeout: float) -> None:
        await ctx.wait_signal(name, type, timeout=timeout)


WAYS = ["sleep", "branches", "signal", "deadline", "retry", "ttl", "delay"]


async def _wait_somehow(engine: Engine, way: str) -> Run[str]:
    if way == "ttl":
        return await engine.start(waiting_somehow, way, ttl=100)
    return await engine.start(waiting_somehow, way, delay=100 if way == "delay" else None)


async def _wait_over(run: Run[str], way: str) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        if way == "ttl":
            with pytest.raises(RunExpired):
                await run.result()
        else:
            assert await run.result() == "over"


async def _assert_still_waits(run: Run[Any]) -> None:
    for _ in range(3):  # looks at the clock
        await trio.sleep(0.012)
    assert not (await run.record()).status.is_final


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("jumps", [(-3600,), (-10 * DAY,), (10 * DAY, -10 * DAY), (-3600, 3600)], ids=str)
async def test_a_wait_begun_after_jumps_of_the_wall_clock_ends_in_its_time_here_and_after_a_restart(
    file_path: str, way: str, jumps: tuple[float, ...]
) -> None:
    clock = SettableClock()
    async with serving(file_path, waiting_somehow, clock=clock) as engine:
        for jump in jumps:
            clock.jump(jump)
            await trio.sleep(0.012)
        here, later = await _wait_somehow(engine, way), await _wait_somehow(engine, way)
        await wait_passivated(engine)
        assert (await here.record()).wake_at == datetime.fromtimestamp(clock.stamp() / 1e6, UTC) + timedelta(
            seconds=100
        )
        clock.advance(99.9)
        await _assert_still_waits(here)
        clock.advance(0.1)
        await _wait_over(here, way)
        await _wait_over(later, way)
        later = await _wait_somehow(engine, way)
        await wait_passivated(engine)
    restarted = SettableClock()
    restarted.jump(sum(jumps))
    restarted.advance(199.9)
    async with serving(file_path, waiting_somehow, clock=restarted) as engine:
        later = engine.get(later.id, waiting_somehow)
        await _assert_still_waits(later)
        restarted.advance(0.1)
        await _wait_over(later, way)


@pytest.mark.parametrize("way", WAYS)
async def test_a_wait_begun_before_the_wall_clock_was_set_back_ends_when_its_time_has_passed(
    file_path: str, way: str
) -> None:
    clock = SettableClock()
    async with serving(file_path, waiting_somehow, clock=clock) as engine:
        clock.advance(5)
        run = await _wait_somehow(engine, way)
        await wait_passivated(engine)
        clock.jump(-3600)
        clock.advance(99.9)
        await _assert_still_waits(run)
        clock.advance(0.1)
        await _wait_over(run, way)
        for step in await run.steps():
            assert step.started_at <= step.finished_at


async def test_a_retry_that_is_scheduled_in_a_glitch_of_the_wall_clock_comes_in_its_time(file_path: str) -> None:
    """Its step began before the glitch."""
    clock = SettableClock()
    begun = trio.Event()

    async def fail_when_told() -> None:
        if current_step().attempt == 1:
            begun.set()
            await told.wait()
            raise OSError

    @workflow
    async def retrying(ctx: Context) -> None:
        await ctx.step("fail", fail_when_told, retry=Retry.fixed(2, 100))

    told = trio.Event()
    async with serving(file_path, retrying, clock=clock) as engine:
        run = await engine.start(retrying)
        await begun.wait()
        clock.jump(10 * DAY)
        await trio.sleep(0.012)
        told.set()
        await wait_passivated(engine)
        clock.jump(-10 * DAY)
        clock.advance(99.9)
        await _assert_still_waits(run)
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            await run.result()


async def test_a_short_glitch_of_the_wall_clock_forward_ends_no_long_wait(file_path: str) -> None:
    """One that is in memory and one that is not; an hour of two."""

    @workflow
    async def beside_a_step(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(BranchContext.sleep, 7200.0)
            await ctx.step("other", released.wait)

    released = trio.Event()
    clock = SettableClock()
    async with serving(file_path, sleeper, beside_a_step, clock=clock) as engine:
        runs: list[Run[Any]] = [await engine.start(sleeper, 7200.0), await engine.start(beside_a_step)]
        await wait_status(runs[0], S.SUSPENDED)
        for jump in (3600, -3600):
            clock.jump(jump)
            await trio.sleep(0.03)
        clock.advance(7199)
        await trio.sleep(0.03)
        released.set()
        assert [(await run.record()).status.is_final for run in runs] == [False, False]
        clock.advance(1)
        with trio.fail_after(PATIENCE_SECONDS):
            for run in runs:
                await run.result()


async def test_a_deadline_that_is_entered_after_a_step_back_keeps_its_length(file_path: str) -> None:
    @workflow
    async def hurried(ctx: Context) -> list[datetime]:
        seen = [ctx.now()]
        await ctx.wait_signal("go")
        seen.append(ctx.now())
        with ctx.move_on_after(50) as scope:
            await ctx.wait_signal("never")
        assert scope.cancelled_caught
        seen.append(ctx.now())
        return seen

    clock = SettableClock()
    async with serving(file_path, hurried, clock=clock) as engine:
        run = await engine.start(hurried)
        await wait_passivated(engine)
        clock.jump(-10 * DAY)
        await run.signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            while len(await run.steps()) < 1:  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
        clock.advance(49.9)
        await trio.sleep(0.03)
        assert (await run.record()).status is S.SUSPENDED
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            seen = await run.result()
        assert seen == sorted(seen)  # what the body sees never goes back


async def test_processes_that_have_and_have_not_seen_a_glitch_agree_on_what_is_due(file_path: str) -> None:
    """A client that is opened after it asks for waits, and sends signals, on the clock of the wall."""
    clock = SettableClock()
    async with serving(file_path, waiting_somehow, signalled, clock=clock) as engine:
        for jump in (10 * DAY, -10 * DAY):
            clock.jump(jump)
            engine._client.settings.clock.now()
        async with Engine(file_path, workflows=[waiting_somehow], clock=SettableClock()) as client:
            ttl = await client.start(waiting_somehow, "ttl", ttl=100)
            delayed = await client.start(waiting_somehow, "delay", delay=100)
            run = await engine.start(signalled)
            await wait_passivated(engine)
            await _assert_still_waits(ttl)
            await _assert_still_waits(delayed)
            await client.send_signal(run.id, "go", 1)
            clock.advance(10)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == 1
        clock.advance(90)
        await _wait_over(engine.get(ttl.id, waiting_somehow), "ttl")
        await _wait_over(engine.get(delayed.id, waiting_somehow), "delay")


@workflow
async def signalled(ctx: Context) -> int:
    await ctx.sleep(10)
    return await ctx.wait_signal("go", int, timeout=1000)


async def test_a_signal_that_was_sent_while_the_wall_clock_was_ahead_is_taken_as_in_time(file_path: str) -> None:
    clock, ahead = SettableClock(), SettableClock()
    ahead.jump(10 * DAY)
    async with serving(file_path, signalled, clock=clock) as engine:
        run = await engine.start(signalled)
        async with Engine(file_path, workflows=[signalled], clock=ahead) as client:
            await client.send_signal(run.id, "go", 8)
        clock.advance(10)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == 8


async def test_such_a_signal_also_comes_before_a_deadline_that_is_over_when_the_run_goes_on(file_path: str) -> None:
    @workflow
    async def hurried(ctx: Context) -> int:
        with ctx.move_on_after(50):
            return await ctx.wait_signal("go", int)
        return 0

    clock, ahead = SettableClock(), SettableClock()
    ahead.jump(10 * DAY)
    async with serving(file_path, hurried, clock=clock) as engine:
        await engine.start(hurried, id="r")
        await wait_passivated(engine)
    async with Engine(file_path, clock=ahead) as client:
        await client.send_signal("r", "go", 8)
    clock.advance(100)
    async with serving(file_path, hurried, clock=clock) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r", hurried).result() == 8


def test_the_clock_never_goes_back_and_follows_the_monotonic_clock_after_a_step_back() -> None:
    wall, monotonic = [10_000_000_000], [0]
    clock = Clock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    assert clock.now() == 10_000_000
    wall[0] -= 5_000_000_000
    assert clock.now() == 10_000_000
    monotonic[0] += 2_000_000_000
    wall[0] += 2_000_000_000
    assert clock.now() == 12_000_000
    wall[0] = 11_000_000_000  # still behind: only the monotonic clock counts
    monotonic[0] += 1_000_000
    assert clock.now() == 12_001_000
    wall[0] = 20_000_000_000  # caught up
    assert clock.now() == 20_000_000


def test_the_clock_follows_a_step_forward_at_once() -> None:
    wall = [10_000_000_000]
    clock = Clock(wall=lambda: wall[0], monotonic=lambda: 0)
    wall[0] += 86_400 * 10**9
    assert clock.now() == 86_410_000_000


async def test_the_real_clock_is_never_early(file_path: str) -> None:
    """With many short sleeps on the real clock, none ends before its time."""

    @workflow
    async def napper(ctx: Context, seconds: float) -> float:
        began = time.time()
        await ctx.sleep(seconds)
        return time.time() - began - seconds

    async with serving(file_path, napper) as engine:
        runs = [await engine.start(napper, 0.01 + number / 200) for number in range(30)]
        with trio.fail_after(PATIENCE_SECONDS):
            assert min([await run.result() for run in runs]) >= 0
