"""Durable deadlines: trio's scopes, with an expiry that is a row: the same at replay, over any number of restarts."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunStatus, StepKind, open_engine, workflow
from durable_trio.testing import CrashingStore, VirtualClock
from tests.kit.schedules import OFTEN, RUN_ID, Notes, Program, attempt, crash_and_replay

DAY = 86400.0


async def take(seconds: float) -> float:
    """Take some virtual time."""
    await trio.sleep(seconds)
    return float(seconds)


# ---- as in trio ----------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def nested(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    def note(what: str, *scopes: object) -> None:
        caught = [getattr(scope, "cancelled_caught") for scope in scopes]  # noqa: B009  # DeadlineScope is not exported
        called = [getattr(scope, "cancel_called") for scope in scopes]  # noqa: B009
        notes.add(f"{what} {caught} {called} {ctx.now().time()}")

    with ctx.move_on_after(10) as outer:
        with ctx.move_on_after(2) as inner:
            await ctx.sleep(5)
        note("inner expires", outer, inner)
        with ctx.move_on_after(100) as inner:
            await ctx.sleep(50)
        notes.add("never")
    note("outer expires", outer, inner)

    with ctx.move_on_after(3) as outer:
        with ctx.move_on_after(1, shield=True) as inner:
            await ctx.sleep(0.5)
            outer.cancel()
            await ctx.sleep(0.25)
            notes.add("shielded")
            await ctx.sleep(50)
        note("shielded one expires", inner)
        await ctx.sleep(1)
        notes.add("never")
    note("cancelled", outer, inner)

    with ctx.move_on_after(1) as outer:
        notes.add("no wait inside")
    note("in time", outer)
    try:
        with ctx.fail_after(1) as outer:
            await ctx.step("take", take, 100.0)
    except trio.TooSlowError as error:
        note(f"{type(error).__module__} {error!r}", outer)
    with ctx.fail_after(1) as outer:
        await ctx.step("take", take, 0.0)  # one that takes time may come too late when it runs again
    note("fast", outer)
    with ctx.move_on_after(0) as outer:
        await ctx.sleep(1)
        notes.add("never")
    note("zero", outer)
    with ctx.move_on_after(-1) as outer, ctx.move_on_after(5):
        await ctx.wait_signal("never")
    note("negative", outer)
    return list(notes)


def test_deadlines_nest_shield_and_expire_as_trios_do_and_the_same_after_any_crash() -> None:
    program = Program(nested)
    trial = attempt(program)
    assert trial.value == [
        "inner expires [False, True] [False, True] 00:00:02",
        "outer expires [True, False] [True, False] 00:00:10",
        "shielded",
        "shielded one expires [True] [True] 00:00:11",
        "cancelled [True, True] [True, True] 00:00:11",
        "no wait inside",
        "in time [False] [False] 00:00:11",
        "trio TooSlowError() [True] [True] 00:00:12",
        "fast [False] [False] 00:00:12",
        "zero [True] [True] 00:00:12",
        "negative [True] [True] 00:00:12",
    ]
    crash_and_replay(program)


async def _in_trio() -> list[tuple[bool, bool]]:
    found = []
    with trio.move_on_after(10) as outer:
        with trio.move_on_after(2) as inner:
            await trio.sleep(5)
        found.append((outer.cancelled_caught, inner.cancelled_caught))
        with trio.move_on_after(100) as inner:
            await trio.sleep(50)
    found.append((outer.cancelled_caught, inner.cancelled_caught))
    with trio.move_on_after(3) as outer:
        with trio.move_on_after(1, shield=True) as inner:
            await trio.sleep(0.5)
            outer.cancel()
            await trio.sleep(50)
        await trio.sleep(1)
    found.append((outer.cancelled_caught, inner.cancelled_caught))
    with trio.move_on_after(0) as outer:
        await trio.sleep(1)
    found.append((outer.cancelled_caught, False))
    return found


@workflow
async def as_in_trio(ctx: Context) -> list[tuple[bool, bool]]:
    found = []
    with ctx.move_on_after(10) as outer:
        with ctx.move_on_after(2) as inner:
            await ctx.sleep(5)
        found.append((outer.cancelled_caught, inner.cancelled_caught))
        with ctx.move_on_after(100) as inner:
            await ctx.sleep(50)
    found.append((outer.cancelled_caught, inner.cancelled_caught))
    with ctx.move_on_after(3) as outer:
        with ctx.move_on_after(1, shield=True) as inner:
            await ctx.sleep(0.5)
            outer.cancel()
            await ctx.sleep(50)
        await ctx.sleep(1)
    found.append((outer.cancelled_caught, inner.cancelled_caught))
    with ctx.move_on_after(0) as outer:
        await ctx.sleep(1)
    found.append((outer.cancelled_caught, False))
    return found


def test_cancelled_caught_is_what_trio_says_for_the_same_program() -> None:
    expected = trio.run(_in_trio, clock=MockClock(autojump_threshold=0))
    assert attempt(Program(as_in_trio)).value == expected


@workflow(max_recoveries=OFTEN)
async def in_branches(ctx: Context) -> list[str]:
    """Deadlines around nurseries, inside of branches, around primitives, and two due at one instant."""
    notes = Notes(ctx)
    never = trio.Event()

    async def branch(ctx: Context, seconds: float) -> None:
        with ctx.move_on_after(seconds) as scope:
            await never.wait()
        notes.add(f"{seconds} {scope.cancelled_caught}")
        with ctx.move_on_after(seconds) as scope:
            async with ctx.open_nursery() as nursery:
                nursery.start_soon(sleeper, seconds)
                nursery.start_soon(sleeper, seconds * 3)
        notes.add(f"{seconds} again {scope.cancelled_caught}")

    async def sleeper(ctx: Context, seconds: float) -> None:
        try:
            await ctx.sleep(seconds * 0.75)
            notes.add(f"slept {seconds}")
            await ctx.step("take", take, 0.0)
        except trio.Cancelled:
            notes.add(f"sleeper {seconds} cancelled")
            raise

    with ctx.move_on_after(7) as scope:
        async with ctx.open_nursery() as nursery:
            for seconds in (2.0, 1.0, 1.0, 6.0):
                nursery.start_soon(branch, seconds)
    notes.add(f"all {scope.cancelled_caught}")
    return list(notes)


def test_deadlines_in_and_around_branches_have_the_same_outcome_at_replay() -> None:
    trial = crash_and_replay(Program(in_branches))
    assert trial.value[-1] == "all True"
    assert [note for note in trial.value if "again" in note] == ["1.0 again True", "1.0 again True", "2.0 again True"]


@workflow(max_recoveries=OFTEN)
async def too_late(ctx: Context) -> list[str]:
    """The expiry is on its way to the store when the block is left."""
    notes = Notes(ctx)
    for _ in range(3):
        with ctx.move_on_after(1) as scope:
            await ctx.sleep(1)  # due at the same instant
        notes.add(f"slept or not: {scope.cancelled_caught}")
        await ctx.sleep(0.5)
        notes.add("goes on")
    return list(notes)


def test_an_expiry_that_comes_too_late_is_void_also_at_replay() -> None:
    trial = crash_and_replay(Program(too_late))
    expiries = [key for key in trial.keys if key.startswith("deadline")]
    assert expiries, "no expiry was recorded: the test shows nothing"
    assert trial.value.count("goes on") == 3


# ---- over restarts -------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def week(ctx: Context) -> list[str]:
    """Wait for a signal in a branch, inside two deadlines."""
    notes: list[str] = []

    async def branch(ctx: Context) -> None:
        with ctx.move_on_after(7 * DAY) as scope:
            notes.append(str(await ctx.wait_signal("go")))
        notes.append(f"week {scope.cancelled_caught} {ctx.now().date()}")

    with ctx.move_on_after(30 * DAY) as scope:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(branch)
    notes.append(f"month {scope.cancelled_caught}")
    return notes


async def test_a_deadline_of_a_week_costs_a_row_and_comes_right_after_seven_days(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[week], clock=VirtualClock()) as engine:
        run = await engine.start(week)
        await trio.sleep(60)
        status = await engine.status()
        assert status.resident_runs == 0
        record = await run.record()
        assert record.status is RunStatus.SUSPENDED
        assert record.wake_at is not None
        assert (record.wake_at - record.created_at).total_seconds() == 7 * DAY
        assert await run.result() == ["week True 2030-01-08", "month False"]
        assert trio.current_time() == pytest.approx(7 * DAY, abs=1)
        assert [step.kind for step in await run.steps()] == [StepKind.DEADLINE]


async def test_a_signal_within_the_week_wakes_the_run_that_has_left_memory(autojump_clock: MockClock) -> None:
    async with open_engine(":memory:", workflows=[week], clock=VirtualClock()) as engine:
        run = await engine.start(week)
        await trio.sleep(3 * DAY)
        assert (await engine.status()).resident_runs == 0
        await run.signal("go", "now")
        assert await run.result() == ["now", "week False 2030-01-04", "month False"]
        assert trio.current_time() == pytest.approx(3 * DAY, abs=1)
        assert [step.kind for step in await run.steps()] == [StepKind.SIGNAL]


@workflow(max_recoveries=OFTEN)
async def long_deadline(ctx: Context) -> list[str]:
    await ctx.sleep(10)
    with ctx.move_on_after(100) as scope:
        await ctx.sleep(30, name="first")
        await ctx.wait_signal("never")
    return [str(scope.cancelled_caught), str(ctx.now().timestamp() % 86400)]


@pytest.mark.parametrize("restarts", [1, 4])
async def test_the_remaining_time_of_a_deadline_is_kept_over_restarts(autojump_clock: MockClock, restarts: int) -> None:
    clock = VirtualClock()
    store = CrashingStore()
    for _ in range(restarts):
        async with open_engine(store, workflows=[long_deadline], clock=clock) as engine:
            await engine.start(long_deadline, id=RUN_ID)
            await trio.sleep(80 / restarts)
        await trio.sleep(20 / restarts)  # nobody serves
    async with open_engine(store, workflows=[long_deadline], clock=clock) as engine:
        assert await engine.get(RUN_ID).result() == ["True", "110.0"]
    assert trio.current_time() == pytest.approx(110, abs=1)
    store.dispose()


async def test_a_deadline_that_passed_while_nobody_served_is_over_at_once(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    store = CrashingStore()
    async with open_engine(store, workflows=[long_deadline], clock=clock) as engine:
        await engine.start(long_deadline, id=RUN_ID)
        await trio.sleep(50)
    await trio.sleep(DAY)
    began = trio.current_time()
    async with open_engine(store, workflows=[long_deadline], clock=clock) as engine:
        assert (await engine.get(RUN_ID).result())[0] == "True"
    assert trio.current_time() == pytest.approx(began, abs=1)
    store.dispose()


# ---- with cancellation from outside --------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def cancelled_inside(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    try:
        with ctx.move_on_after(10) as scope:
            await ctx.sleep(100)
    finally:
        if not ctx.detaching:
            endings.append(f"{scope.cancelled_caught} {scope.cancel_called}")
    notes.add("never")
    return list(notes)


endings: list[str] = []


async def _cancel(engine: Engine) -> None:
    await trio.sleep_until(1)
    await engine.cancel(RUN_ID)


def test_a_scope_that_a_cancel_of_the_run_ends_has_not_caught_it() -> None:
    endings.clear()
    trial = crash_and_replay(Program(cancelled_inside, (), _cancel))
    assert trial.status is RunStatus.CANCELLED
    assert set(endings) == {"False False"}


@workflow
async def wrong_durations(ctx: Context) -> list[str]:
    found = []
    for duration in (float("nan"), "x"):
        try:
            with ctx.move_on_after(duration):  # type: ignore[arg-type]  # that is the test
                pass
        except (ValueError, TypeError) as error:
            found.append(type(error).__name__)
    return found


def test_a_duration_that_is_no_number_is_refused() -> None:
    assert attempt(Program(wrong_durations)).value == ["ValueError", "TypeError"]
