"""Workflows that the tests of the engine share: with a cart, that echo, that only wait."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs

from durable_trio import Context, Workflow, workflow
from tests.engine.harness import PATIENCE_SECONDS


@attrs.frozen
class Cart:
    owner: str
    prices: tuple[Decimal, ...]
    bought_at: datetime


@attrs.frozen
class Receipt:
    owner: str
    total: Decimal


CART = Cart("ann", (Decimal("1.50"), Decimal("2.25")), datetime(2024, 5, 1, 12, tzinfo=UTC))


@workflow
async def order(ctx: Context, cart: Cart) -> Receipt:
    total = await ctx.step("add", lambda: sum(cart.prices, Decimal(0)), returns=Decimal)
    return Receipt(cart.owner, total)


@workflow
async def waiting(ctx: Context, cart: Cart) -> tuple[Cart, Any]:
    await ctx.step("first", lambda: None)
    return cart, await ctx.wait_signal("go")


@workflow
async def echo(ctx: Context, value: Any) -> Any:
    return value


@workflow
async def sleeper(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return "up"


@workflow
async def waiter(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


def gated() -> tuple[Workflow[[], str], threading.Event, threading.Event]:
    """Return a workflow with a sync step, the event that it has begun, and one that it waits for."""
    begun, go = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go.wait(PATIENCE_SECONDS)
        return "worked"

    @workflow
    async def working(ctx: Context) -> str:
        return await ctx.step("work", work)

    return working, begun, go
