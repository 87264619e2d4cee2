"""What an engine and its store look like; see ``engine.status``."""

from __future__ import annotations

from itertools import chain

from durable_trio.clock import to_datetime
from durable_trio.engine.client import Client
from durable_trio.engine.versions import served_by, unserved
from durable_trio.records import EngineStatus, ExecutorStatus
from durable_trio.stores.questions import CountRuns, ListExecutors
from durable_trio.workflows import INLINE_NAME


async def status_of(client: Client) -> EngineStatus:
    """Return what an engine and its store look like now."""
    services = client.services_in_use()
    store = services.writer.store
    found = await services.writer.ask(CountRuns())
    executors = await services.writer.ask(ListExecutors())
    served = await served_by(services, (row for row in executors if row.may_live))
    stuck = None if services.executor is None else await services.executor.dispatcher.find_stuck()
    damage = (f"The store is damaged: {row.damage}." for row in executors if row.damage)
    unknown = {
        name: count
        for name, count in found.unfinished_by_workflow.items()
        if client.registry.get(name) is None and name != INLINE_NAME
    }
    return EngineStatus(
        durability=store.durability,
        executors=tuple(
            ExecutorStatus(
                id=row.id,
                pid=row.pid,
                host=row.host,
                started_at=to_datetime(row.started_at),
                is_self=services.executor is not None and row.id == services.executor.id,
                is_alive=row.may_live,
            )
            for row in executors
        ),
        runs_by_status=found.runs_by_status,
        parked=found.parked,
        unknown_workflows=unknown,
        resident_runs=len(services.resident_rows),
        recorded_count=found.recorded_count,
        unserved_versions=unserved(found.unfinished_by_version, chain.from_iterable(served.values())),
        store_version=found.store_version,
        warnings=(*found.warnings, *damage, *([] if stuck is None else [f"{stuck[0].upper()}{stuck[1:]}."])),
    )
