"""Workflows that only wait."""

from __future__ import annotations

from typing import Any

from durable_trio import Context, workflow


@workflow
async def sleeper(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "up"


@workflow
async def waiter(ctx: Context) -> Any:
    return await ctx.wait_signal("go")
