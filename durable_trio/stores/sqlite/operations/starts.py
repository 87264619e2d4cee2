"""Starting runs: a new row, or the one that is stored under that id already."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import Started, StartRun
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.transaction import NULL, Transaction

__all__ = ["FIND_RUN", "start_run", "store_run"]

FIND_RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?"
FIND_STARTED: Final = f"SELECT {RUN_COLUMNS}, args_digest FROM runs WHERE id = ?"
FIND_PARENT: Final = "SELECT id FROM runs WHERE run = ?"
ADD_RUN: Final = """
    INSERT INTO runs (id, workflow, status, owner, token, changed, priority, queue, created_at, started_at, wake_at,
        is_due, ttl_at, parent, parent_id, seed, args_digest, tags, version, args)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO NOTHING
"""


def start_run(transaction: Transaction, operation: StartRun) -> Started | RunConflict | RunNotFound:
    """Store a new run (see ``StartRun``)."""
    known = transaction.execute(FIND_STARTED, (operation.id,)).fetchone()
    if known is not None:
        row = run_from(known[:-1])
        if row.workflow == operation.workflow and known[-1] == operation.args_digest:
            return Started(row=row, created=False, claimed=False)
        what = "with other arguments" if row.workflow == operation.workflow else f"of workflow {row.workflow!r}"
        return RunConflict(
            f"run {operation.id!r} is stored already {what}; choose another id, or start it as it was started then",
            run_id=operation.id,
        )
    parent_id = None
    if operation.parent is not None:
        found = transaction.execute(FIND_PARENT, (operation.parent,)).fetchone()
        if found is None:
            return RunNotFound(f"run {operation.parent}, the parent of {operation.id!r}, is not stored any more")
        parent_id = found[0]
    is_claimed = operation.owner is not None and transaction.is_executor_alive(operation.owner)
    return store_run(transaction, operation, parent_id, is_claimed=is_claimed)


def store_run(transaction: Transaction, operation: StartRun, parent_id: str | None, *, is_claimed: bool) -> Started:
    """Insert a run; nobody may have its id."""
    changed = transaction.change()
    status = LIFE[RunEvent.START_CLAIMED if is_claimed else RunEvent.START][None]
    assert status is not None
    owner = operation.owner if is_claimed else None
    started_at = operation.created_at if is_claimed else None
    wake_at = None if is_claimed else _not_after(operation.due_at, operation.ttl_at)
    token = 1 if is_claimed else 0
    transaction.execute(
        ADD_RUN,
        (
            operation.id,
            operation.workflow,
            status.value,
            NULL if owner is None else owner,
            token,
            changed,
            operation.priority,
            NULL if operation.queue is None else operation.queue,
            operation.created_at,
            NULL if started_at is None else started_at,
            NULL if wake_at is None else wake_at,
            1 if wake_at is not None and wake_at <= operation.created_at else 0,
            NULL if operation.ttl_at is None else operation.ttl_at,
            NULL if operation.parent is None else operation.parent,
            NULL if parent_id is None else parent_id,
            operation.seed,
            operation.args_digest,
            operation.tags,
            operation.version,
            operation.args,
        ),
    )
    run = transaction.cursor.lastrowid
    assert run is not None
    row = RunRow(
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
        parent=operation.parent,
        parent_id=parent_id,
        seed=operation.seed,
        generation=0,
        created_at=operation.created_at,
        started_at=started_at,
        finished_at=None,
        wake_at=wake_at,
        ttl_at=operation.ttl_at,
        recoveries=0,
        compensation_errors="[]",
        owner=owner,
        token=token,
        changed=changed,
        version=operation.version,
    )
    return Started(row=row, created=True, claimed=is_claimed)


def _not_after(instant: int, end: int | None) -> int:
    return instant if end is None else min(instant, end)
