"""Claims: an executor takes runs that are due, in order of priority, by index seeks only."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import OwnershipLost
from durable_trio.records import RunRow
from durable_trio.stores.base import ClaimDue
from durable_trio.stores.sqlite.rows import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["DUE_BY_PRIORITY", "FIND_DUE", "claim_due"]

# Each distinct priority of a workflow's waiting runs by one seek, the highest first, with its earliest wake_at.
DUE_BY_PRIORITY: Final = """
    WITH RECURSIVE level (priority) AS (
        SELECT max(priority) FROM runs WHERE workflow = :workflow AND owner IS NULL AND wake_at IS NOT NULL
        UNION ALL
        SELECT (
            SELECT max(priority) FROM runs
            WHERE workflow = :workflow AND owner IS NULL AND wake_at IS NOT NULL AND priority < level.priority
        ) FROM level WHERE level.priority IS NOT NULL
    )
    SELECT level.priority, (
        SELECT min(wake_at) FROM runs
        WHERE workflow = :workflow AND priority = level.priority AND owner IS NULL AND wake_at IS NOT NULL
    ) FROM level WHERE level.priority IS NOT NULL
"""
FIND_DUE: Final = """
    SELECT wake_at, run FROM runs INDEXED BY runs_due
    WHERE workflow = ? AND priority = ? AND owner IS NULL AND wake_at IS NOT NULL AND wake_at <= ?
    ORDER BY wake_at, run LIMIT ?
"""
CLAIM: Final = f"""
    UPDATE runs SET
        owner = :owner,
        token = token + 1,
        wake_at = NULL,
        waits_for = NULL,
        changed = CASE WHEN status IN ('pending', 'suspended') THEN :changed ELSE changed END,
        started_at = CASE WHEN status = 'pending' THEN coalesce(started_at, :now) ELSE started_at END,
        status = CASE WHEN status IN ('pending', 'suspended') THEN 'running' ELSE status END,
        claimed_seq = coalesce((SELECT max(seq) FROM history WHERE history.run = runs.run), -1)
    WHERE run = :run
    RETURNING {RUN_COLUMNS}
"""


def claim_due(transaction: Transaction, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due (see ``ClaimDue``)."""
    if not transaction.is_executor_alive(operation.owner):
        return OwnershipLost(f"executor {operation.owner} is not registered, or was declared dead; it claimed nothing")
    levels: dict[int, list[str]] = {}
    for workflow in dict.fromkeys(operation.workflows):
        for priority, earliest in transaction.execute(DUE_BY_PRIORITY, {"workflow": workflow}).fetchall():
            if earliest <= operation.now:
                levels.setdefault(priority, []).append(workflow)
    due: list[int] = []
    for priority in sorted(levels, reverse=True):
        room = operation.limit - len(due)
        if room <= 0:
            break
        found: list[tuple[int, int]] = []
        for workflow in levels[priority]:
            found += transaction.execute(FIND_DUE, (workflow, priority, operation.now, room)).fetchall()
        found.sort()
        due += [run for _, run in found[:room]]
    claimed = []
    for run in due:
        values = {"owner": operation.owner, "changed": transaction.change(), "now": operation.now, "run": run}
        claimed.append(run_from(transaction.execute(CLAIM, values).fetchall()[0]))
    return tuple(claimed)
