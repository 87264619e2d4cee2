"""What users of other engines report, each as a named regression."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunStatus, SignalTimeout, open_engine, workflow
from durable_trio.stores.questions import FindRun, LoadRun
from durable_trio.testing import CrashingStore, VirtualClock
from tests.kit.schedules import OFTEN, RUN_ID, Notes, Program, attempt, crash_everywhere, replay_often


async def echo(value: str) -> str:
    """Return the value at once."""
    return value


async def take(seconds: float) -> float:
    """Take some virtual time."""
    await trio.sleep(seconds)
    return float(seconds)


async def fail(seconds: float) -> None:
    """Fail after some virtual time."""
    await trio.sleep(seconds)
    raise ValueError(seconds)


# ---- gathered steps replayed in another order ----------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def gathered(ctx: Context) -> list[str]:
    """Steps of one name, at once, in branches of one name: only the structure tells them apart."""
    notes = Notes(ctx)

    async def branch(ctx: Context, value: str) -> None:
        notes.add(f"{value} got {await ctx.step('echo', echo, value)}")
        notes.add(f"{value} got {await ctx.step('echo', echo, value.upper())}")

    async with ctx.open_nursery() as nursery:
        for value in "abcdef":
            nursery.start_soon(branch, value)
    return list(notes)


def test_gathered_steps_are_not_replayed_in_another_order() -> None:
    program = Program(gathered)
    for trial in (crash_everywhere(program, is_determined=False), replay_often(program)):
        expected = [f"{value} got {result}" for value in "abcdef" for result in (value, value.upper())]
        assert sorted(trial.value) == sorted(expected)


# ---- the loser of a select takes the next event --------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def select_then_wait(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    async def wait(ctx: Context, nursery: Any, name: str) -> None:
        notes.add(f"select {name} {await ctx.wait_signal(name)}")
        nursery.cancel_scope.cancel()

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(wait, nursery, "approve")
        nursery.start_soon(wait, nursery, "reject")
    notes.add(f"then {await ctx.wait_signal('approve')}")
    notes.add(f"then {await ctx.wait_signal('reject')}")
    return list(notes)


async def _send_three(engine: Engine) -> None:
    for number, name in enumerate(["reject", "approve", "reject"]):
        await engine.send_signal(RUN_ID, name, number, id=str(number))


def test_the_loser_of_a_select_does_not_take_the_next_event() -> None:
    program = Program(select_then_wait, (), _send_three)
    assert crash_everywhere(program).value == ["select reject 0", "then 1", "then 2"]
    replay_often(program)


# ---- a failed task group hangs the workflow ------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def failing_group(ctx: Context) -> list[str]:
    """One branch fails while others step, sleep, wait for a signal, retry, map, and wait for each other."""
    notes = Notes(ctx)
    event = trio.Event()

    async def wait(ctx: Context) -> None:
        await event.wait()

    async def nested(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(wait)
            await ctx.map("m", take, [100.0, 200.0])

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(lambda ctx: ctx.step("take", take, 100.0), name="step")
            nursery.start_soon(lambda ctx: ctx.sleep(100), name="sleep")
            nursery.start_soon(lambda ctx: ctx.wait_signal("never"), name="signal")
            nursery.start_soon(wait)
            nursery.start_soon(nested)
            nursery.start_soon(lambda ctx: ctx.step("fail", fail, 0.5), name="fail")
    except* ValueError:
        notes.add("failed")
    notes.add(await ctx.step("echo", echo, "goes on"))
    return list(notes)


def test_a_failed_task_group_does_not_hang_the_workflow() -> None:
    program = Program(failing_group)
    trial = crash_everywhere(program)
    assert trial.value == ["failed", "goes on"]
    replay_often(program)


# ---- cancellation swallowed ----------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def swallower(ctx: Context) -> str:
    """Do what must not be done with a cancellation."""
    for _ in range(3):
        try:
            await ctx.sleep(1000)
        except BaseException:
            if ctx.detaching:
                raise
    return "completed after all"


async def _cancel(engine: Engine) -> None:
    await trio.sleep_until(1)
    await engine.cancel(RUN_ID, reason="enough")


def test_a_cancellation_cannot_be_swallowed() -> None:
    trial = crash_everywhere(Program(swallower, (), _cancel))
    assert trial.status is RunStatus.CANCELLED
    assert "enough" in trial.value


# ---- a cancelled sleep leaves its timer ----------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def cancelled_sleep(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(lambda ctx: ctx.sleep(3600), name="long")
        nursery.start_soon(lambda ctx: ctx.wait_signal("never", timeout=1800), name="signal")
        await ctx.sleep(1)
        nursery.cancel_scope.cancel()
    notes.add(await ctx.wait_signal("go"))
    return list(notes)


async def test_a_cancelled_sleep_leaves_no_timer(autojump_clock: MockClock) -> None:
    store = CrashingStore()
    async with open_engine(store, workflows=[cancelled_sleep], clock=VirtualClock()) as engine:
        run = await engine.start(cancelled_sleep)
        await trio.sleep(60)
        record = await run.record()
        assert record.status is RunStatus.SUSPENDED
        assert record.wake_at is None
        assert (await engine.status()).resident_runs == 0
        row = store.ask(FindRun(run.id))
        assert row is not None
        assert [wait.key.name for wait in store.ask(LoadRun(row.run)).waits] == ["go"]
        commit_count = store.commit_count
        await trio.sleep(2 * 3600)
        after = store.ask(FindRun(run.id))
        assert after is not None
        assert after.token == row.token, "it was claimed again for a timer that nobody waits for"
        assert store.commit_count - commit_count < 2000  # leases are renewed, nothing else
        await run.signal("go", "now")
        assert await run.result() == ["now"]
    store.dispose()


def test_a_cancelled_sleep_leaves_no_timer_after_any_crash() -> None:
    async def go(engine: Engine) -> None:
        await trio.sleep_until(5000)
        await engine.send_signal(RUN_ID, "go", "now", id="go")

    assert crash_everywhere(Program(cancelled_sleep, (), go)).value == ["now"]


# ---- finally runs elsewhere on eviction ----------------------------------------------------------------------------

finals: list[tuple[bool, bool]] = []
cleaned: list[str] = []


async def clean(name: str) -> None:
    """Tell that the clean-up has run."""
    cleaned.append(name)


@workflow(max_recoveries=OFTEN)
async def evicted(ctx: Context) -> str:
    task = trio.lowlevel.current_task()
    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(lambda ctx: ctx.sleep(3600), name="sleep")
        return "slept"
    finally:
        finals.append((ctx.detaching, trio.lowlevel.current_task() is task))
        await ctx.step("clean", clean, ctx.run_id)


async def test_finally_runs_in_its_own_task_on_eviction_and_its_durable_calls_do_not(
    autojump_clock: MockClock,
) -> None:
    finals.clear()
    cleaned.clear()
    async with open_engine(":memory:", workflows=[evicted], clock=VirtualClock()) as engine:
        runs = [await engine.start(evicted, id=name) for name in "abc"]
        await trio.sleep(10)
        assert (await engine.status()).resident_runs == 0
        assert finals == [(True, True)] * 3
        assert cleaned == []
        assert [step.key for run in runs for step in await run.steps()] == []
        for run in runs:
            assert await run.result() == "slept"
        assert finals[3:] == [(False, True)] * 3
        assert sorted(cleaned) == ["a", "b", "c"]


@workflow(max_recoveries=OFTEN)
async def interrupts(ctx: Context) -> None:
    """Stop the executor."""

    async def interrupt() -> None:
        await trio.sleep(1)
        raise KeyboardInterrupt

    await ctx.step("interrupt", interrupt)


@workflow(max_recoveries=OFTEN)
async def shields_its_clean_up(ctx: Context) -> str:
    try:
        await ctx.step("take", take, 5.0)
        return "done"
    finally:
        with ctx.move_on_after(60, shield=True):
            await ctx.step("clean", clean, f"detaching: {ctx.detaching}")


async def test_when_the_executor_stops_no_body_takes_it_for_a_cancellation(autojump_clock: MockClock) -> None:
    cleaned.clear()
    clock = VirtualClock()
    store = CrashingStore()

    async def serve() -> None:
        async with open_engine(store, workflows=[interrupts, shields_its_clean_up], clock=clock) as engine:
            await engine.start(shields_its_clean_up, id=RUN_ID)
            await engine.start(interrupts)
            await trio.sleep(3)

    with pytest.raises(BaseExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(KeyboardInterrupt)
    assert cleaned == []
    async with open_engine(store, workflows=[shields_its_clean_up], clock=clock) as engine:
        assert await engine.get(RUN_ID).result() == "done"
        assert cleaned == ["detaching: False"]
    store.dispose()


@workflow(max_recoveries=OFTEN)
async def waits_in_memory_under_a_shield(ctx: Context) -> str:
    """Nothing but the detach can end these waits."""
    try:
        with ctx.move_on_after(3600, shield=True):
            await trio.Event().wait()
    finally:
        if ctx.detaching:
            with ctx.move_on_after(3600, shield=True):
                await trio.Event().wait()
    return "done"


async def test_a_shielded_wait_in_memory_does_not_hold_up_a_stop(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    store = CrashingStore()
    for _ in range(2):
        with trio.fail_after(60):
            async with open_engine(store, workflows=[waits_in_memory_under_a_shield], clock=clock) as engine:
                await engine.start(waits_in_memory_under_a_shield, id=RUN_ID)
                await trio.sleep(0.5)
    async with open_engine(store, workflows=[waits_in_memory_under_a_shield], clock=clock) as engine:
        assert await engine.get(RUN_ID).result() == "done"
    assert trio.current_time() == pytest.approx(3600, abs=1)
    store.dispose()


# ---- a timeout that looks like None --------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def timeout_or_none(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    for seconds in (10, 1, 10):
        try:
            notes.add(f"signal {await ctx.wait_signal('s', timeout=seconds)!r}")
        except SignalTimeout as error:
            notes.add(f"timeout {isinstance(error, trio.TooSlowError)}")
    with ctx.move_on_after(1) as scope:
        notes.add(f"never {await ctx.wait_signal('s')}")
    notes.add(f"deadline {scope.cancelled_caught}")
    return list(notes)


async def _send_none(engine: Engine) -> None:
    for time in (0.5, 3):
        await trio.sleep_until(time)
        await engine.send_signal(RUN_ID, "s", None, id=str(time))


def test_a_timeout_is_told_from_a_payload_of_none() -> None:
    program = Program(timeout_or_none, (), _send_none)
    trial = crash_everywhere(program)
    assert trial.value == ["signal None", "timeout True", "signal None", "deadline True"]
    replay_often(program)


def test_the_programs_of_this_file_end_without_a_crash() -> None:
    assert attempt(Program(failing_group)).status is RunStatus.COMPLETED
