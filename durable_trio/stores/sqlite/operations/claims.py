"""Claims: an executor takes runs that are due, in order, by index seeks only.

Each workflow has its lines (``tables.LINE``): what has begun goes before all first claims; within a line a higher
priority goes first, then the earlier due time, then the order of start. A claim looks at the heads of lines, so it
costs the same however many wait, of however many priorities. Before that it moves runs whose time has come from
``later`` into line, a bounded number of them: their order there is that of their due times.
"""

from __future__ import annotations

from typing import Any, Final

from durable_trio.clock import INSTANT_MIN
from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.run_life import CLAIMABLE, FINAL, RunEvent, changed_by
from durable_trio.stores.contract import ClaimDue, ClaimRun
from durable_trio.stores.sqlite.columns import RUN_COLUMNS, run_from, status_from
from durable_trio.stores.sqlite.layout import COUNT_MAX, NO_INTEGER
from durable_trio.stores.sqlite.library import sqlite3
from durable_trio.stores.sqlite.operations.damage import set_aside, update_run
from durable_trio.stores.sqlite.operations.messages import run_not_found
from durable_trio.stores.sqlite.statuses import is_one_of, status_after, word
from durable_trio.stores.sqlite.tables import BEGUN, LINE, NEW, SUSPECT
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["FIND_IN_LINE", "FIND_LATER", "claim", "claim_due", "claim_run"]

# Runs that one claim moves into line, of each workflow: some claims' worth, and a millisecond or two of the turn.
_MOVED_MAX: Final = 256

FIND_IN_LINE: Final = f"""
    SELECT priority, wake_at, run FROM runs INDEXED BY runs_line
    WHERE workflow = ? AND {LINE} = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due = 1
    ORDER BY priority DESC, wake_at, run LIMIT ? + 0
"""
FIND_LATER: Final = """
    SELECT run FROM runs INDEXED BY runs_later
    WHERE workflow = ? AND (token > 0) = ? AND owner IS NULL AND wake_at IS NOT NULL AND is_due IS NOT 1
        AND wake_at <= ?
    ORDER BY wake_at, run LIMIT ? + 0
"""
MOVE: Final = "UPDATE runs SET is_due = ? WHERE run = ?"
CLAIM: Final = f"""
    UPDATE runs SET
        owner = :owner,
        token = token + 1,
        wake_at = NULL,
        is_due = 0,
        waits_for = NULL,
        changed = CASE WHEN {is_one_of(changed_by(RunEvent.CLAIM))} THEN :changed ELSE changed END,
        started_at = CASE WHEN status = {word(RunStatus.PENDING)} THEN coalesce(started_at, :now) ELSE started_at END,
        status = CASE WHEN error IS NULL THEN {status_after(RunEvent.CLAIM)}
            ELSE {status_after(RunEvent.CLAIM_UNDOING)} END,
        claimed_seq = coalesce(
            CAST((SELECT max(seq) FROM history WHERE history.run = runs.run AND seq <= {COUNT_MAX}) AS INTEGER), -1
        )
    WHERE run = :run
    RETURNING {RUN_COLUMNS}
"""
FIND_CLAIMABLE: Final = "SELECT run, status, workflow, owner FROM runs WHERE id = ?"
CLEAR_PROBLEM: Final = "UPDATE runs SET problem = NULL, fingerprint = NULL WHERE run = ?"

_Due = tuple[int, int, int]  # priority, negated; wake_at; run


def claim(transaction: Transaction, values: dict[str, Any]) -> RunRow:
    """Claim a run with ``CLAIM``. One whose row is damaged is set aside: it comes with its damage, and unowned."""
    try:
        row = run_from(transaction.execute(CLAIM, values).fetchall()[0])
    except sqlite3.IntegrityError as error:
        return set_aside(transaction, values["run"], why=str(error))
    if row.damage is not None or row.status in FINAL:
        return set_aside(transaction, values["run"])
    return row


