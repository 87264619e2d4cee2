"""What tests of reactive queries share: two workflows, an engine on a store of a test's own, and looks at a watch."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from durable_trio import Context, Engine, RunRecord, Workflow, open_engine, workflow
from durable_trio.rows import NO_VERSION
from durable_trio.stores.contract import Store
from durable_trio.testing.store_contract.kit import start_operation
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.stores import store_at


@asynccontextmanager
async def serving_on(store: Store, *workflows: Workflow[..., Any]) -> AsyncIterator[Engine]:
    """Serve the workflows on a store in the background of a block."""
    async with open_engine(store, workflows=workflows) as engine:
        yield engine


@workflow
async def waiter(ctx: Context, count: int) -> list[Any]:
    return [await ctx.wait_signal("go") for _ in range(count)]


@workflow
async def quick(ctx: Context, value: int) -> int:
    return value


async def gather(changes: Any, count: int) -> list[RunRecord]:
    """Return the next records of a watch."""
    with trio.fail_after(PATIENCE_SECONDS):
        return [await anext(changes) for _ in range(count)]


async def gather_until(changes: Any, is_last: Callable[[RunRecord], bool]) -> list[RunRecord]:
    """Return the next records of a watch, up to one."""
    records = []
    with trio.fail_after(PATIENCE_SECONDS):
        async for record in changes:
            records.append(record)
            if is_last(record):
                break
    return records


async def nothing_more(changes: Any) -> bool:
    """Return whether a watch has nothing to give just now. Commits are looked at within 20 ms."""
    with trio.move_on_after(0.1):
        await anext(changes)
        return False
    return True


def overdue_store(path: str, count: int) -> list[str]:
    """Make a store with overdue runs, of which many were due at the same time; return their ids in order."""
    generator = random.Random(7)
    store = store_at(path)
    store.open()
    starts = [
        start_operation(
            f"run-{number}",
            workflow=generator.choice(["a", "b"]),
            due_at=generator.choice([1000, 2000, 3000]) * 10**6,
            priority=generator.choice([-1, 0, 7]),
            version=generator.choice([NO_VERSION, 0, 3]),
        )
        for number in range(count)
    ]
    store.apply(starts)
    store.close()
    return [each.id for each in sorted(starts, key=lambda each: (each.due_at, starts.index(each)))]
