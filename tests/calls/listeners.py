"""Workflows that wait for signals."""

from __future__ import annotations

from typing import Any

from durable_trio import Context, SignalTimeout, workflow


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
