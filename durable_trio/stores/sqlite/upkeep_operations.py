"""Operations that people and the engine's upkeep ask for: resume, fork, delete, prune, unpark."""

from __future__ import annotations

from itertools import starmap, takewhile
from typing import Final, NamedTuple

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.records import RunRow, RunStatus, StepKind, StepStatus
from durable_trio.rules.damage import DAMAGED, damaged
from durable_trio.stores.base import DeleteRun, ForkRun, Prune, ResumeRun, Unpark
from durable_trio.stores.sqlite.damage_operations import set_aside, update_each
from durable_trio.stores.sqlite.layout import LAYOUTS
from durable_trio.stores.sqlite.message_operations import run_not_found, tell_parent
from durable_trio.stores.sqlite.rows import RUN_COLUMNS, run_from
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["delete_run", "fork_run", "prune", "resume_run", "unpark"]

END_BRANCH: Final = "(end)"  # of rows that the engine writes when it ends the children of a run

FIND: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE id = ?"
CLEAR_PROBLEM: Final = """
    UPDATE runs SET problem = NULL, fingerprint = NULL, wake_at = ?, is_due = 1, changed = ? WHERE run = ?
"""
FIND_OUTCOMES: Final = """
    SELECT id, seq, branch, kind, status, started_at, finished_at FROM history WHERE run = ? ORDER BY seq, id
"""
REMOVE_ROW: Final = "DELETE FROM history WHERE id = ?"
UNREAD_AGAIN: Final = "UPDATE mailbox SET seq = NULL WHERE run = ? AND seq = ? AND kind <> 'cancel'"
# What was published from there on may come again in another order.
FORGET_POSITIONS_FROM: Final = "UPDATE published SET seq = -1 WHERE run = ? AND seq >= ?"
COUNT_UNREAD: Final = """
    INSERT OR REPLACE INTO unread_counts (run, signals)
    SELECT ?, count(*) FROM mailbox INDEXED BY mailbox_unread WHERE run = ? AND kind = 'signal' AND seq IS NULL
"""
REMOVE_CANCEL: Final = "DELETE FROM mailbox WHERE run = ? AND kind = 'cancel'"
REVIVE: Final = """
    UPDATE runs SET status = 'pending', result = NULL, error = NULL, problem = NULL, fingerprint = NULL,
        finished_at = NULL, recoveries = 0, wake_at = :now, is_due = 1, waits_for = NULL,
        ttl_at = CASE WHEN ttl_at > :now THEN ttl_at END, changed = :changed
    WHERE run = :run
"""
IS_SET_ASIDE: Final = f"SELECT 1 FROM runs WHERE run = ? AND problem IS NOT NULL AND fingerprint = '{DAMAGED}'"
FIND_ROW: Final = "SELECT seq FROM history WHERE run = ? AND branch = ? AND name = ? AND n = ?"
COPY_RUN: Final = """
    INSERT INTO runs (id, workflow, status, changed, priority, queue, created_at, started_at, wake_at, is_due,
        generation, seed, args_digest, tags, args)
    SELECT ?, workflow, 'pending', ?, priority, queue, ?, started_at, ?, 1, generation, seed, args_digest, tags, args
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
# A child whose parent goes on stays: the parent may still ask for its result, unless it has begun a new history.
PRUNE: Final = """
    DELETE FROM runs WHERE run IN (
        SELECT run FROM runs AS ended
        WHERE finished_at < ? AND status IN ({statuses}) AND NOT EXISTS (
            SELECT 1 FROM runs AS parents WHERE parents.run = ended.parent AND parents.finished_at IS NULL
                AND EXISTS (
                    SELECT 1 FROM history
                    WHERE history.run = parents.run AND kind = 'child'
                        AND history.result = json_quote(CAST(ended.id AS TEXT))
                )
        )
        ORDER BY finished_at, run LIMIT ?
    )
"""
# Other code does not mend a row that is damaged.
PARKED_BY_OTHERS: Final = f"""
    workflow = :workflow AND problem IS NOT NULL AND fingerprint IS NOT :fingerprint
        AND fingerprint IS NOT '{DAMAGED}' AND finished_at IS NULL
"""
FIND_PARKED: Final = f"SELECT run FROM runs INDEXED BY runs_parked WHERE {PARKED_BY_OTHERS}"
UNPARK: Final = f"""
    UPDATE runs SET problem = NULL, fingerprint = NULL, wake_at = :now, is_due = 1, changed = :changed
    WHERE run IN ({FIND_PARKED})
