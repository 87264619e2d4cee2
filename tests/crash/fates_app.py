"""What is served in a storm of which only the log is read: runs of which each has one fate, told by its workflow."""

from __future__ import annotations

import os
import signal
import time

import trio
import trio.lowlevel

from durable_trio import Context, Engine, Retry, workflow

DATABASE_VARIABLE = "FATES_DATABASE"


async def works() -> int:
    await trio.sleep(0.02)
    return 1


async def undone(_: int) -> None:
    await trio.lowlevel.checkpoint()


async def not_undone(_: int) -> None:
    raise OSError("no way back")


async def fails() -> None:
    raise ValueError("boom")


async def kills() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    await trio.sleep_forever()


async def blocks() -> None:
    time.sleep(3600)  # noqa: ASYNC251  # as a careless step does


@workflow
async def completes(ctx: Context) -> None:
    for _ in range(3):
        await ctx.step("works", works, compensate=undone)


@workflow
async def failing(ctx: Context) -> None:
    await ctx.step("works", works)
    await ctx.step("fails", fails, retry=Retry.fixed(3, 0.05))


@workflow
async def undoing_badly(ctx: Context) -> None:
    await ctx.step("works", works, compensate=not_undone)
    await ctx.step("works", works, compensate=undone)
    await ctx.step("fails", fails)


@workflow
async def expiring(ctx: Context) -> None:
    await ctx.step("works", works)
    await ctx.wait_signal("never")


@workflow(max_recoveries=1)
async def poison(ctx: Context) -> None:
    await ctx.step("works", works)
    await ctx.step("kills", kills)


@workflow(max_recoveries=1)
async def blocking(ctx: Context) -> None:
    await ctx.step("works", works)
    await ctx.step("blocks", blocks)


@workflow(strict=True)
async def parking(ctx: Context) -> None:
    await ctx.step("works", works)
    await trio.sleep(0.01)  # which is not durable


def engine() -> Engine:
    """Return the engine that each worker serves."""
    workflows = [completes, failing, undoing_badly, expiring, poison, blocking, parking]
    return Engine(
        os.environ[DATABASE_VARIABLE],
        workflows=workflows,
        durability="normal",
        heartbeat_seconds=1.0,
        grace_seconds=1.0,
        slow_step_seconds=0.5,
    )
