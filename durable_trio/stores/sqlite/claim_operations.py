"""Claims: an executor takes runs that are due, in order of priority, by index seeks only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from durable_trio.errors import OwnershipLost
from durable_trio.limits import SUSPECT_RECOVERIES
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
    SELECT wake_at, run, recoveries FROM runs INDEXED BY runs_due
    WHERE workflow = ? AND priority = ? AND owner IS NULL AND wake_at IS NOT NULL AND wake_at <= ?
    ORDER BY wake_at, run
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


_Due = tuple[int, int, int]  # wake_at, run, recoveries


def _is_suspect(due: _Due) -> bool:
    return due[2] >= SUSPECT_RECOVERIES


def _taken(due: Iterable[_Due], limit: int, suspects_max: int) -> list[_Due]:
    """Return the first ones, with at most some suspects among them."""
    taken: list[_Due] = []
    for item in due:
        if _is_suspect(item):
            if suspects_max == 0:
                continue
            suspects_max -= 1
        taken.append(item)
        if len(taken) == limit:
            break
    return taken


def claim_due(transaction: Transaction, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due (see ``ClaimDue``)."""
    if not transaction.is_executor_alive(operation.owner):
        return OwnershipLost(f"executor {operation.owner} is not registered, or was declared dead; it claimed nothing")
    levels: dict[int, list[str]] = {}
    for workflow in dict.fromkeys(operation.workflows):
        for priority, earliest in transaction.execute(DUE_BY_PRIORITY, {"workflow": workflow}).fetchall():
            if earliest <= operation.now:
                levels.setdefault(priority, []).append(workflow)
    due: list[_Due] = []
    suspects_left = operation.limit if operation.suspects_max is None else operation.suspects_max
    for priority in sorted(levels, reverse=True):
        room = operation.limit - len(due)
        if room <= 0:
            break
        found: list[_Due] = []
        for workflow in levels[priority]:
            # Lazily: the suspects that are passed over are not known beforehand.
            found += _taken(transaction.execute(FIND_DUE, (workflow, priority, operation.now)), room, suspects_left)
        taken = _taken(sorted(found), room, suspects_left)
        suspects_left -= sum(_is_suspect(item) for item in taken)
        due += taken
    claimed = []
    for _, run, _ in due:
        values = {"owner": operation.owner, "changed": transaction.change(), "now": operation.now, "run": run}
        claimed.append(run_from(transaction.execute(CLAIM, values).fetchall()[0]))
    return tuple(claimed)
