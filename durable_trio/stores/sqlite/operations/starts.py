"""Starting runs: a new row, or the one that is stored under that id already."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import Started, StartRun
from durable_trio.stores.outcomes import parent_not_found, start_conflict
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["FIND_RUN", "start_run", "store_run"]

FIND_RUN: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?"
FIND_STARTED: Final = f"SELECT {RUN_COLUMNS}, args_digest FROM runs WHERE id = ?"
FIND_PARENT: Final = "SELECT id FROM runs WHERE run = ?"
_NO_MORE: Final = (None, None, None, None)
# What most runs lack is told by the text, as in ``ADD_HISTORY``. By whether it is claimed, and has more than that.
ADD_RUN: Final = {
    (is_claimed, has_more): f"""
    INSERT INTO runs (id, workflow, status, token, changed, priority, created_at, seed, args_digest, tags, version,
        args, owner, started_at, wake_at, is_due, queue, ttl_at, parent, parent_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {times}, {more})
    ON CONFLICT (id) DO NOTHING
"""
    for is_claimed, times in ((False, "NULL, NULL, ?, ?"), (True, "?, ?, NULL, 0"))
    for has_more, more in ((False, "NULL, NULL, NULL, NULL"), (True, "?, ?, ?, ?"))
}


def start_run(transaction: Transaction, operation: StartRun) -> Started | RunConflict | RunNotFound:
    """Store a new run (see ``StartRun``)."""
    known = transaction.execute(FIND_STARTED, (operation.id,)).fetchone()
    if known is not None:
        row = run_from(known[:-1])
        if row.workflow == operation.workflow and known[-1] == operation.args_digest:
            return Started(row=row, created=False, claimed=False)
        return start_conflict(operation, row.workflow)
    parent_id = None
    if operation.parent is not None:
        found = transaction.execute(FIND_PARENT, (operation.parent,)).fetchone()
        if found is None:
            return parent_not_found(operation)
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
    times = (owner, started_at) if wake_at is None else (wake_at, 1 if wake_at <= operation.created_at else 0)
    more = (operation.queue, operation.ttl_at, operation.parent, parent_id)
    has_more = more != _NO_MORE
    token = 1 if is_claimed else 0
    transaction.execute(
        ADD_RUN[is_claimed, has_more],
        (
            operation.id,
            operation.workflow,
            status.value,
            token,
            changed,
            operation.priority,
            operation.created_at,
            operation.seed,
            operation.args_digest,
            operation.tags,
            operation.version,
            operation.args,
            *times,
            *(more if has_more else ()),
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
