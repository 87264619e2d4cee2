"""What the tests of calls share: values and failures of steps, workflows that listen, and families of runs."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import attrs
import trio

from durable_trio import Context, Engine, Run, SignalTimeout, workflow
from tests.kit.traces import LONG_SECONDS, effects, note


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@attrs.frozen
class Item:
    name: str
    price: Decimal
    color: Color
    parts: list[Item] = attrs.field(factory=list)


def fail_with(error: Exception) -> None:
    raise error


def shape_of(error: BaseException) -> Any:
    """Return what must be equal of two exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return type(error), error.message, [shape_of(inner) for inner in error.exceptions]
    fields = {key: value for key, value in vars(error).items() if key != "__notes__"}
    return type(error), error.args, str(error), fields, getattr(error, "__notes__", [])


@workflow
async def collect(ctx: Context, name: str, count: int) -> list[Any]:
    return [await ctx.wait_signal(name) for _ in range(count)]


@workflow
async def collect_slowly(ctx: Context, name: str, count: int) -> list[Any]:
    """Begins to wait only after a signal that opens it."""
    await ctx.wait_signal("open")
    return [await ctx.wait_signal(name) for _ in range(count)]


@workflow
async def impatient(ctx: Context, seconds: float) -> list[Any]:
    """Notes a timeout, then takes the next signal of the same name."""
    found: list[Any] = []
    try:
        found.append(await ctx.wait_signal("go", timeout=seconds))
    except SignalTimeout:
        found.append("timeout")
    found.append(await ctx.wait_signal("go"))
    return found


def undo_with(text: str) -> Callable[[Any], Awaitable[None]]:
    """Return a compensation. An async one: virtual time does not wait for threads."""

    async def undo(_: Any) -> None:
        effects.append(text)

    return undo


@workflow
async def double(ctx: Context, number: int) -> int:
    await ctx.sleep(60)
    return number * 2


@workflow
async def waiting(ctx: Context) -> str:
    """Waits for the signal "go"; its one step is undone if it does not come to its end."""
    await ctx.step("prepare", note, "prepared", compensate=undo_with("child undone"))
    return str(await ctx.wait_signal("go"))


async def children_of(engine: Engine, run_id: str) -> list[Run[Any]]:
    return [engine.get(record.id) for record in (await engine.list_runs(parent=run_id)).runs]


async def history_at_end(run: Run[Any]) -> Any:
    """Return the history of a run once it has ended, however."""
    with trio.fail_after(LONG_SECONDS):
        async with run.watch() as changes:
            async for _ in changes:
                pass
    return await run.steps()
