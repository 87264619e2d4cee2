"""How many items a map has is stored while it goes on, so that others see how far it is; it is gone with the map."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, workflow
from durable_trio.testing import VirtualClock
from tests.engine.harness import serving
from tests.kit.schedules import OFTEN, Notes, Program, crash_and_replay

pytestmark = pytest.mark.usefixtures("no_leaks")


async def take(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below 0")
    await trio.sleep(number)
    return number


@workflow
async def adding(ctx: Context, numbers: list[int]) -> int:
    return sum(await ctx.map("m", take, numbers, limit=2))


@workflow(max_recoveries=OFTEN)
async def asking(ctx: Context) -> list[bool]:
    """Asks after each map whether the code is new to it, which must be so the first time and at each replay."""
    notes = Notes(ctx)
    new = []

    def ask(change: str) -> None:
        new.append(ctx.patched(change))
        notes.add((change, new[-1]))

    await ctx.map("all", take, [1, 2, 3], limit=2)
    ask("all have come out")
    try:
        await ctx.map("bad", take, [1, -1, 2, 3], limit=2)
    except ValueError as error:
        notes.add(error)
    ask("one has failed")
    with ctx.move_on_after(5):
        await ctx.map("slow", take, [1, 2, 100, 200], limit=3)
    ask("its time was over")
    await ctx.map("one", take, [1])
    ask("there was only one")
    await ctx.map("bad too", take, [-1, -2, 1], return_exceptions=True)
    ask("all have come out, some with failures")
    return new


def test_after_a_map_nothing_of_it_is_left_whatever_has_become_of_it() -> None:
    """A crash at any commit changes nothing of what the body sees; ``patched`` looks at what is stored."""
    assert crash_and_replay(Program(asking)).value == [True] * 5


async def test_the_total_is_told_while_the_map_goes_on(autojump_clock: MockClock) -> None:
    async with serving(":memory:", adding, clock=VirtualClock()) as engine:
        run = await engine.start(adding, [1, 1, 10, 10, 10])
        await trio.sleep(0.5)
        assert await run.waits() == ()  # nothing has come out yet
        await trio.sleep(5)
        (wait,) = await run.waits()
        assert (wait.key, wait.kind, wait.total, wait.attempt) == ("m#0", "map", 5, 0)
        assert len(await run.steps()) == 2
        assert await run.result() == 32
        assert await run.waits() == ()


async def test_a_map_of_one_item_stores_nothing_of_itself(autojump_clock: MockClock) -> None:
    @workflow
    async def lone(ctx: Context) -> None:
        await ctx.map("m", take, [1])
        await ctx.wait_signal("never", timeout=100)

    async with serving(":memory:", lone, clock=VirtualClock()) as engine:
        run = await engine.start(lone)
        await trio.sleep(50)
        assert [wait.kind for wait in await run.waits()] == ["signal"]


async def test_the_total_stays_over_a_restart(file_path: str) -> None:

    @workflow
    async def stopping(ctx: Context) -> None:
        await ctx.map("m", take, [0, 0, 3600, 3600], limit=4)

    async with serving(file_path, stopping, durability="normal", grace_seconds=0) as engine:
        run = await engine.start(stopping, id="run")
        with trio.fail_after(30):
            while len(await run.steps()) < 2:  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
    async with Engine(file_path) as client:
        (wait,) = await client.get("run").waits()
    assert wait.total == 4
