"""Removing runs: one by its id, or old ones. Long ones go piece by piece, so that others can write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from durable_trio.doors import guarded
from durable_trio.engine.client import Client
from durable_trio.engine.services.janitor import sweep, warn_of_stuck
from durable_trio.limits import check_name
from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL
from durable_trio.stores.contract import DeleteRun, Prune, Pruned, Stuck

__all__ = ["delete", "prune", "remove", "sweep"]

# Runs that one transaction of ``prune`` removes.
_PRUNE_BATCH: Final = 200


async def delete(client: Client, run_id: str) -> None:
    """Remove a run; see ``engine.delete``."""
    await remove(client, run_id)
    await sweep(client.services_in_use().writer)


async def remove(client: Client, run_id: str) -> None:
    """Remove a run, from the sight of all; of a long one, rows may be left for ``sweep``."""
    services = client.services_in_use()
    run_id = check_name("run id", run_id)
    row = await client.row(run_id)
    await services.writer.write(DeleteRun(run_id=run_id))
    guarded(services.feed.recheck_removed)
    if row.parent is not None:
        services.message_for(row.parent)


async def prune(
    client: Client, before: int, statuses: Sequence[RunStatus] | None, progress: Callable[[int], object] | None
) -> int:
    """Remove runs that ended before an instant; see ``engine.prune``."""
    services = client.services_in_use()
    if statuses is None:  # not for none of them, as an empty list says
        statuses = tuple(FINAL)
    for item in statuses:
        if not item.is_final:
            raise ValueError(f"prune removes only runs that have ended; {item.value!r} is no final status")
    count = 0
    position = None
    stuck: list[Stuck] = []
    while True:
        operation = Prune(before=before, statuses=tuple(statuses), limit=_PRUNE_BATCH, after=position)
        pruned: Pruned = await services.writer.write(operation)
        count += pruned.count
        if progress is not None:
            progress(count)
        position = pruned.position
        stuck += pruned.stuck
        if pruned.count:
            guarded(services.feed.recheck_removed)
        if pruned.hidden_count:
            await sweep(services.writer)
        if position is None:
            warn_of_stuck(stuck)
            return count
