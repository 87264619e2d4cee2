"""Timers: never early, fired once, due times kept over restarts, and runs that leave memory while they wait."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Retry, RunStatus, StepKind, workflow
from durable_trio.engine.services import timers
from durable_trio.rules import residency
from durable_trio.stores.questions import ListWaits
from durable_trio.testing import VirtualClock
from tests.engine.flows import sleeper
from tests.engine.harness import (
    PATIENCE_SECONDS,
    SettableClock,
    ask,
    executor_of,
    row_of,
    serving,
    wait_passivated,
    wait_status,
)

pytestmark = pytest.mark.usefixtures("no_leaks")


S = RunStatus


@workflow
async def sleep_thrice(ctx: Context, seconds: float) -> list[str]:
    times = [ctx.now().isoformat()]
    for _ in range(3):
        await ctx.sleep(seconds)
        times.append(ctx.now().isoformat())
    return times


@workflow
async def sleep_until(ctx: Context, when: datetime) -> datetime:
    await ctx.sleep_until(when)
    return ctx.now()


async def test_a_sleep_ends_after_its_duration_and_not_before(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleeper, clock=VirtualClock()) as engine:
        began = trio.current_time()
        assert await engine.run(sleeper, 90.0) == "up"
        assert 90.0 <= trio.current_time() - began < 90.001


async def test_a_timedelta_is_a_duration(autojump_clock: MockClock) -> None:
    @workflow
    async def by_timedelta(ctx: Context) -> None:
        await ctx.sleep(timedelta(minutes=2))

    async with serving(":memory:", by_timedelta, clock=VirtualClock()) as engine:
        began = trio.current_time()
        await engine.run(by_timedelta)
        assert 120.0 <= trio.current_time() - began < 120.001


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_a_zero_or_negative_duration_is_due_at_once_and_recorded(
    autojump_clock: MockClock, seconds: float
) -> None:
    async with serving(":memory:", sleeper, clock=VirtualClock()) as engine:
        began = trio.current_time()
        run = await engine.start(sleeper, seconds)
        assert await run.result() == "up"
        assert trio.current_time() == began
        assert [step.kind for step in await run.steps()] == [StepKind.SLEEP]


async def test_sleep_until_ends_at_the_instant(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleep_until, clock=VirtualClock()) as engine:
        when = datetime(2030, 1, 1, 6, tzinfo=UTC)
        assert timedelta(0) <= await engine.run(sleep_until, when) - when < timedelta(milliseconds=1)


async def test_sleep_until_a_past_instant_is_due_at_once(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleep_until, clock=VirtualClock()) as engine:
        began = trio.current_time()
        await engine.run(sleep_until, datetime(1999, 1, 1, tzinfo=UTC))
        assert trio.current_time() == began


async def test_nan_naive_datetimes_and_wrong_types_are_refused_before_anything_is_written(
    autojump_clock: MockClock,
) -> None:
    @workflow
    async def mistaken(ctx: Context) -> list[str]:
        errors = []
        calls: list[tuple[Any, Any]] = [
            (ctx.sleep, math.nan),
            (ctx.sleep_until, datetime(2031, 1, 1)),  # naive on purpose
            (ctx.sleep, "3"),
            (ctx.sleep, True),
            (ctx.sleep_until, 3.0),
        ]
        for call, value in calls:
            try:
                await call(value)
            except (ValueError, TypeError) as error:
                errors.append(type(error).__name__)
        return errors

    async with serving(":memory:", mistaken, clock=VirtualClock()) as engine:
        run = await engine.start(mistaken)
        assert await run.result() == ["ValueError", "ValueError", "TypeError", "TypeError", "TypeError"]
        assert await run.steps() == ()


async def test_an_infinite_sleep_is_a_row_that_never_comes_due_and_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with serving(":memory:", sleeper, clock=VirtualClock()) as engine:
        run = await engine.start(sleeper, math.inf)
        await wait_passivated(engine)
        record = await run.record()
        assert record.wake_at is not None
        assert record.wake_at.year == 9999
        assert await run.cancel(wait=True)
        assert (await run.record()).status is S.CANCELLED


async def test_sleeps_of_equal_name_follow_each_other_and_each_is_recorded(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleep_thrice, clock=VirtualClock()) as engine:
        run = await engine.start(sleep_thrice, 10.0)
        times = [datetime.fromisoformat(text) for text in await run.result()]
        for before, after in itertools.pairwise(times):
            assert timedelta(seconds=10) <= after - before < timedelta(seconds=10, milliseconds=1)
        assert [step.key for step in await run.steps()] == ["sleep#0", "sleep#1", "sleep#2"]


async def test_concurrent_sleepers_wake_in_the_order_of_their_due_times(autojump_clock: MockClock) -> None:
    woken: list[float] = []

    @workflow
    async def noting(ctx: Context, seconds: float) -> None:
        await ctx.sleep(seconds)
        woken.append(seconds)

    async with serving(":memory:", noting, clock=VirtualClock()) as engine:
        durations = [50.0, 0.5, 7.0, 3600.0, 0.2, 86_400.0, 7.5]
        runs = [await engine.start(noting, seconds) for seconds in durations]
        for run in runs:
            await run.result()
    assert woken == sorted(durations)


# ---- memory ----------------------------------------------------------------------------------------------------------


async def test_a_long_sleeper_leaves_memory_and_comes_back_by_its_timer(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleeper, clock=VirtualClock()) as engine:
        run = await engine.start(sleeper, 3600.0)
        await wait_passivated(engine)
        record = await run.record()
        assert record.status is S.SUSPENDED
        assert record.wake_at == datetime(2030, 1, 1, 1, tzinfo=UTC)
        assert await run.result() == "up"
        assert (await engine.status()).resident_runs == 0


async def test_a_short_sleeper_stays_in_memory_and_is_suspended_all_the_same(autojump_clock: MockClock) -> None:
    async with serving(":memory:", sleeper, clock=VirtualClock()) as engine:
        run = await engine.start(sleeper, 0.9)
        record = await wait_status(run, S.SUSPENDED)
        assert record.wake_at is not None
        assert (await engine.status()).resident_runs == 1
        assert await run.result() == "up"


@pytest.mark.slow
@pytest.mark.unmeasured
async def test_thousands_of_sleepers_are_rows_and_each_due_one_wakes(autojump_clock: MockClock) -> None:
    """All wait, none is in memory; a hundred come due before the others and complete, the others sleep on."""
    count, early_count = 2_000, 100
    async with serving(":memory:", sleeper, clock=VirtualClock(), concurrency=64) as engine:
        first = await engine.start(sleeper, 86_400.0)
        for number in range(1, count):
            await engine.start(sleeper, 3600.0 if number % (count // early_count) == 0 else 86_400.0)
        async with engine.watch(run_id=first.id) as changes:  # the first one has been the longest in line
            async for record in changes:
                if record.status is S.SUSPENDED:
                    break
        with trio.fail_after(3600):
            while (await engine.status()).runs_by_status != {S.SUSPENDED: count}:  # noqa: ASYNC110
                await trio.sleep(1.0)
        await wait_passivated(engine)
        await trio.sleep(3700.0)
        counts = (await engine.status()).runs_by_status
        assert counts == {S.SUSPENDED: count - early_count + 1, S.COMPLETED: early_count - 1}


# ---- restarts --------------------------------------------------------------------------------------------------------


@workflow(ttl=86400)
async def lives_for_a_day(ctx: Context) -> None:
    await ctx.step("nothing", trio.lowlevel.checkpoint)


@pytest.mark.parametrize("has_left", [True, False], ids=["left", "ended"])
async def test_no_alarm_is_kept_for_runs_that_are_not_in_memory_any_more(
    has_left: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they were: else a million sleepers would cost the memory of as many alarms."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", 1.0)  # as for users: such a run asks for an alarm, and leaves
    monkeypatch.setattr(timers, "_ALARMS_MIN", 16)
    async with serving(":memory:", sleeper, lives_for_a_day, clock=VirtualClock()) as engine:
        last = await engine.start(sleeper, 3 * 86400.0)
        for number in range(200):
            if has_left:
                await engine.start(sleeper, 86400.0 + number)
                await trio.sleep(0.1)
            else:
                await engine.run(lives_for_a_day)
        assert len(executor_of(engine).timers._heap) <= 2 * 16
        assert await last.result() == "up"


async def test_the_due_time_is_kept_over_three_restarts(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, sleeper, clock=clock) as engine:
        run = await engine.start(sleeper, 100.0, id="r")
        await wait_passivated(engine)
        wake_at = (await run.record()).wake_at
    assert wake_at is not None
    for _ in range(3):
        clock.advance(30)
        async with serving(file_path, sleeper, clock=clock) as engine:
            record = await engine.get("r").record()
            assert (record.status, record.wake_at) == (S.SUSPENDED, wake_at)
    clock.advance(9.9)
    async with serving(file_path, sleeper, clock=clock) as engine:
        await trio.sleep(0.05)  # five looks at the clock
        assert (await engine.get("r").record()).status is S.SUSPENDED
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "up"
        steps = await engine.get("r").steps()
    assert [step.finished_at for step in steps] == [wake_at]


async def test_the_due_time_of_a_resident_sleeper_is_kept_over_restarts(file_path: str) -> None:
    """One that did not leave memory, because it would have woken within a second."""
    clock = SettableClock()
    async with serving(file_path, sleeper, clock=clock, grace_seconds=0) as engine:
        run = await engine.start(sleeper, 0.9, id="r")
        wake_at = (await wait_status(run, S.SUSPENDED)).wake_at
    for _ in range(3):
        clock.advance(0.2)
        async with serving(file_path, sleeper, clock=clock, grace_seconds=0) as engine:
            assert (await engine.get("r").record()).wake_at == wake_at
    clock.advance(0.2)
    async with serving(file_path, sleeper, clock=clock) as engine:
        await trio.sleep(0.05)
        assert await engine.get("r").steps() == ()
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == "up"


async def test_a_timer_that_is_past_due_at_recovery_fires_at_once_and_once(file_path: str) -> None:
    clock = SettableClock()
    async with serving(file_path, sleep_thrice, clock=clock) as engine:
        await engine.start(sleep_thrice, 100.0, id="r")
        await wait_passivated(engine)
    clock.advance(250)
    async with serving(file_path, sleep_thrice, clock=clock) as engine:
        run = engine.get("r")
        with trio.fail_after(PATIENCE_SECONDS):
            while len(await run.steps()) < 1:  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
        assert [step.key for step in await run.steps()] == ["sleep#0"]
        record = await run.record()
        assert record.wake_at is not None
        # The second sleep begins when the first has ended, late as that was.
        assert record.wake_at == (await run.steps())[0].finished_at + timedelta(seconds=100)


async def test_a_retry_that_waits_long_leaves_memory_and_keeps_its_due_time(file_path: str) -> None:
    clock = SettableClock()
    attempts: list[int] = []

    def fail_twice() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("not yet")
        return len(attempts)

    @workflow
    async def retrying(ctx: Context) -> int:
        return await ctx.step("call", fail_twice, retry=Retry.fixed(3, 60.0))

    async with serving(file_path, retrying, clock=clock) as engine:
        run = await engine.start(retrying, id="r")
        await wait_status(run, S.SUSPENDED)
        await wait_passivated(engine)
        wake_at = (await run.record()).wake_at
    clock.advance(59.9)
    async with serving(file_path, retrying, clock=clock) as engine:
        assert (await engine.get("r").record()).wake_at == wake_at
        assert len(attempts) == 1
        clock.advance(0.1)
        with trio.fail_after(PATIENCE_SECONDS):
            while len(attempts) < 2:  # noqa: ASYNC110
                await trio.sleep(0.002)
        await wait_passivated(engine)
        clock.advance(60)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("r").result() == 3
        (step,) = await engine.get("r").steps()
        assert step.attempt == 3


# ---- cancelled timers ------------------------------------------------------------------------------------------------


async def test_a_cancelled_sleep_leaves_no_timer_behind(file_path: str) -> None:
    """The body catches a deadline of its own in memory, and sleeps on under another key: one wait is stored."""

    @workflow
    async def impatient(ctx: Context) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ctx.sleep(60.0, name="first")
        await ctx.sleep(3600.0, name="second")
        return scope.cancelled_caught

    async with serving(file_path, impatient) as engine:
        run = await engine.start(impatient)
        await wait_passivated(engine)
        number = row_of(engine, run.id).run
        assert [row.key.name for row in ask(engine, ListWaits(number))] == ["second"]
        assert await run.cancel(wait=True)
        assert ask(engine, ListWaits(number)) == ()


# ---- the service ---------------------------------------------------------------------------------------------------


async def test_an_alarm_before_all_others_ends_the_nap_in_time_and_wakes_nobody_when_it_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    clock, told = VirtualClock(), list[tuple[str, float]]()
    looks = 0

    def told_at(name: str) -> Callable[[], None]:
        return lambda: told.append((name, trio.current_time()))

    class Counting(trio.abc.Instrument):
        def task_scheduled(self, task: trio.lowlevel.Task) -> None:
            nonlocal looks
            looks += task.name == "timers"

    service = timers.Timers(clock, clock_was_set=lambda: None, woke_up=trio.sleep)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve, name="timers")
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(Counting())
        for seconds in (100, 5, 50, 0.25):
            service.call_at(clock.now() + round(seconds * 1e6), told_at(str(seconds)))
            await trio.testing.wait_all_tasks_blocked()
        assert looks == 0
        await trio.sleep(200)
        nursery.cancel_scope.cancel()
    assert [(name, at - began) for name, at in told] == [("0.25", 0.25), ("5", 5.0), ("50", 50.0), ("100", 100.0)]


# ---- the ends of time ------------------------------------------------------------------------------------------------


_NEVER = datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))


_ALWAYS = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))


@workflow
async def to_the_end(ctx: Context, way: str) -> None:
    if way == "until":
        await ctx.sleep_until(_NEVER)
    elif way == "signal":
        await ctx.wait_signal("never", timeout=timedelta.max)
    elif way == "deadline":
        with ctx.fail_after(10**400):
            await ctx.wait_signal("never")
    elif way == "timeout":
        await ctx.step("now", str, timeout=1e308)
        await ctx.sleep(timedelta.max)
    else:
        await ctx.sleep(float(way))


async def test_a_time_beyond_all_datetimes_is_for_ever_and_disturbs_no_look_at_any_run(file_path: str) -> None:
    async with serving(file_path, to_the_end) as engine:
        for way in ("until", "signal", "deadline", "timeout", "inf", "1e308"):
            await engine.start(to_the_end, way, id=way)
        await engine.start(to_the_end, "0", id="at", at=_NEVER, ttl=timedelta.max)
        await engine.start(to_the_end, "0", id="delay", delay=math.inf, ttl=10**400)
        await wait_passivated(engine)
        page = await engine.list_runs(created_after=_ALWAYS, created_before=_NEVER)
        assert len(page.runs) == 8
        for record in page.runs:
            assert record.wake_at is None or record.wake_at.astimezone(_NEVER.tzinfo).year == 9999
            run = engine.get(record.id)
            assert await run.record() == record
            await run.waits()
            async with run.watch() as changes:
                assert (await anext(changes)).id == record.id
        assert await engine.prune(_ALWAYS) == 0
        assert (await engine.list_runs(created_after=_NEVER)).runs == ()
    async with serving(file_path, to_the_end) as engine:
        assert await engine.get("until").cancel(wait=True)
        await engine.run(to_the_end, "0", id="past", at=_ALWAYS)
