"""An application whose runs keep its process busy, for what ends it all the same."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from durable_trio import Context, Engine, workflow
from tests.cli.served import DATABASE_VARIABLE, hang, wait


async def never_ends() -> None:
    (Path(os.environ[DATABASE_VARIABLE]).parent / "busy").touch()
    await trio.sleep_forever()


@workflow
async def busy(ctx: Context) -> None:
    await ctx.step("never ends", never_ends)


def make() -> Engine:
    """Return an engine that gives steps no time when it is to end."""
    return Engine(os.environ[DATABASE_VARIABLE], workflows=[busy, wait, hang], grace_seconds=0)


def hasty() -> Engine:
    """Return an engine that gives them little."""
    return Engine(os.environ[DATABASE_VARIABLE], workflows=[busy, wait, hang], grace_seconds=0.2)
