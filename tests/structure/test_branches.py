"""Branches: trio's rules, and the same at replay under any schedule, after a crash at any commit."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, RunCancelled, RunStatus, workflow
from durable_trio.testing import VirtualClock

from .harness import (
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

# ---- step functions ------------------------------------------------------------------------------------------------


async def take(seconds: float) -> float:
    """Take some virtual time."""
    await trio.sleep(seconds)
    return float(seconds)


async def echo(value: str) -> str:
    """Return the value at once."""
    return value


async def fail(text: str) -> None:
    """Fail at once."""
    raise ValueError(text)


# ---- what tasks of one body tell each other ------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def in_order_of_completion(ctx: Context) -> list[str]:
    notes = Notes(ctx)

    async def branch(ctx: Context, number: int) -> None:
        notes.add(f"step {await ctx.step('take', take, 5 - number)}")
        await ctx.sleep(number + 0.5)
        notes.add(f"slept {number} {ctx.random():.3f} {ctx.now().time()}")

    async with ctx.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(branch, number)
    return list(notes)


def test_a_list_in_order_of_completion_is_the_same_after_any_crash() -> None:
    program = Program(in_order_of_completion)
    reference = attempt(program)
    assert [note for note in reference.value if note.startswith("step")] == [f"step {n}.0" for n in (1, 2, 3, 4, 5)]
    # A step that runs again ends later than it would have: only the order within a kind is determined.
    crash_everywhere(program, is_determined=False)
    replay_often(program)


@workflow(max_recoveries=OFTEN)
async def with_events(ctx: Context) -> list[str]:
    """One outcome wakes four tasks; each of them goes on with a step."""
    notes = Notes(ctx)
    start, ready = trio.Event(), trio.Event()

    async def waiter(ctx: Context, name: str) -> None:
        await start.wait()
        notes.add(f"{name} goes")
        if name == "b":
            ready.set()
        await trio.lowlevel.checkpoint()
        notes.add(f"{name} goes on")
        notes.add(f"{name} {await ctx.step('echo', echo, name)}")

    async def late(ctx: Context) -> None:
        await ready.wait()
        notes.add("late")

    async def starter(ctx: Context) -> None:
        await ctx.step("echo", echo, "start")
        start.set()
        notes.add("set")

    async with ctx.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(waiter, name)
        nursery.start_soon(late)
        nursery.start_soon(starter)
    return sorted(notes)


def test_tasks_that_one_event_wakes_go_in_the_same_order_at_replay() -> None:
    crash_and_replay(Program(with_events))


@workflow(max_recoveries=OFTEN)
async def with_channels(ctx: Context) -> list[str]:
    """Two producers, two consumers, a channel without a buffer and one with."""
    notes = Notes(ctx)
    send, receive = trio.open_memory_channel[str](0)
    send_result, receive_result = trio.open_memory_channel[str](10)

    async def producer(ctx: Context, channel: Any, name: str, seconds: float) -> None:
        async with channel:
            for number in range(3):
                await ctx.sleep(seconds)
                await channel.send(f"{name}{number}")

    async def consumer(ctx: Context, channel: Any, name: str) -> None:
        async with channel:
            async for item in receive:
                notes.add(f"{name} takes {item}")
                await channel.send(await ctx.step("echo", echo, f"{name}-{item}"))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(producer, send.clone(), "x", 1)
        nursery.start_soon(producer, send.clone(), "y", 1.25)
        nursery.start_soon(consumer, send_result.clone(), "c")
        nursery.start_soon(consumer, send_result.clone(), "d")
        await send.aclose()
        await send_result.aclose()
        async for item in receive_result:
            notes.add(f"result {item}")
    return sorted(item[-2:] for item in notes if item.startswith("result"))


def test_memory_channels_between_branches_carry_the_same_at_replay() -> None:
    trial = crash_and_replay(Program(with_channels))
    assert trial.value == ["x0", "x1", "x2", "y0", "y1", "y2"]


@workflow(max_recoveries=OFTEN)
async def with_locks(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    lock, slots, condition = trio.Lock(), trio.Semaphore(2), trio.Condition()
    entered: list[str] = []

    async def branch(ctx: Context, name: str) -> None:
        async with slots:
            notes.add(f"{name} has a slot")
            async with lock:
                notes.add(f"{name} has the lock")
                await ctx.sleep(1)
        async with condition:
            entered.append(name)
            condition.notify_all()
            while len(entered) < 4:
                await condition.wait()
            notes.add(f"{name} leaves")

    async with ctx.open_nursery() as nursery:
        for name in "abcd":
            nursery.start_soon(branch, name)
    return list(notes)


def test_locks_semaphores_and_conditions_hand_over_in_the_same_order_at_replay() -> None:
    crash_and_replay(Program(with_locks))


@workflow(max_recoveries=OFTEN)
async def with_plain_tasks(ctx: Context) -> list[str]:
    """Tasks of plain trio nurseries hold no context; what they see of the others' outcomes is the same, too."""
    notes = Notes(ctx)
    ticks = trio.Event()

    async def listener(number: int) -> None:
        try:
            await ticks.wait()
            notes.add(f"listener {number}")
            await trio.sleep_forever()
        except trio.Cancelled:
            notes.add(f"listener {number} cancelled")
            raise

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(listener, number)
        await ctx.sleep(1)
        ticks.set()
        await ctx.sleep(1)
        nursery.cancel_scope.cancel()
    return list(notes)


