"""The workflows whose runs stand in the files of earlier versions. They are never changed, or their runs diverge.

A new version adds to them at the end, if it has something new to store.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import trio

from durable_trio import Context, Retry, SignalTimeout, StepInterrupted, current_step, workflow

HOUR = 3600
#: Whether steps named "held" never end: so their process is killed while they run.
is_held = False
#: Whether the code is another one than that with which the parked run began.
is_changed = False
#: What functions of steps have been called with in this process.
calls: list[str] = []


class Refused(Exception):
    """Raised by steps and bodies."""


@dataclass
class Cart:
    """An argument of many types."""

    items: list[str]
    total: Decimal
    at: datetime
    marks: frozenset[int]


async def call(name: str) -> str:
    calls.append(name)
    return name


async def keep(number: float) -> float:
    return number


async def held(name: str) -> str:
    if is_held:
        await trio.sleep_forever()
    return await call(name)


async def refuse(name: str) -> None:
    calls.append(name)
    raise Refused(name, 7)


async def refuse_at_first(name: str) -> str:
    calls.append(name)
    attempt = current_step().attempt
    if attempt == 1:
        raise Refused(name)
    return f"{name} {attempt}"


def put(connection: Any, n: int) -> int:
    connection.execute("INSERT INTO tally (n) VALUES (?)", (n,))
    return n


@workflow(tags={"kind": "bare"})
async def bare(ctx: Context, cart: Cart, extra: int = 1) -> Cart:
    await ctx.step("a", call, cart.items[0])
    return cart


@workflow
async def fails(ctx: Context) -> None:
    await ctx.step("a", refuse, "fails")


async def branch(ctx: Context, name: str) -> None:
    await ctx.step("in branch", call, name)
    await ctx.sleep(HOUR)
    await ctx.step("after sleep", call, name)


@workflow
async def waits(ctx: Context, n: int) -> list[Any]:
    """Something of everything, then two signals."""
    found: list[Any] = [await ctx.step("a", call, f"waits {n}")]
    try:
        await ctx.step("bad", refuse, "waits")
    except Refused as error:
        found.append(error.args[1])
    found += await ctx.map("m", call, ["x", "y"])
    await ctx.publish("progress", {"n": n, "list": [1, None, "é"]})
    found.append(ctx.patched("a change"))
    drawn = ctx.random()
    found.append(await ctx.step("keep", keep, drawn) == drawn)
    with ctx.move_on_after(0):
        await ctx.sleep(HOUR)
    found.append(await ctx.wait_signal("early", int))
    found.append(await ctx.wait_signal("go", int))
    await ctx.publish("progress", "done")
    return found


@workflow
async def sleeps(ctx: Context) -> str:
    await ctx.sleep(HOUR)
    return await ctx.step("a", call, "slept")


@workflow
async def late(ctx: Context) -> str:
    with ctx.move_on_after(HOUR) as scope:
        await ctx.wait_signal("never")
    return "too late" if scope.cancelled_caught else "in time"


@workflow
async def times_out(ctx: Context) -> str:
    try:
        await ctx.wait_signal("never", timeout=HOUR)
    except SignalTimeout:
        return "timed out"
    return "a signal"


@workflow
async def retries(ctx: Context) -> str:
    return await ctx.step("a", refuse_at_first, "try", retry=Retry.fixed(3, HOUR))


async def undo(name: str) -> None:
    await call(f"undo {name}")


async def undo_at_second(name: str) -> None:
    await refuse_at_first(f"undo {name}")


@workflow
async def undone(ctx: Context) -> None:
    await ctx.step("a", call, "first", compensate=undo)
    await ctx.step("b", call, "second", compensate=undo_at_second, compensate_retry=Retry.fixed(3, HOUR))
    await ctx.step("c", call, "third", compensate=undo)
    raise Refused("as it should")


@workflow
async def parent(ctx: Context) -> str:
    kid = await ctx.start_child(child, 1, id="kid")
    other = await ctx.run_child(child, 2, id="other kid")
    return f"{await kid.result()} {other}"


@workflow
async def child(ctx: Context, n: int) -> int:
    return n + int(await ctx.wait_signal("go", int))


@workflow
async def branches(ctx: Context) -> str:
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, "one")
        nursery.start_soon(branch, "two")
    return "both"


@workflow
async def maps(ctx: Context) -> list[str]:
    return await ctx.map("m", map_item, ["one", "two", "three", "four"])


async def map_item(name: str) -> str:
    return await (call(name) if name in ("one", "two") else held(name))


@workflow
async def in_step(ctx: Context) -> str:
    await ctx.transaction("t", put, 1)
    await ctx.step("a", call, "before")
    return await ctx.step("b", held, "after")


@workflow
async def once(ctx: Context) -> str:
    try:
        await ctx.step("a", held, "once", at_most_once=True)
    except StepInterrupted:
        return "interrupted"
    return "not interrupted"


@workflow
async def changes(ctx: Context) -> str:
    await ctx.step("new" if is_changed else "old", call, "changes")
    await ctx.wait_signal("go")
    return "mended"


@workflow
async def generations(ctx: Context, n: int) -> int:
    if n < 3:
        await ctx.step("a", call, f"generation {n}")
        await ctx.continue_as_new(n + 1)
    return n + int(await ctx.wait_signal("go", int))


WORKFLOWS = (
    bare,
    fails,
    waits,
    sleeps,
    late,
    times_out,
    retries,
    undone,
    parent,
    child,
    branches,
    maps,
    in_step,
    once,
    changes,
    generations,
)
