"""What tests of rehearsals share: runs that some code has left behind, and their rehearsal by another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from durable_trio import Engine, Rehearsal, Workflow, open_engine
from durable_trio.testing import CrashingStore, VirtualClock
from tests.engine.harness import wait_passivated
from tests.kit.crash_points import live_once
from tests.kit.traces import effects

Scenario = Callable[[Engine], Awaitable[object]]


def dump(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that is stored."""
    connection = engine.connect()
    try:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables}
    finally:
        connection.close()


async def starts(engine: Engine) -> None:
    """Start the first workflow as the run ``run``, and leave it waiting."""
    (name,) = engine._client.registry.names[:1]
    await engine.start(name, id="run")
    await wait_passivated(engine)


async def left_by(
    store: CrashingStore, code: Workflow[..., Any] | Sequence[Workflow[..., Any]], scenario: Scenario = starts
) -> None:
    """Serve code while a scenario lasts; whatever it has not ended is left in the store."""
    await live_once(store, [code] if isinstance(code, Workflow) else code, scenario)


async def rehearsed(
    store: CrashingStore, code: Workflow[..., Any] | Sequence[Workflow[..., Any]], **options: Any
) -> Rehearsal:
    """Rehearse what is in a store, and see that neither the store nor the world is touched."""
    engine = Engine(store, workflows=[code] if isinstance(code, Workflow) else code, clock=VirtualClock(), **options)
    async with engine:
        before, done, commits = dump(engine), list(effects), store.commit_count
        found = await engine.rehearse()
        assert (dump(engine), effects, store.commit_count) == (before, done, commits)
    return found


async def served(store: CrashingStore, code: Workflow[..., Any] | Sequence[Workflow[..., Any]]) -> Any:
    """Serve code until no run is in memory, and return the record of ``run``."""
    workflows = [code] if isinstance(code, Workflow) else code
    async with open_engine(store, workflows=workflows, clock=VirtualClock()) as engine:
        await wait_passivated(engine)
        return await engine.get("run").record()


def causes(found: Rehearsal) -> list[tuple[str, int, str]]:
    """Return verdict, count and cause of each group."""
    return [(group.verdict.value, group.count, group.cause) for group in found.groups]
