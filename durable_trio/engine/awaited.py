"""What runs wait for: put together from the rows that tell of it.

Runs write down what they wait for before they rest: timers, signals, next attempts. That a run waits for a child shows
in the child. A deadline shows in when its run goes on, where that is sooner than all else that is written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from durable_trio.engine.records_of import instant_of
from durable_trio.engine.servers import NOBODY_SERVES, Servers, look_at_servers
from durable_trio.engine.versions import living_executors
from durable_trio.engine.wiring import Services
from durable_trio.limits import SUSPECT_RECOVERIES
from durable_trio.records import Awaited, RunStatus
from durable_trio.rows import RunRow, WaitKind, WaitRow
from durable_trio.stores.questions import AwaitedRows, ListAwaited

__all__ = ["awaited_of"]

# What is stored of an open call by itself.
_STORED: Final[frozenset[WaitKind]] = frozenset({"sleep", "signal", "retry", "map"})


async def awaited_of(services: Services, rows: Sequence[RunRow], now: int) -> list[tuple[Awaited, ...]]:
    """Return what each of some runs waits for."""
    unfinished = [row for row in rows if not row.status.is_final and row.problem is None]
    if not unfinished:
        return [() for _ in rows]
    found = await services.writer.ask(ListAwaited([row.run for row in unfinished]))
    owners = {row.owner for row in unfinished if row.owner is not None}
    living = {each.id for each in await living_executors(services)} if owners else set()
    is_asked = not owners <= living or any(is_untaken(row, now) for row in unfinished)
    servers = await look_at_servers(services, now) if is_asked else None
    return [awaited(row, found.get(row.run, AwaitedRows()), now, servers) for row in rows]


def is_untaken(row: RunRow, now: int) -> bool:
    """Return whether a run is due, and nobody's."""
    return (
        row.owner is None
        and not row.status.is_final
        and row.problem is None
        and row.wake_at is not None
        and row.wake_at <= now
    )


def awaited(row: RunRow, rows: AwaitedRows, now: int, servers: Servers | None) -> tuple[Awaited, ...]:
    """Return what a run waits for; ``servers`` where it is untaken, or may have lost its owner."""
    if row.status.is_final or row.problem is not None or row.damage is not None:
        return ()  # its problem tells
    return tuple(_awaited(row, rows, now, servers))


def _awaited(row: RunRow, rows: AwaitedRows, now: int, servers: Servers | None) -> Iterator[Awaited]:
    wakes_at = None if row.wake_at is None else instant_of(row.wake_at)
    if servers is not None and is_untaken(row, now):
        due_since = now - (row.wake_at or now)
        is_suspect = row.recoveries >= SUSPECT_RECOVERIES
        reason = servers.why_not(row.workflow, row.version, due_since=due_since, is_suspect=is_suspect)
        yield Awaited(kind="executor", due_at=wakes_at, reason=reason)
        return
    if servers is not None and row.owner is not None and row.owner not in servers.ids:
        others = "another executor is to take it over" if servers.executors else NOBODY_SERVES
        yield Awaited(kind="executor", reason=f"its process died, and {others}")
        return
    if row.status is RunStatus.PENDING:
        if wakes_at is not None:
            yield Awaited(kind="start", due_at=wakes_at)
        return
    for wait in rows.waits:
        if wait.kind in _STORED and wait.damage is None:
            yield _of_wait(wait)
    for child in rows.children:
        yield Awaited(kind="child", name=child.id, workflow=child.workflow)
    if row.owner is None and row.wake_at is not None and not _is_of(row.wake_at, rows.waits):
        yield Awaited(kind="ttl" if row.wake_at == row.ttl_at else "deadline", due_at=wakes_at)


def _of_wait(wait: WaitRow) -> Awaited:
    key = str(wait.key)
    return Awaited(
        kind=wait.kind,
        key=key,
        name=key if wait.kind in ("retry", "map") else wait.key.name,
        due_at=None if wait.due_at is None else instant_of(wait.due_at),
        total=wait.attempt if wait.kind == "map" else None,
    )


def _is_of(wake_at: int, waits: Sequence[WaitRow]) -> bool:
    """Whether a run goes on then because of one of its waits."""
    return any(wait.due_at is not None and wait.due_at <= wake_at for wait in waits)
