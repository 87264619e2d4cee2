"""Workflows that are children in these tests, and what is seen of a family."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from durable_trio import Context, Engine, Run, workflow

from .kit import LONG_SECONDS, effects, note


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
