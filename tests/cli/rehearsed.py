"""An application with the code of two deploys, of which the second is wrong in several ways."""

from __future__ import annotations

import os
import time

from durable_trio import Context, Engine, workflow

print("importing says something")


@workflow(name="order")
async def order(ctx: Context, number: int) -> int:
    await ctx.step("charge", lambda: number)
    await ctx.wait_signal("packed")
    return number


@workflow(name="visit")
async def visit(ctx: Context, number: int) -> int:
    await ctx.step("book", lambda: number)
    await ctx.wait_signal("done")
    return number


@workflow(name="order")
async def changed_order(ctx: Context, number: int) -> int:
    await ctx.step("charge" if number else "charge card", lambda: number)
    await ctx.wait_signal("packed")
    return number


@workflow(name="visit")
async def bad_visit(ctx: Context, number: int) -> int:
    await ctx.step("book", lambda: number)
    if number == 1:
        time.sleep(3600)  # noqa: ASYNC251  # as a user's code does
    if number == 2:
        os._exit(7)
    await ctx.wait_signal("done")
    return number


DATABASE = os.environ.get("REHEARSED_DB", "rehearsed.db")
engine = Engine(DATABASE, workflows=[order, visit])
changed = Engine(DATABASE, workflows=[changed_order, visit])
bad = Engine(DATABASE, workflows=[order, bad_visit])
in_memory = Engine(":memory:", workflows=[order])
