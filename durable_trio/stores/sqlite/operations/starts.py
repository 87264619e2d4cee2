"""Starting runs: a new row, or the one that is stored under that id already."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.stores.contract import Started, StartRun
from durable_trio.stores.new_runs import new_run
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
    row = new_run(
        operation,
        run=0,  # until SQLite has given it one
        owner=operation.owner if is_claimed else None,
        parent=operation.parent,
        parent_id=parent_id,
        changed=transaction.change(),
    )
    wake_at = row.wake_at
    times = (row.owner, row.started_at) if wake_at is None else (wake_at, 1 if wake_at <= row.created_at else 0)
    more = (row.queue, row.ttl_at, row.parent, row.parent_id)
    has_more = more != _NO_MORE
    transaction.execute(
        ADD_RUN[is_claimed, has_more],
        (
            row.id,
            row.workflow,
            row.status.value,
            row.token,
            row.changed,
            row.priority,
            row.created_at,
            row.seed,
            operation.args_digest,
            row.tags,
            row.version,
            row.args,
            *times,
            *(more if has_more else ()),
        ),
    )
    run = transaction.cursor.lastrowid
    assert run is not None
    row.run = run
    return Started(row=row, created=True, claimed=is_claimed)
