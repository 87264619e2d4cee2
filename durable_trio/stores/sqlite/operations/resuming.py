"""What people ask for to have a run go on that does not go on by itself.

A long history is not walked through in the write turn: then the caller finds out by himself what is to be cut, and has
it cut piece by piece (``CutHistory``), before the run goes on in one transaction (``ResumeRun.cut_at``).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import starmap
from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import Key, RunRow
from durable_trio.rules.resuming import COMPENSATED, Outcome, is_compensated, rows_to_cut
from durable_trio.rules.run_life import FINAL, LIFE, RunEvent
from durable_trio.stores.contract import CutHistory, ResumeRun, TooLong
from durable_trio.stores.outcomes import (
    changed_meanwhile,
    is_damaged,
    is_executed,
    not_resumable,
    run_conflict,
    run_not_found,
)
from durable_trio.stores.sqlite.columns import run_from
from durable_trio.stores.sqlite.layout import LAYOUTS
from durable_trio.stores.sqlite.operations.codes import forget_refusals
from durable_trio.stores.sqlite.operations.damage import park_damaged
from durable_trio.stores.sqlite.operations.messages import count_unread_anew
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.sqlite.tables import REFUSED
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["cut_history", "has_long_history", "resume_run"]

CLEAR_PROBLEM: Final = """
    UPDATE runs SET problem = NULL, fingerprint = NULL, refused = '', wake_at = ?, is_due = 1, changed = ? WHERE run = ?
"""
SET_VERSION: Final = "UPDATE runs SET version = ?, changed = ? WHERE run = ?"
IS_REFUSED: Final = f"SELECT 1 FROM runs WHERE run = ? AND {REFUSED}"
FIND_OUTCOMES: Final = """
    SELECT seq, branch, name, n, kind, status, started_at, finished_at FROM history WHERE run = ? ORDER BY seq, id
"""
COUNT_ROWS: Final = "SELECT count(*) FROM (SELECT 1 FROM history WHERE run = ? LIMIT ? + 0)"
REMOVE_ROW: Final = "DELETE FROM history WHERE run = ? AND branch = ? AND name = ? AND n = ?"
UNREAD_AGAIN: Final = "UPDATE mailbox SET seq = NULL WHERE run = ? AND seq = ? AND kind <> 'cancel'"
# What was published from there on may come again in another order.
FORGET_POSITIONS_FROM: Final = "UPDATE published SET seq = -1 WHERE run = ? AND seq >= ?"
REMOVE_CANCEL: Final = "DELETE FROM mailbox WHERE run = ? AND kind = 'cancel'"
REVIVE: Final = f"""
    UPDATE runs SET status = {word_after(RunEvent.REVIVE)}, result = NULL, error = NULL, problem = NULL,
        fingerprint = NULL, refused = '', finished_at = NULL, recoveries = 0, wake_at = :now, is_due = 1,
        waits_for = NULL, ttl_at = CASE WHEN ttl_at > :now THEN ttl_at END, changed = :changed
    WHERE run = :run
"""

_OUTCOME: Final = LAYOUTS["history"].of("seq, branch, name, n, kind, status, started_at, finished_at")


def resume_run(transaction: Transaction, operation: ResumeRun) -> RunRow | TooLong | RunNotFound | RunConflict:
    """Let a parked, failed or cancelled run go on (see ``ResumeRun``)."""
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if row.damage is not None:  # then it can be changed at least; whether it can go on, its next claim tells
        row = park_damaged(transaction, row.run)
        if row.problem is None and row.status not in FINAL:
            return is_damaged(row.id, row.damage or "its status")
    if row.status not in FINAL and (row.problem is not None or transaction.execute(IS_REFUSED, (row.run,)).fetchone()):
        transaction.execute(CLEAR_PROBLEM, (operation.now, transaction.change(), row.run))
        forget_refusals(transaction, row.run)
    elif row.status in LIFE[RunEvent.REVIVE]:
        if operation.cut_at is None:
            if has_long_history(transaction, row.run):
                return TooLong(row)
            outcomes = transaction.execute(FIND_OUTCOMES, (row.run,)).fetchall()
            for outcome in outcomes:
                if not _OUTCOME.is_sound(outcome):
                    return is_damaged(row.id, _OUTCOME.mended(outcome)[1])
            history = list(starmap(_outcome, outcomes))
            if is_compensated(history):
                return run_conflict(row, COMPENSATED)
            _cut(transaction, row.run, ((outcome.key, outcome.seq) for outcome in rows_to_cut(history)))
        elif row.changed != operation.cut_at:
            return changed_meanwhile(row)
        count_unread_anew(transaction, row.run)
        transaction.execute(REMOVE_CANCEL, (row.run,))
        forget_refusals(transaction, row.run)
        transaction.execute(REVIVE, {"now": operation.now, "changed": transaction.change(), "run": row.run})
    elif operation.version in (None, row.version) or row.status in FINAL:
        return not_resumable(row)
    elif row.owner is not None:
        return is_executed(row)
    if operation.version is not None:
        transaction.execute(SET_VERSION, (operation.version, transaction.change(), row.run))
    return run_from(transaction.execute(FIND_RUN, (operation.run_id,)).fetchone())


def has_long_history(transaction: Transaction, run: int) -> bool:
    """Return whether the history of a run is too long to be walked through in one transaction."""
    count: int = transaction.execute(COUNT_ROWS, (run, UPKEEP_ROWS_MAX + 1)).fetchone()[0]
    return count > UPKEEP_ROWS_MAX


def cut_history(transaction: Transaction, operation: CutHistory) -> bool | RunNotFound | RunConflict:
    """Remove a part of the rows that a run is to go on without (see ``CutHistory``)."""
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    row = run_from(found)
    if row.changed != operation.changed or row.status not in LIFE[RunEvent.REVIVE]:
        return changed_meanwhile(row)
    _cut(transaction, row.run, operation.rows)
    return True


def _outcome(seq: int, branch: str, name: str, n: int, kind: str, status: str, *times: int) -> Outcome:
    return Outcome(seq, Key(branch, name, n), StepKind(kind), StepStatus(status), *times)


def _cut(transaction: Transaction, run: int, rows: Iterable[tuple[Key, int]]) -> None:
    first = None
    for key, seq in rows:
        transaction.execute(REMOVE_ROW, (run, *key))
        transaction.execute(UNREAD_AGAIN, (run, seq))
        first = seq if first is None else min(first, seq)
    if first is not None:
        transaction.execute(FORGET_POSITIONS_FROM, (run, first))
