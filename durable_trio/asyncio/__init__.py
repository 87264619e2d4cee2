"""The engine for programs that live in asyncio, or uvloop: the same runs on the same stores, its methods awaited there.

    async with durable_trio.asyncio.open_engine("app.db", workflows=[order]) as engine:
        print(await engine.run(order, "cart 7"))

Workflows stay trio code: their bodies run in the engine, which is trio's. Steps may be either: give a function of
asyncio's to ``ctx.step`` as ``from_asyncio(fn)``.
"""

from __future__ import annotations

from durable_trio.asyncio.engine import Engine
from durable_trio.asyncio.iterating import Bulk, Changes, Events, Watch
from durable_trio.asyncio.opening import open_client, open_engine, start_engine
from durable_trio.asyncio.run import Run
from durable_trio.asyncio.steps import from_asyncio

__all__ = [
    "Bulk",
    "Changes",
    "Engine",
    "Events",
    "Run",
    "Watch",
    "from_asyncio",
    "open_client",
    "open_engine",
    "start_engine",
]