def test_plain_trio_tasks_of_a_body_are_woken_and_cancelled_in_the_same_order_at_replay() -> None:
    trial = crash_and_replay(Program(with_plain_tasks))
    assert trial.value == [f"listener {n}" for n in range(4)] + [f"listener {n} cancelled" for n in range(4)]


@workflow(max_recoveries=OFTEN)
async def publishes_in_a_turn(ctx: Context) -> list[str]:
    """Of two tasks that one outcome wakes, one publishes: live that takes a commit, at replay nothing."""
    notes = Notes(ctx)
    go = trio.Event()

    async def publisher(ctx: Context, name: str) -> None:
        await go.wait()
        await ctx.publish(name, 1)
        notes.add(f"{name} published")

    async def other(ctx: Context) -> None:
        await go.wait()
        for number in range(5):
            await trio.lowlevel.checkpoint()
            notes.add(f"other {number}")
        await ctx.step("echo", echo, "x")
        notes.add("other step")

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(publisher, "p")
        nursery.start_soon(other)
        nursery.start_soon(publisher, "q")
        await ctx.sleep(1)
        go.set()
    return list(notes)


def test_publishing_takes_the_same_place_in_a_turn_at_replay() -> None:
    crash_and_replay(Program(publishes_in_a_turn))


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


# ---- rules ---------------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def nested_use(ctx: Context) -> list[str]:
    """A branch starts others in the nursery that it was started in; equal names everywhere."""
    notes = Notes(ctx)
    seen: list[str] = []

    async def branch(ctx: Context, nursery: Any, depth: int) -> None:
        await ctx.sleep(1)
        notes.add(f"{depth} at {ctx.now().time()}")
        seen.append(str(ctx.uuid4()))
        if depth:
            nursery.start_soon(branch, nursery, depth - 1)
            nursery.start_soon(branch, nursery, depth - 1)

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, nursery, 2)
        nursery.start_soon(branch, nursery, 2, name="other/name#1%")
    assert len(set(seen)) == 14
    return list(notes)


def test_a_branch_may_start_others_in_the_nursery_that_it_was_started_in() -> None:
    trial = crash_and_replay(Program(nested_use))
    assert len(trial.value) == 14
    assert len(set(trial.keys)) == 14
    assert "nursery#0/other%2Fname%231%25#0/sleep#0" in trial.keys


@workflow
async def waits_for_all(ctx: Context) -> list[str]:
    done: list[str] = []

    async def branch(ctx: Context, seconds: float) -> None:
        await ctx.sleep(seconds)
        done.append(str(seconds))

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, 3)
        nursery.start_soon(branch, 1)
        done.append("block")
    done.append("after")
    with pytest.raises(RuntimeError, match="closed"):
        nursery.start_soon(branch, 1)
    return done


def test_the_block_ends_when_all_branches_have() -> None:
    assert attempt(Program(waits_for_all)).value == ["block", "1", "3", "after"]


@workflow
async def breaks_rules(ctx: Context, how: str) -> str:
    """Break one rule; return the error."""
    other: list[Context] = []

    async def lend(ctx: Context) -> None:
        other.append(ctx)
        await ctx.sleep(1)

    async def plain() -> None:
        await borrow(ctx)

    async def borrow(stolen: Context) -> None:
        match how:
            case "sleep":
                await stolen.sleep(1)
            case "step":
                await stolen.step("s", echo, "x")
            case "random":
                stolen.random()
            case "nursery":
                async with stolen.open_nursery():
                    pass
            case "deadline":
                with stolen.move_on_after(1):
                    pass
            case "map":
                await stolen.map("m", echo, ["x"])

    try:
        async with ctx.open_nursery() as nursery:
            nursery.start_soon(lend)
            if how == "start_soon":
                async with trio.open_nursery() as plain_nursery:

                    async def start() -> None:
                        nursery.start_soon(lend)

                    plain_nursery.start_soon(start)
            elif how.startswith("name "):
                nursery.start_soon(lend, name=how.removeprefix("name "))
            elif how == "a branch's":
                await ctx.sleep(0.5)
                await other[0].sleep(1)
            else:
                async with trio.open_nursery() as plain_nursery:
                    plain_nursery.start_soon(plain)
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize("how", ["sleep", "step", "random", "nursery", "deadline", "map", "a branch's"])
def test_a_context_belongs_to_its_task(how: str) -> None:
    assert attempt(Program(breaks_rules, (how,))).value.startswith("RuntimeError: the context of run 'r' was used from")


def test_start_soon_works_only_in_tasks_of_the_body_that_have_a_context() -> None:
    assert attempt(Program(breaks_rules, ("start_soon",))).value.startswith("RuntimeError: only a task of run 'r'")


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "x" * 257])
def test_a_branch_name_that_cannot_be_stored_is_refused(name: str) -> None:
    assert attempt(Program(breaks_rules, (f"name {name}",))).value.startswith("ValueError: branch name")