"""
IS_ANY_PARKED: Final = f"{FIND_PARKED} LIMIT 1"


_OUTCOME: Final = LAYOUTS["history"].of("id, seq, branch, kind, status, started_at, finished_at")


class Outcome(NamedTuple):
    """What resuming looks at in a history row.

    A branch is a path: nurseries and maps stand at its odd places, the branches of nurseries at its even ones. So a
    path of even length is that of a body, one of odd length that of the items of a map.
    """

    id: int
    seq: int
    branch: str
    kind: str
    status: str
    started_at: int
    finished_at: int


def resume_run(transaction: Transaction, operation: ResumeRun) -> RunRow | RunNotFound | RunConflict:
    """Let a parked, failed or cancelled run go on (see ``ResumeRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if row.damage is not None:  # then it can be changed at least; whether it can go on, its next claim tells
        row = set_aside(transaction, row.run)
        if row.problem is None and not row.status.is_final:
            return _unreadable(row.id, row.damage or "its status")
    if row.problem is not None and not row.status.is_final:
        transaction.execute(CLEAR_PROBLEM, (operation.now, transaction.change(), row.run))
    elif row.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        outcomes = transaction.execute(FIND_OUTCOMES, (row.run,)).fetchall()
        for outcome in outcomes:
            if not _OUTCOME.is_sound(outcome):
                return _unreadable(row.id, _OUTCOME.mended(outcome)[1])
        history = list(starmap(Outcome, outcomes))
        if any(outcome.kind == StepKind.COMPENSATION for outcome in history):
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


def _cut_history(transaction: Transaction, run: int, history: list[Outcome]) -> None:
    ends = [outcome.seq for outcome in history if outcome.kind in (StepKind.CANCEL, StepKind.TTL)]
    removed = [outcome for outcome in history if outcome.seq >= ends[0]] if ends else _last_failures(history)
    for outcome in removed:
        transaction.execute(REMOVE_ROW, (outcome.id,))
        transaction.execute(UNREAD_AGAIN, (run, outcome.seq))
    if removed:
        transaction.execute(FORGET_POSITIONS_FROM, (run, min(outcome.seq for outcome in removed)))
    transaction.execute(COUNT_UNREAD, (run, run))


def _last_failures(history: list[Outcome]) -> list[Outcome]:
    """Return the failures that no row which stays may depend on, and the ends of children that nobody awaited."""
    removed = []
    kept: dict[str, int] = {}  # by branch: when the last call began whose row stays
    latest = -1
    for outcome in reversed(history):
        is_failure = outcome.status != StepStatus.COMPLETED
        if outcome.branch == END_BRANCH or (is_failure and not _is_followed(outcome, kept, latest)):
            removed.append(outcome)
        else:
            latest = max(latest, outcome.started_at)
            kept[outcome.branch] = max(kept.get(outcome.branch, -1), outcome.started_at)
    return removed


def _is_followed(failure: Outcome, kept: dict[str, int], latest: int) -> bool:
    """Return whether the body may have gone on from a failure to one of the rows after it.

    A later row of the same branch or of one around it says so; siblings, and items of one map, do not wait for each
    other. Elsewhere it is told by time: a call that began before the failure does not depend on it. What began at the
    same instant (a virtual clock) does not either, if it is of a sibling.
    """
    path = failure.branch.split("/") if failure.branch else []
    around = ["/".join(path[:length]) for length in range(0, len(path) + 1, 2)]
    if latest > failure.finished_at or any(branch in kept for branch in around):
        return True
    return latest == failure.finished_at and any(
        began == latest and not _are_siblings(path, branch.split("/")) for branch, began in kept.items()
    )


def _are_siblings(path: list[str], other: list[str]) -> bool:
    """Return whether two paths part inside a nursery or a map; else they part in one body, which goes step by step."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))
    return shared % 2 == 1


def fork_run(transaction: Transaction, operation: ForkRun) -> RunRow | RunNotFound | RunConflict | ValueError:
    """Store a copy of a run with its history before one row (see ``ForkRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if row.damage is not None:
        return _unreadable(row.id, row.damage)
    run = row.run
    before = transaction.execute(FIND_ROW, (run, *operation.before)).fetchone()
    if before is None:
        return ValueError(f"run {operation.run_id!r} has no history row {str(operation.before)!r}")
    if transaction.execute(FIND, (operation.id,)).fetchone() is not None:
        return RunConflict(f"run {operation.id!r} is stored already; give the copy another id", run_id=operation.id)
    transaction.execute(COPY_RUN, (operation.id, transaction.change(), operation.now, operation.now, run))
    transaction.execute(COPY_HISTORY, (transaction.cursor.lastrowid, run, before[0]))
    return run_from(transaction.execute(FIND, (operation.id,)).fetchone())


def _unreadable(run_id: str, damage: str) -> RunConflict:
    return RunConflict(damaged(run_id, damage).text, run_id=run_id)


def delete_run(transaction: Transaction, operation: DeleteRun) -> bool | RunNotFound | RunConflict:
    """Remove a run that has ended, or is damaged, with all its rows (see ``DeleteRun``)."""
    found = transaction.execute(FIND, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if not row.status.is_final:
        is_given_up = transaction.execute(IS_SET_ASIDE, (row.run,)).fetchone() is not None
        if row.owner is not None or not (is_given_up or row.damage is not None):
            return RunConflict(
                f"run {row.id!r} is {row.status}; only runs that have ended can be deleted: cancel it first",
                run_id=row.id,
            )
        tell_parent(transaction, row.run, 0)  # it would wait for ever
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
    which = {"workflow": operation.workflow, "fingerprint": operation.fingerprint}
    if transaction.execute(IS_ANY_PARKED, which).fetchone() is None:
        return 0
    values = {**which, "now": operation.now, "changed": transaction.change()}
    return update_each(transaction, UNPARK, values, which=FIND_PARKED)
