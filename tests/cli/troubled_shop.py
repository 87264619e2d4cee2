"""An application in which everything goes wrong that the page on operations has an answer to: ``shop.py`` there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import trio

from durable_trio import Context, Engine, Retry, workflow


async def reserve(number: int) -> str:
    return f"place {number}"


def charge(number: int) -> int:
    if not Path("bank-is-open").exists():
        raise ConnectionError(f"the bank does not answer for order {number}")
    return number * 100


async def ask_partner() -> None:
    await trio.sleep_forever()


def draw() -> str:
    if not Path("library-is-mended").exists():
        os.abort()
    return "a picture"


async def count_stock() -> None:
    time.sleep(1.5)  # noqa: ASYNC251  # that is what is wrong with it


@workflow
async def order(ctx: Context, number: int) -> str:
    place = await ctx.step("reserve", reserve, number)
    paid = await ctx.step("charge", charge, number, retry=Retry.fixed(2, 0.05))
    return f"{place} for {paid}"


@workflow
async def delivery(ctx: Context) -> None:
    await ctx.step("ask partner", ask_partner)


@workflow(max_recoveries=2)
async def render(ctx: Context) -> str:
    return await ctx.step("draw", draw)


@workflow
async def parcel(ctx: Context) -> str:
    packed = await ctx.step("pack", reserve, 7)
    await ctx.wait_signal("picked up")
    return packed


@workflow
async def inventory(ctx: Context) -> None:
    await ctx.step("count stock", count_stock)


async def send() -> None:
    raise ConnectionError("the mail server does not answer")


@workflow
async def newsletter(ctx: Context) -> None:
    await ctx.step("send", send, retry=Retry.fixed(9, 3600))


engine = Engine(
    "app.db", workflows=[order, delivery, render, parcel, inventory, newsletter], heartbeat_seconds=1, lease_seconds=5
)

if __name__ == "__main__":
    trio.run(engine.serve)
