"""Every kind of unfinished run goes on under the code that has left it, and is told as what it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, Retry, Workflow, workflow
from tests.engine.harness import wait_passivated, wait_until
from tests.kit.crash_points import crashing_store
from tests.kit.traces import effects, note, undo
from tests.rehearsal.kit import causes, left_by, rehearsed

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")

LATER = 3600.0
HOURLY = Retry.fixed(50, LATER)


async def fails(*_: object) -> None:
    raise ValueError("no funds")


async def blocks() -> None:
    await trio.sleep_forever()


@workflow
async def child(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


@workflow
async def fleeting(ctx: Context) -> str:
    return "gone"


async def idle(engine: Engine) -> None:
    await engine.start("flow", id="run")
    await wait_passivated(engine)


async def executing(engine: Engine) -> None:
    """Leave the run while its executor is at it, as if that were killed."""
    await engine.start("flow", id="run")
    await wait_until(lambda: "begun" in effects)


async def pending(engine: Engine) -> None:
    await engine.start("flow", id="run", delay=LATER)


async def retrying(engine: Engine) -> None:
    await engine.start("flow", id="run")
    with trio.fail_after(60):
        while not await engine.get("run").waits():  # noqa: ASYNC110  # a failed attempt is no event
            await trio.sleep(0.01)
    await wait_passivated(engine)


async def cancelled(engine: Engine) -> None:
    await idle(engine)
    await engine.cancel("run")
    await wait_until(lambda: "clean" in effects)
    await wait_passivated(engine)


async def later(engine: Engine) -> None:
    await idle(engine)
    await trio.sleep(100)
    await wait_passivated(engine)


async def nothing(client: Engine) -> None:
    await trio.lowlevel.checkpoint()


async def cancels(client: Engine) -> None:
    await client.cancel("run")


async def signals(client: Engine) -> None:
    await client.send_signal("run", "go", 1)
    await client.send_signal("run", "other", 1)


async def waits_too_long(client: Engine) -> None:
    await trio.sleep(2 * LATER)


@attrs.frozen
class Kind:
    """A body, how it is left, and what comes next of it. ``then``: what a client does when nobody serves."""

    body: Callable[..., Awaitable[Any]]
    cause: str
    scenario: Callable[[Engine], Awaitable[None]] = idle
    then: Callable[[Engine], Awaitable[None]] = nothing
    ttl: float | None = None
    others: Sequence[Workflow[..., Any]] = ()

    @property
    def code(self) -> list[Workflow[..., Any]]:
        flow: Any = self.body
        return [workflow(name="flow", ttl=self.ttl)(flow), *self.others]


async def _compensating(ctx: Context) -> None:
    await ctx.step("book", note, "booked", compensate=undo)
    await ctx.step("pay", note, "paid", compensate=fails, compensate_retry=HOURLY)
    raise ValueError("what no step has raised")


async def _compensated_in_part(ctx: Context) -> None:
    await ctx.step("book", note, "booked", compensate=fails, compensate_retry=HOURLY)
    await ctx.step("pay", note, "paid", compensate=undo)
    raise ValueError("what no step has raised")


async def _parent(ctx: Context) -> str:
    await ctx.step("a", note, "a")
    return await ctx.run_child(child)


async def _ended_before_its_child(ctx: Context) -> str:
    await ctx.start_child(child)
    return "done"


async def _failed_before_its_child(ctx: Context) -> str:
    await ctx.start_child("stubborn")
    await ctx.step("a", note, "a")
    raise ValueError("what no step has raised")


@workflow
async def stubborn(ctx: Context) -> None:
    with trio.CancelScope(shield=True):
        await ctx.wait_signal("never")


async def _in_a_step(ctx: Context) -> None:
    await ctx.step("a", note, "begun")
    await ctx.step("b", blocks)


async def _in_a_step_that_must_not_run_twice(ctx: Context) -> None:
    await ctx.step("a", note, "begun")
    await ctx.step("b", blocks, at_most_once=True)


async def _retrying(ctx: Context) -> None:
    await ctx.step("a", note, "a")
    await ctx.step("b", fails, retry=HOURLY)


async def _second_generation(ctx: Context, turn: int = 0) -> str:
    await ctx.step("a", note, f"a{turn}")
    if turn < 2:
        await ctx.continue_as_new(turn + 1)
    return str(await ctx.wait_signal("go"))


async def _branch(ctx: Context, name: str) -> None:
    await ctx.step("a", note, name)
    await ctx.wait_signal(name)


async def _open_nursery(ctx: Context) -> None:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(_branch, "left")
        nursery.start_soon(_branch, "right")
        await ctx.sleep(LATER)


async def _half_fails(item: int) -> int:
    if item % 2:
        raise ValueError(item)
    return item


async def _half_a_map(ctx: Context) -> list[int]:
    return await ctx.map("pages", _half_fails, range(6), retry=HOURLY)


async def _in_a_deadline(ctx: Context) -> None:
    with ctx.move_on_after(2 * LATER):
        await ctx.step("a", note, "a")
        await ctx.wait_signal("go")


async def _behind_a_deadline(ctx: Context) -> None:
    with ctx.move_on_after(10):
        await ctx.wait_signal("never")
    await ctx.step("a", note, "a")
    await ctx.wait_signal("go")


async def _publishing(ctx: Context) -> None:
    await ctx.publish("at", "begin")
    await ctx.step("a", note, "a")
    await ctx.publish("at", "wait")
    await ctx.wait_signal("go")


async def _caught(ctx: Context) -> None:
    try:
        await ctx.step("a", fails)
    except ValueError:
        await ctx.step("b", note, "b")
    await ctx.wait_signal("go")


async def _loop(ctx: Context) -> None:
    for turn in range(30):
        await ctx.step("turn", note, str(turn))
    await ctx.wait_signal("go")


async def _patched(ctx: Context) -> None:
    if ctx.patched("fraud"):
        await ctx.step("check", note, "checked")
    await ctx.wait_signal("go")


async def _cleaning_up(ctx: Context) -> None:
    await ctx.step("a", note, "a")
    try:
        await ctx.wait_signal("never")
    finally:
        with trio.CancelScope(shield=True):
            await ctx.step("clean", note, "clean")
            await ctx.wait_signal("cleaned")


async def _undone(ctx: Context) -> None:
    await ctx.step("a", note, "a", compensate=fails, compensate_retry=HOURLY)
    await ctx.wait_signal("never")


async def _waiting(ctx: Context) -> str:
    await ctx.step("a", note, "a")
    return str(await ctx.wait_signal("go"))


async def _transacting(ctx: Context) -> None:
    await ctx.transaction("create", lambda connection: None)
    await ctx.wait_signal("go")


async def _replayed_value(ctx: Context) -> None:
    token = ctx.uuid4()
    await ctx.step(f"token {token}", note, "a")
    await ctx.step(f"at {ctx.now().isoformat()}", note, "b")
    await ctx.wait_signal("go")


async def _with_an_awaited_start(ctx: Context) -> str:
    run = await ctx.start_child(child)
    return await run.result()


KINDS = {
    "compensating": Kind(_compensating, "its body has ended, and it comes to compensation compensate/pay", retrying),
    "compensated in part": Kind(
        _compensated_in_part, "its body has ended, and it comes to compensation compensate/book", retrying
    ),
    "waiting for a child": Kind(_parent, "comes to child_end child result", others=[child]),
    "waiting for a child it has begun": Kind(_with_an_awaited_start, "comes to child_end child result", others=[child]),
    "ended before its child": Kind(
        _ended_before_its_child, "its body has ended, and it comes to child_end", others=[child]
    ),
    "failed before its child": Kind(
        _failed_before_its_child, "its body has ended, and it comes to child_end", others=[stubborn]
    ),
    "in a step": Kind(_in_a_step, "comes to step b", executing),
    "in a step that must not run twice": Kind(_in_a_step_that_must_not_run_twice, "comes to step b", executing),
    "retrying": Kind(_retrying, "comes to step b", retrying),
    "in a later generation": Kind(_second_generation, "comes to signal go"),
    "pending": Kind(_waiting, "comes to step a", pending),
    "pending, and publishing first": Kind(_publishing, "comes to step a", pending),
    "in a nursery": Kind(_open_nursery, "comes to signal nursery/_branch/left + signal nursery/_branch/right + "),
    "in a map": Kind(_half_a_map, "comes to map pages", retrying),
    "in a deadline": Kind(_in_a_deadline, "comes to signal go"),
    "behind a deadline": Kind(_behind_a_deadline, "comes to signal go", later),
    "publishing": Kind(_publishing, "comes to signal go"),
    "behind a caught failure": Kind(_caught, "comes to signal go"),
    "behind a loop": Kind(_loop, "comes to signal go"),
    "patched": Kind(_patched, "comes to signal go; 'fraud': new way"),
    "cancelled, and cleaning up": Kind(_cleaning_up, "comes to signal cleaned", cancelled),
    "asked to cancel": Kind(_waiting, "comes to signal go", then=cancels),
    "signalled": Kind(_waiting, "comes to signal go", then=signals),
    "past its time to live": Kind(_waiting, "comes to signal go", ttl=LATER, then=waits_too_long),
    "undone after its time to live": Kind(
        _undone, "its body has ended, and it comes to compensation compensate/a", later, ttl=50
    ),
    "in a transaction": Kind(_transacting, "comes to signal go"),
    "with values that replay gives again": Kind(_replayed_value, "comes to signal go"),
}


@pytest.mark.parametrize("name", KINDS)
async def test_it_goes_on(name: str, autojump_clock: MockClock) -> None:
    kind = KINDS[name]
    code = kind.code
    async with crashing_store() as store:
        await left_by(store, code, kind.scenario)
        async with Engine(store) as client:
            await kind.then(client)
        done = list(effects)
        result = await rehearsed(store, code)
        found = [each for each in causes(result) if each[2].startswith(kind.cause)]
        assert [(verdict, count) for verdict, count, _ in found] == [("goes_on", 1)], causes(result)
        assert result.all_go_on
        assert effects == done