def _damaged(run: int) -> _Due:
    """Return a place in line for a run whose own cannot be read: at its head, due at a time that never is."""
    return (NO_INTEGER, NO_INTEGER, run)


def claim_due(transaction: Transaction, operation: ClaimDue) -> tuple[RunRow, ...] | OwnershipLost:
    """Claim runs that are due (see ``ClaimDue``)."""
    if not transaction.is_executor_alive(operation.owner):
        return OwnershipLost(f"executor {operation.owner} is not registered, or was declared dead; it claimed nothing")
    workflows = tuple(dict.fromkeys(operation.workflows))
    limit = operation.limit
    suspects_max = limit if operation.suspects_max is None else min(limit, operation.suspects_max)
    due: list[_Due] = []
    if limit > 0:
        _move_into_line(transaction, workflows, operation.now)
        suspects = _heads(transaction, workflows, SUSPECT, operation.now, suspects_max)
        due = sorted([*suspects, *_heads(transaction, workflows, BEGUN, operation.now, limit)])[:limit]
        due += _heads(transaction, workflows, NEW, operation.now, limit - len(due))
    claimed = []
    for _, wake_at, run in due:
        if wake_at < INSTANT_MIN:  # nothing is ever due then, and the claim would wipe it out
            claimed.append(set_aside(transaction, run))
            continue
        values = {"owner": operation.owner, "changed": transaction.change(), "now": operation.now, "run": run}
        claimed.append(claim(transaction, values))
    return tuple(claimed)


def _move_into_line(transaction: Transaction, workflows: tuple[str, ...], now: int) -> None:
    for workflow in workflows:
        for has_begun in (True, False):
            found = transaction.execute(FIND_LATER, (workflow, has_begun, now, _MOVED_MAX)).fetchall()
            for (run,) in found:
                update_run(transaction, MOVE, (True, run), run=run)


def _heads(transaction: Transaction, workflows: tuple[str, ...], line: int, now: int, limit: int) -> list[_Due]:
    """Return the first of a kind of line, over all workflows, in order."""
    found: list[_Due] = []
    for workflow in workflows if limit > 0 else ():
        heads = transaction.execute(FIND_IN_LINE, (workflow, line, limit)).fetchall()
        for priority, wake_at, run in heads:
            # In line although it is not due: the clock was set back. What has begun sees for itself what is due, and it
            # may have been woken by a message; what is new must neither begin early nor stand in the way.
            if type(priority) is not int or type(wake_at) is not int:
                found.append(_damaged(run))
            elif wake_at <= now or line != NEW:
                found.append((-priority, wake_at, run))
            else:
                update_run(transaction, MOVE, (False, run), run=run)
    return sorted(found)[:limit]


def claim_run(
    transaction: Transaction, operation: ClaimRun
) -> RunRow | RunNotFound | RunFinished | RunConflict | OwnershipLost:
    """Claim one run by its id (see ``ClaimRun``)."""
    if not transaction.is_executor_alive(operation.owner):
        return OwnershipLost(f"executor {operation.owner} is not registered, or was declared dead; it claimed nothing")
    found = transaction.execute(FIND_CLAIMABLE, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run, status, workflow, owner = found
    run_id = operation.run_id
    if workflow != operation.workflow:
        return RunConflict(f"run {run_id!r} is of workflow {workflow!r}, not {operation.workflow!r}", run_id=run_id)
    if status_from(status) not in CLAIMABLE:
        return RunFinished(f"run {run_id!r} is {status}", run_id=run_id)
    if owner is not None:
        return RunConflict(f"run {run_id!r} is held by executor {owner}, which is alive", run_id=run_id)
    update_run(transaction, CLEAR_PROBLEM, (run,), run=run)
    values = {"owner": operation.owner, "changed": transaction.change(), "now": operation.now, "run": run}
    row = claim(transaction, values)
    return row if row.damage is None else RunConflict(damaged(run_id, row.damage).text, run_id=run_id)
