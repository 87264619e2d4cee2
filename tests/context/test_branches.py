"""Branches: what tasks of one body tell each other is the same at replay; and the rules of contexts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from durable_trio import Context, workflow
from tests.kit.schedules import OFTEN, Notes, Program, attempt, crash_and_replay, crash_everywhere, replay_often


async def take(seconds: float) -> float:
    """Take some virtual time."""
    await trio.sleep(seconds)
    return float(seconds)


async def echo(value: str) -> str:
    """Return the value at once."""
    return value


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
