"""A run that has just been started, as its record tells it; stores differ only in how they insert it. Pure."""

from __future__ import annotations

from durable_trio.rows import RunRow
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.operations import StartRun

__all__ = ["first_wake_at", "new_run"]


def new_run(
    operation: StartRun, *, run: int, owner: int | None, parent: int | None, parent_id: str | None, changed: int
) -> RunRow:
    """Return the record of a run that was not there before.

    Args:
        run: the number that the store gives it.
        owner: who has claimed it with its start, if anybody has.
        parent: the run that has started it, as the store knows that; ``parent_id`` is its id.
        changed: see ``RunRow``.
    """
    is_claimed = owner is not None
    status = LIFE[RunEvent.START_CLAIMED if is_claimed else RunEvent.START][None]
    assert status is not None
    return RunRow(
        run=run,
        id=operation.id,
        workflow=operation.workflow,
        status=status,
        args=operation.args,
        result=None,
        error=None,
        problem=None,
        queue=operation.queue,
        priority=operation.priority,
        tags=operation.tags,
        parent=parent,
        parent_id=parent_id,
        seed=operation.seed,
        generation=0,
        created_at=operation.created_at,
        started_at=operation.created_at if is_claimed else None,
        finished_at=None,
        wake_at=None if is_claimed else first_wake_at(operation),
        ttl_at=operation.ttl_at,
        recoveries=0,
        compensation_errors="[]",
        owner=owner,
        token=1 if is_claimed else 0,
        changed=changed,
        version=operation.version,
    )


def first_wake_at(operation: StartRun) -> int:
    """Return when a run is due that nobody has claimed yet: at the end of its time to live at the latest."""
    due_at, ttl_at = operation.due_at, operation.ttl_at
    return due_at if ttl_at is None else min(due_at, ttl_at)
