"""What is due, and has begun, does not wait behind new starts."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, workflow
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks")

NEW_RUNS = 40


class Line:
    """Runs that pass through the one place of an engine, and the order in which they do."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = trio.Event()

    async def pass_through(self, name: str) -> None:
        self.order.append(name)


@workflow
async def holder(ctx: Context) -> None:
    await ctx.step("hold", line.go.wait)


@workflow
async def new(ctx: Context, number: int) -> None:
    await ctx.step("pass", line.pass_through, f"new {number}")


@workflow
async def timer(ctx: Context) -> None:
    await ctx.sleep(50)
    await ctx.step("pass", line.pass_through, "timer")


@workflow
async def signalled(ctx: Context) -> None:
    await ctx.wait_signal("go")
    await ctx.step("pass", line.pass_through, "signal")


@workflow
async def cancelled(ctx: Context) -> None:
    try:
        await ctx.wait_signal("never")
    finally:
        if not ctx.detaching:
            line.order.append("cancel")


line = Line()


@pytest.mark.parametrize("priority", [0, 9])
async def test_what_is_due_takes_the_next_place_whatever_is_started(priority: int, autojump_clock: MockClock) -> None:
    """Also before the starts of this process, which would have a place at once if nothing waited for it."""
    global line
    line = Line()
    workflows = (holder, new, timer, signalled, cancelled)
    async with serving(":memory:", *workflows, clock=VirtualClock(), concurrency=1) as engine:
        for name in ("timer", "signalled", "cancelled"):
            await engine.start(name, id=name)
            await wait_passivated(engine)
        await engine.start(holder)
        for number in range(NEW_RUNS):
            await engine.start(new, number, priority=priority)
        await trio.sleep(60)
        await engine.send_signal("signalled", "go")
        await engine.cancel("cancelled")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start_more, engine, priority)
            line.go.set()
        with trio.fail_after(PATIENCE_SECONDS * 50):
            for run_id in ("timer", "signalled"):
                await engine.get(run_id).result()
    begun = [name for name in line.order if not name.startswith("new")]
    assert begun == ["timer", "signal", "cancel"]
    assert line.order[:3] == begun


async def _start_more(engine: Engine, priority: int) -> None:
    for number in range(NEW_RUNS, 2 * NEW_RUNS):
        await engine.start(new, number, priority=priority)
