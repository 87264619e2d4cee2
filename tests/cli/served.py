"""The application that the tests of ``serve`` serve; the environment names its database."""

from __future__ import annotations

import logging
import os
import time
from typing import NoReturn

import trio

from durable_trio import Context, Engine, workflow

DATABASE_VARIABLE = "SERVED_DATABASE"
GRACE_SECONDS = 50


@workflow
async def greet(ctx: Context, name: str) -> str:
    ctx.log.info("hello %s", name)
    return f"hello {name}"


@workflow
async def wait(ctx: Context) -> None:
    await ctx.wait_signal("go on")


def block(path: str) -> None:
    open(path, "x").close()
    time.sleep(60)


@workflow
async def hang(ctx: Context, path: str) -> None:
    """Does not drain: a sync step function cannot be interrupted."""
    await ctx.step("block", block, path)


def make() -> Engine:
    """Return the engine that is served."""
    return Engine(os.environ[DATABASE_VARIABLE], workflows=[greet, wait, hang], grace_seconds=GRACE_SECONDS)


def counting() -> Engine:
    """Return an engine whose server logs its counters more often than every ten seconds."""
    from durable_trio.cli import serving

    serving._COUNTERS_SECONDS = 0.2  # type: ignore[misc]
    return make()


def chatty() -> Engine:
    """Return the same, of an application that has log handlers of its own."""
    logging.basicConfig(level=logging.INFO, format="own format: %(message)s")
    return make()


def broken() -> Engine:
    """Return an engine one of whose services crashes whenever it is started."""
    from durable_trio.engine.services import janitor

    async def run(self: object, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        task_status.started()
        raise RuntimeError("out of brooms")

    janitor.Janitor.run = run  # type: ignore[method-assign]
    return make()
