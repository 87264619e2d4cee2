"""Select by cancel scope: several branches wait, the first one cancels the others, and the losers take nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from durable_trio import Context, Engine, workflow
from tests.kit.schedules import OFTEN, RUN_ID, Notes, Program, attempt, crash_and_replay

Wait = Callable[[Context], Awaitable[Any]]


async def take(seconds: float) -> float:
    """Take some virtual time."""
    await trio.sleep(seconds)
    return float(seconds)


async def first_of(ctx: Context, notes: Notes, **waits: Wait) -> tuple[str, Any]:
    """Return the name and the result of the wait that ends first; cancel the others."""
    winners: list[tuple[str, Any]] = []
    async with ctx.open_nursery() as nursery:

        async def branch(ctx: Context, name: str, wait: Wait) -> None:
            try:
                result = await wait(ctx)
            except trio.Cancelled:
                notes.add(f"{name} lost")
                raise
            notes.add(f"{name} ended with {result}")
            winners.append((name, result))
            nursery.cancel_scope.cancel()

        for name, wait in waits.items():
            nursery.start_soon(branch, name, wait, name=name)
    return winners[0]


def signal(name: str) -> Wait:
    """Wait for a signal."""
    return lambda ctx: ctx.wait_signal(name)


def sleep(seconds: float) -> Wait:
    """Sleep."""
    return lambda ctx: ctx.sleep(seconds)


def step(seconds: float) -> Wait:
    """Take a step."""
    return lambda ctx: ctx.step("take", take, seconds)


# ---- signals -------------------------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def four_selects(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    for _ in range(4):
        name, result = await first_of(ctx, notes, left=signal("left"), right=signal("right"))
        notes.add(f"{name} {result}")
    return [note for note in notes if "lost" not in note and "ended" not in note]


async def _send_at_once(engine: Engine) -> None:
    for number in range(4):
        await engine.send_signal(RUN_ID, "left" if number % 2 else "right", number, id=str(number))


async def _send_slowly(engine: Engine) -> None:
    for number in range(4):
        await trio.sleep_until(number * 0.5)
        await engine.send_signal(RUN_ID, "left" if number % 2 else "right", number, id=str(number))


def test_the_loser_of_a_select_does_not_take_the_next_signal() -> None:
    expected = ["right 0", "left 1", "right 2", "left 3"]
    assert crash_and_replay(Program(four_selects, (), _send_at_once)).value == expected
    assert crash_and_replay(Program(four_selects, (), _send_slowly)).value == expected


def test_a_signal_is_taken_by_exactly_one_of_the_selects() -> None:
    trial = attempt(Program(four_selects, (), _send_at_once))
    assert len([key for key in trial.keys if "right" in key or "left" in key]) == 4


@workflow(max_recoveries=OFTEN)
async def equal_waits(ctx: Context) -> list[str]:
    """Three branches wait for the same name: the oldest wait is served first."""
    notes = Notes(ctx)

    async def branch(ctx: Context, name: str) -> None:
        for _ in range(2):
            notes.add(f"{name} {await ctx.wait_signal('left')}")

    async with ctx.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(branch, name)
    return list(notes)


async def _send_six(engine: Engine) -> None:
    for number in range(6):
        await engine.send_signal(RUN_ID, "left", number, id=str(number))


def test_signals_of_one_name_are_shared_among_waiting_branches_in_their_order() -> None:
    trial = crash_and_replay(Program(equal_waits, (), _send_six), is_determined=False)
    assert sorted(note.split()[1] for note in trial.value) == [str(number) for number in range(6)]


# ---- signals, sleeps and steps -------------------------------------------------------------------------------------


@workflow(max_recoveries=OFTEN)
async def mixed(ctx: Context) -> list[str]:
    notes = Notes(ctx)
    outcomes = [
        await first_of(ctx, notes, signal=signal("left"), sleep=sleep(2)),  # the sleep: no signal before 3
        await first_of(ctx, notes, signal=signal("left"), sleep=sleep(50)),  # the signal at 3
        await first_of(ctx, notes, step=step(1), sleep=sleep(100), signal=signal("right")),  # the step
        await first_of(ctx, notes, step=step(1000), sleep=sleep(5), other=sleep(6)),  # a sleep; the step is cancelled
        await first_of(ctx, notes, signal=signal("right"), sleep=sleep(100)),  # the signal that came meanwhile
    ]
    return [name for name, _ in outcomes] + [str(ctx.now().second < 20)]


async def _send_two(engine: Engine) -> None:
    await trio.sleep_until(3)
    await engine.send_signal(RUN_ID, "left", "l", id="l")
    await trio.sleep_until(4.5)
    await engine.send_signal(RUN_ID, "right", "r", id="r")


def test_select_among_signals_sleeps_and_steps_takes_the_same_winner_at_replay() -> None:
    trial = attempt(Program(mixed, (), _send_two))
    assert trial.value == ["sleep", "signal", "step", "sleep", "signal", "True"]
    crash_and_replay(Program(mixed, (), _send_two), is_determined=False)


@workflow(max_recoveries=OFTEN)
async def all_at_once(ctx: Context) -> list[str]:
    """A signal, two sleeps and a step come at the same instant: whoever wins wins again."""
    notes = Notes(ctx)
    for _ in range(3):
        name, result = await first_of(
            ctx, notes, signal=signal("left"), sleep=sleep(0), other=sleep(0), step=step(0), late=sleep(0)
        )
        notes.add(f"{name} {result}")
    await ctx.sleep(1)
    return list(notes)


def test_of_outcomes_at_one_instant_the_recorded_winner_wins_again() -> None:
    crash_and_replay(Program(all_at_once, (), _send_six), is_determined=False)


@workflow(max_recoveries=OFTEN)
async def with_deadline(ctx: Context) -> list[str]:
    """A deadline around a select, and a select inside a deadline's last moment."""
    notes = Notes(ctx)
    for seconds in (1, 2, 3):
        with ctx.move_on_after(seconds) as scope:
            notes.add(await first_of(ctx, notes, signal=signal("left"), sleep=sleep(2)))
        notes.add(scope.cancelled_caught)
    return list(notes)


async def _send_at_two(engine: Engine) -> None:
    await trio.sleep_until(2)
    await engine.send_signal(RUN_ID, "left", "now", id="now")


def test_a_select_inside_a_deadline_has_the_same_outcome_at_replay() -> None:
    trial = crash_and_replay(Program(with_deadline, (), _send_at_two), is_determined=False)
    assert trial.value[:3] == ["signal lost", "sleep lost", "True"]
