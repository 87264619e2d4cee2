"""Operations that people and the engine's upkeep ask for: resume, fork, delete, prune, unpark."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.records import RunRow, RunStatus, StepKind, StepStatus
from durable_trio.stores.base import DeleteRun, ForkRun, Prune, ResumeRun, Unpark
from durable_trio.stores.sqlite.message_operations import run_not_found
from durable_trio.stores.sqlite.rows import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["delete_run", "fork_run", "prune", "resume_run", "unpark"]

FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?"
CLEAR_PROBLEM: Final = "UPDATE runs SET problem = NULL, fingerprint = NULL, wake_at = ?, changed = ? WHERE run = ?"
FIND_KINDS: Final = "SELECT seq, kind, status FROM history WHERE run = ? ORDER BY seq, id"
CUT_HISTORY: Final = "DELETE FROM history WHERE run = ? AND seq >= ?"
UNREAD_AGAIN: Final = "UPDATE mailbox SET seq = NULL WHERE run = ? AND seq >= ? AND kind <> 'cancel'"
REMOVE_CANCEL: Final = "DELETE FROM mailbox WHERE run = ? AND kind = 'cancel'"
REVIVE: Final = """
    UPDATE runs SET status = 'pending', result = NULL, error = NULL, problem = NULL, fingerprint = NULL,
        finished_at = NULL, recoveries = 0, wake_at = :now, waits_for = NULL,
        ttl_at = CASE WHEN ttl_at > :now THEN ttl_at END, changed = :changed
    WHERE run = :run
"""
FIND_ROW: Final = "SELECT seq FROM history WHERE run = ? AND branch = ? AND name = ? AND n = ?"
COPY_RUN: Final = """
    INSERT INTO runs (id, workflow, status, changed, priority, queue, created_at, started_at, wake_at, generation, seed,
        args_digest, tags, args)
    SELECT ?, workflow, 'pending', ?, priority, queue, ?, started_at, ?, generation, seed, args_digest, tags, args
    FROM runs WHERE run = ?
    ON CONFLICT (id) DO NOTHING
"""
# A copied row of a child gets attempt 0: that child belongs to the run that has started it.
COPY_HISTORY: Final = """
    INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at, error,
        result)
    SELECT ?, seq, branch, name, n, kind, status, CASE kind WHEN 'child' THEN 0 ELSE attempt END, 0, started_at,
        finished_at, error, result
    FROM history WHERE run = ? AND seq < ? AND kind NOT IN ('compensation', 'cancel', 'ttl')
    ORDER BY id
"""
DELETE: Final = "DELETE FROM runs WHERE run = ?"
PRUNE: Final = """
    DELETE FROM runs WHERE run IN (
        SELECT run FROM runs
        WHERE finished_at < ? AND status IN ({statuses}) ORDER BY finished_at, run LIMIT ?
    )
"""
UNPARK: Final = """
    UPDATE runs SET problem = NULL, fingerprint = NULL, wake_at = ?, changed = ?
    WHERE workflow = ? AND problem IS NOT NULL AND fingerprint IS NOT ?
"""
IS_ANY_PARKED: Final = """
    SELECT 1 FROM runs WHERE workflow = ? AND problem IS NOT NULL AND fingerprint IS NOT ? LIMIT 1
"""


def resume_run(transaction: Transaction, operation: ResumeRun) -> RunRow | RunNotFound | RunConflict:
    """Let a parked, failed or cancelled run go on (see ``ResumeRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if row.problem is not None:
        transaction.execute(CLEAR_PROBLEM, (operation.now, transaction.change(), row.run))
    elif row.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        history = transaction.execute(FIND_KINDS, (row.run,)).fetchall()
        if any(kind == StepKind.COMPENSATION for _, kind, _ in history):
            return RunConflict(
                f"run {row.id!r} has been compensated, at least in part, and cannot go on; start a new one",
                run_id=row.id,
            )
        _cut_history(transaction, row.run, history)
        transaction.execute(REMOVE_CANCEL, (row.run,))
        transaction.execute(REVIVE, {"now": operation.now, "changed": transaction.change(), "run": row.run})
    else:
        return RunConflict(
            f"run {row.id!r} is {row.status} without a problem; only parked, failed and cancelled runs can be resumed",
            run_id=row.id,
        )
    return run_from(transaction.execute(FIND, (operation.run_id,)).fetchone())


def _cut_history(transaction: Transaction, run: int, history: list[tuple[int, str, str]]) -> None:
    ends = [seq for seq, kind, _ in history if kind in (StepKind.CANCEL, StepKind.TTL)]
    if ends:
        cut = ends[0]
    elif history and history[-1][2] != StepStatus.COMPLETED:
        cut = history[-1][0]
    else:
        return
    transaction.execute(CUT_HISTORY, (run, cut))
    transaction.execute(UNREAD_AGAIN, (run, cut))


def fork_run(transaction: Transaction, operation: ForkRun) -> RunRow | RunNotFound | RunConflict | ValueError:
    """Store a copy of a run with its history before one row (see ``ForkRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run = found[0]
    before = transaction.execute(FIND_ROW, (run, *operation.before)).fetchone()
    if before is None:
        return ValueError(f"run {operation.run_id!r} has no history row {str(operation.before)!r}")
    if transaction.execute(FIND, (operation.id,)).fetchone() is not None:
        return RunConflict(f"run {operation.id!r} is stored already; give the copy another id", run_id=operation.id)
    transaction.execute(COPY_RUN, (operation.id, transaction.change(), operation.now, operation.now, run))
    transaction.execute(COPY_HISTORY, (transaction.cursor.lastrowid, run, before[0]))
    return run_from(transaction.execute(FIND, (operation.id,)).fetchone())


def delete_run(transaction: Transaction, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a final run with all its rows (see ``DeleteRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if not row.status.is_final:
        return RunConflict(
            f"run {row.id!r} is {row.status}; only runs that have ended can be deleted: cancel it first", run_id=row.id
        )
    transaction.execute(DELETE, (row.run,))
    return True


def prune(transaction: Transaction, operation: Prune) -> int:
    """Remove final runs that ended long ago (see ``Prune``). Runs that have not ended have no ``finished_at``."""
    statuses = [status.value for status in operation.statuses if status.is_final]
    marks = ", ".join("?" * len(statuses))
    transaction.execute(PRUNE.format(statuses=marks), (operation.before, *statuses, max(0, operation.limit)))
    return transaction.cursor.rowcount


def unpark(transaction: Transaction, operation: Unpark) -> int:
    """Clear the problem of parked runs of a workflow whose code is another now (see ``Unpark``)."""
    which = (operation.workflow, operation.fingerprint)
    if transaction.execute(IS_ANY_PARKED, which).fetchone() is None:
        return 0
    transaction.execute(UNPARK, (operation.now, transaction.change(), *which))
    return transaction.cursor.rowcount
