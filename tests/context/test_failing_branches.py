"""Branches that fail or are cancelled: trio's rules, the same at replay; and their compensation."""

from __future__ import annotations

import pytest
import trio

from durable_trio import Context, Engine, RunCancelled, RunStatus, workflow
from durable_trio.testing import VirtualClock
from tests.kit.schedules import (
    OFTEN,
    REPLAY_COUNT,
    RUN_ID,
    SEED_COUNT,
    Notes,
    Program,
    attempt,
    crash_and_replay,
    crash_everywhere,
    replay_often,
)


async def echo(value: str) -> str:
    """Return the value at once."""
    return value


async def fail(text: str) -> None:
    """Fail at once."""
    raise ValueError(text)


# ---- failing and cancelling ----------------------------------------------------------------------------------------


begun: list[str] = []


async def begin(name: str) -> str:
    """Tell that a step function runs; a little later it is done."""
    begun.append(name)
    await trio.sleep(0.125)
    return name


@workflow(max_recoveries=OFTEN)
async def doomed_sibling(ctx: Context) -> list[str]:
    """One branch fails at the moment that another is about to begin a step."""
    notes = Notes(ctx)
    failing = trio.Event()

    async def failing_branch(ctx: Context) -> None:
        await ctx.sleep(1)
        failing.set()
        await trio.lowlevel.checkpoint()
        raise ValueError("stop")

    async def sibling(ctx: Context) -> None:
        try:
            await failing.wait()
            notes.add(await ctx.step("begin", begin, "never"))
        except trio.Cancelled:
            notes.add("sibling cancelled")
            raise

    async def sleeper(ctx: Context) -> None:
        try:
            await ctx.sleep(2)
            notes.add("never")
        except trio.Cancelled:
            notes.add("sleeper cancelled")
            raise

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(sibling)
            nursery.start_soon(sleeper)
            nursery.start_soon(failing_branch)
    except* ValueError as group:
        notes.add(repr(group))
    notes.add(await ctx.step("begin", begin, "after"))
    return list(notes)


def test_on_replay_no_sibling_of_a_failed_branch_starts_a_step() -> None:
    begun.clear()
    trial = attempt(Program(doomed_sibling))
    assert trial.value[-2:] == ["ExceptionGroup('Exceptions from Trio nursery', [ValueError('stop')])", "after"]
    # Live it may have begun before the failure came; a replay after that begins it never.
    begun.clear()
    replayed = replay_often(Program(doomed_sibling))
    assert begun.count("never") <= 1
    assert begun.count("after") == 1
    assert replayed.value == trial.value
    crash_everywhere(Program(doomed_sibling))


@workflow(max_recoveries=OFTEN)
async def doomed_by_a_row(ctx: Context) -> list[str]:
    """The failure is recorded before its sibling's next step could be."""
    notes = Notes(ctx)

    async def failing_branch(ctx: Context) -> None:
        await ctx.step("fail", fail, "stop")

    async def sibling(ctx: Context) -> None:
        notes.add(await ctx.step("echo", echo, "first"))
        await ctx.step("begin", begin, "doomed")
        notes.add("never")

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(sibling)
            await ctx.sleep(0.0625)
            nursery.start_soon(failing_branch)
    except* ValueError as group:
        notes.add(repr(group))
    await ctx.sleep(1)
    return list(notes)


def test_a_step_that_a_recorded_failure_has_stopped_does_not_begin_again() -> None:
    program = Program(doomed_by_a_row)
    begun.clear()
    trial = replay_often(program)
    assert begun == ["doomed"]
    assert trial.value == ["first", "ExceptionGroup('Exceptions from Trio nursery', [ValueError('stop')])"]
    assert crash_everywhere(program).value == trial.value


