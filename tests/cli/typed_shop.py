"""An application whose workflows say what they take: for commands that are given one."""

from __future__ import annotations

import datetime
import os

import attrs

from durable_trio import Context, Engine, workflow

DATABASE_VARIABLE = "TYPED_SHOP_DB"

print("this module prints when it is imported")


@attrs.frozen
class Cart:
    item: str
    count: int = 1


@attrs.frozen
class Payment:
    amount: int


@workflow(signals={"paid": Payment, "stop": None}, tags={"team": "sales", "region": "eu"}, ttl=3600)
async def order(ctx: Context, cart: Cart, day: datetime.date = datetime.date(2026, 1, 1)) -> int:
    payment: Payment = await ctx.wait_signal("paid")
    return payment.amount


@workflow
async def loose(ctx: Context) -> None:
    await ctx.wait_signal("anything")


def engine() -> Engine:
    return Engine(os.environ[DATABASE_VARIABLE], workflows=[order, loose])


in_memory = Engine(":memory:", workflows=[order])
