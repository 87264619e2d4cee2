"""Starting runs."""

from __future__ import annotations

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import Started, StartRun
from tests.logstore.state import Run, State, conflict

__all__ = ["start_run", "store_run"]


def start_run(state: State, operation: StartRun) -> Started | RunConflict | RunNotFound:
    """Store a new run, or find the one that is stored under that id."""
    known = state.by_id.get(operation.id)
    if known is not None:
        if (known.row.workflow, known.args_digest) == (operation.workflow, operation.args_digest):
            return Started(row=state.row(known), created=False, claimed=False)
        return conflict(known, "is stored already, as another workflow or with other arguments; choose another id")
    if operation.parent is not None and operation.parent not in state.runs:
        return RunNotFound(f"run {operation.parent}, the parent of {operation.id!r}, is not stored any more")
    return store_run(state, operation, operation.parent)


def store_run(state: State, operation: StartRun, parent: int | None) -> Started:
    """Store a run whose id nobody has."""
    is_claimed = operation.owner in state.executors
    status = LIFE[RunEvent.START_CLAIMED if is_claimed else RunEvent.START][None]
    assert status is not None
    due_at = operation.due_at if operation.ttl_at is None else min(operation.due_at, operation.ttl_at)
    row = RunRow(
        run=state.last_run + 1,
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
        parent_id=None if parent is None else state.runs[parent].row.id,
        seed=operation.seed,
        generation=0,
        created_at=operation.created_at,
        started_at=operation.created_at if is_claimed else None,
        finished_at=None,
        wake_at=None if is_claimed else due_at,
        ttl_at=operation.ttl_at,
        recoveries=0,
        compensation_errors="[]",
        owner=operation.owner if is_claimed else None,
        token=1 if is_claimed else 0,
        changed=0,
        version=operation.version,
    )
    run = Run(row, operation.args_digest)
    state.add(run)
    return Started(row=state.row(run), created=True, claimed=is_claimed)