@workflow(max_recoveries=OFTEN)
async def nested_groups(ctx: Context, catches: bool) -> list[str]:
    notes = Notes(ctx)

    async def leaf(ctx: Context, kind: str, seconds: float) -> None:
        try:
            await ctx.sleep(seconds)
        finally:
            notes.add(f"{kind} ends")
            if kind == "key":
                raise KeyError("k")
            if kind == "value":
                raise ValueError("v")

    async def inner(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(leaf, "key", 1)
            nursery.start_soon(leaf, "value", 2)
            nursery.start_soon(leaf, "none", 3)

    async def outer(ctx: Context) -> None:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(inner)
            nursery.start_soon(leaf, "value", 4)

    if not catches:
        await outer(ctx)
    try:
        await outer(ctx)
    except* KeyError as group:
        notes.add(f"key arm {group!r}")
    except* ValueError as group:
        notes.add(f"value arm {group!r}")
    return list(notes)


_INNER = "ExceptionGroup('Exceptions from Trio nursery', [KeyError('k'), ValueError('v')])"


def test_except_star_takes_the_same_arms_at_replay() -> None:
    trial = crash_and_replay(Program(nested_groups, (True,)))
    assert [note for note in trial.value if "arm" in note] == [
        "key arm ExceptionGroup('Exceptions from Trio nursery', [ExceptionGroup('Exceptions from Trio nursery',"
        " [KeyError('k')])])",
        "value arm ExceptionGroup('Exceptions from Trio nursery', [ExceptionGroup('Exceptions from Trio nursery',"
        " [ValueError('v')]), ValueError('v')])",
    ]


def test_the_shape_of_an_exception_group_is_kept_in_the_failure_of_the_run() -> None:
    trial = crash_everywhere(Program(nested_groups, (False,)))
    assert trial.end == (
        RunStatus.FAILED,
        f"ExceptionGroup('Exceptions from Trio nursery', [{_INNER}, ValueError('v')])",
    )


async def fail_as_group(kind: str) -> None:
    """Fail with a group of groups."""
    raise ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError(kind)]), ValueError(kind)])


@workflow(max_recoveries=OFTEN)
async def group_from_a_step(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    try:
        await ctx.step("fail", fail_as_group, "x")
    except* KeyError as group:
        notes.add(repr(group))
    except* ValueError as group:
        notes.add(repr(group))
    await ctx.sleep(1)
    return list(notes)


def test_the_shape_of_an_exception_group_of_a_step_is_kept_at_replay() -> None:
    trial = crash_and_replay(Program(group_from_a_step))
    assert trial.value == [
        "ExceptionGroup('outer', [ExceptionGroup('inner', [KeyError('x')])])",
        "ExceptionGroup('outer', [ValueError('x')])",
    ]


@workflow(max_recoveries=OFTEN)
async def one_fails(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    async def branch(ctx: Context, seconds: float) -> None:
        try:
            await ctx.sleep(seconds)
            if seconds == 2:
                raise ValueError("two")
            notes.add(f"{seconds} ends")
        except trio.Cancelled:
            notes.add(f"{seconds} cancelled")
            raise

    try:
        async with ctx.open_nursery() as nursery:
            for seconds in (4, 1, 3, 2):
                nursery.start_soon(branch, seconds)
            try:
                await ctx.sleep(5)
            except trio.Cancelled:
                notes.add("block cancelled")
                raise
    except ExceptionGroup as group:
        notes.add(repr(group))
    notes.add(ctx.now().time())
    return list(notes)


def test_a_failing_branch_cancels_the_others_and_the_block() -> None:
    trial = crash_and_replay(Program(one_fails))
    assert trial.value == [
        "1 ends",
        "block cancelled",
        "4 cancelled",
        "3 cancelled",
        "ExceptionGroup('Exceptions from Trio nursery', [ValueError('two')])",
        "00:00:02",
    ]


@workflow(max_recoveries=OFTEN)
async def cancelled_in_primitives(ctx: Context) -> list[str]:
    """A scope is cancelled with tasks in waits of every kind inside."""
    notes = Notes(ctx)
    event = trio.Event()
    _send, receive = trio.open_memory_channel[int](0)

    async def branch(ctx: Context, name: str) -> None:
        try:
            match name[0]:
                case "e":
                    await event.wait()
                case "c":
                    await receive.receive()
                case "d":
                    await ctx.sleep(100)
                case "n":
                    async with ctx.open_nursery() as nursery:
                        nursery.start_soon(branch, "e" + name)
                        nursery.start_soon(branch, "d" + name)
        finally:
            notes.add(f"{name} ends")

    async with ctx.open_nursery() as nursery:
        for name in ("e1", "n1", "d1", "c1", "e2", "d2", "n2", "c2"):
            nursery.start_soon(branch, name)
        await ctx.sleep(1)
        nursery.cancel_scope.cancel()
    return list(notes)


def test_all_kinds_of_waits_are_cancelled_in_the_same_order_at_replay() -> None:
    assert len(crash_and_replay(Program(cancelled_in_primitives)).value) == 12


@workflow(max_recoveries=OFTEN)
async def clean_up(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    try:
        notes.add(await ctx.step("echo", echo, "before"))
        await ctx.sleep(1000)
    except trio.Cancelled:
        notes.add("cancelled")
        raise
    finally:
        with ctx.move_on_after(60, shield=True) as scope:
            notes.add(await ctx.step("begin", begin, "clean 1"))
            await ctx.sleep(2)
            notes.add(await ctx.step("begin", begin, "clean 2"))
        if not ctx.detaching:
            ends.append([*notes, str(scope.cancelled_caught)])
    return list(notes)


ends: list[list[str]] = []


async def _cancel_soon(engine: Engine) -> None:
    await trio.sleep_until(1)
    await engine.cancel(RUN_ID)


def test_durable_clean_up_in_finally_is_resumed_after_a_crash() -> None:
    ends.clear()
    trial = crash_and_replay(Program(clean_up, (), _cancel_soon))
    assert trial.status is RunStatus.CANCELLED
    assert len(ends) > SEED_COUNT + REPLAY_COUNT
    assert all(end == ["before", "cancelled", "clean 1", "clean 2", "False"] for end in ends)


async def test_cancel_with_wait_returns_when_the_clean_up_is_durable(autojump_clock: trio.testing.MockClock) -> None:
    from durable_trio import open_engine

    async with open_engine(":memory:", workflows=[clean_up], clock=VirtualClock()) as engine:
        run = await engine.start(clean_up)
        await trio.sleep(1)
        assert await run.cancel(wait=True)
        assert (await run.record()).status is RunStatus.CANCELLED
        keys = [step.key for step in await run.steps()]
        assert keys == ["echo#0", "(cancel)#0", "begin#0", "sleep#1", "begin#1"]
        assert trio.current_time() == pytest.approx(3.25)
        with pytest.raises(RunCancelled):
            await run.result()


@workflow(max_recoveries=OFTEN)
async def swallows(ctx: Context) -> list[str]:
    """Swallows its cancellation once, twice: the next cancel point raises it again."""
    notes = Notes(ctx)

    async def branch(ctx: Context) -> None:
        for number in range(3):
            try:
                await ctx.sleep(1000)
            except trio.Cancelled:
                notes.add(f"swallowed {number}")
        await ctx.step("begin", begin, "never")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch)
        nursery.start_soon(branch)
        await ctx.sleep(1)
        nursery.cancel_scope.cancel()
    notes.add(await ctx.step("begin", begin, "after"))
    return list(notes)


def test_a_swallowed_cancellation_comes_again_at_the_next_cancel_point() -> None:
    begun.clear()
    trial = crash_and_replay(Program(swallows))
    assert trial.value == [f"swallowed {n}" for n in (0, 0, 1, 1, 2, 2)] + ["after"]
    assert set(begun) == {"after"}


# ---- compensation --------------------------------------------------------------------------------------------------


undone: list[str] = []


async def undo(value: str) -> None:
    """Tell what is undone."""
    undone.append(value)


@workflow(max_recoveries=OFTEN)
async def saga_in_branches(ctx: Context) -> None:
    async def branch(ctx: Context, name: str, seconds: float) -> None:
        for number in range(2):
            await ctx.sleep(seconds)
            await ctx.step("book", echo, f"{name}{number}", compensate=undo)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, "x", 1)
        nursery.start_soon(branch, "y", 1.5)
        nursery.start_soon(branch, "z", 5)
        await ctx.map("m", echo, ["m0", "m1"], compensate=undo, limit=1)
        await ctx.sleep(4)
        raise ValueError("stop")


def test_compensation_across_branches_is_the_reverse_of_the_recorded_completion() -> None:
    program = Program(saga_in_branches)
    undone.clear()
    trial = attempt(program)
    assert trial.status is RunStatus.FAILED
    assert undone == ["y1", "x1", "y0", "x0", "m1", "m0"]
    reference = [key for key in trial.keys if "compensate" in key]
    assert len(reference) == 6
    crashed = crash_everywhere(program)
    assert crashed.keys == trial.keys
    for at in range(1, trial.commit_count + 1, 4):
        assert [key for key in attempt(program, at, crashes=[(at, True)]).keys if "compensate" in key] == reference
