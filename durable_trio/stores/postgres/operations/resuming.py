"""What people ask for to have a run go on that does not go on by itself.

A long history is not walked through while the run is locked: then the caller finds out by himself what is to be cut,
and has it cut piece by piece (``CutHistory``), before the run goes on in one transaction (``ResumeRun.cut_at``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.limits import UPKEEP_ROWS_MAX
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
from durable_trio.stores.postgres.operations.damage import FORGET_REFUSALS, park_damaged
from durable_trio.stores.postgres.operations.finding import lock_run, read_run
from durable_trio.stores.postgres.rows import HISTORY_COLUMNS, histories_from, key_hash
from durable_trio.stores.postgres.texts import numbers, texts
from durable_trio.stores.postgres.transaction import TOUCH, Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["cut_history", "has_long_history", "resume_run"]

CLEAR_PROBLEM: Final = f"""
    UPDATE runs SET problem = NULL, refused = '', wake_at = $2::bigint, is_due = true, {TOUCH} WHERE run = $1::bigint
"""
SET_VERSION: Final = f"UPDATE runs SET version = $2::bigint, {TOUCH} WHERE run = $1::bigint"
_OUTCOME_COLUMNS: Final = (
    HISTORY_COLUMNS.replace("result", "NULL::text").replace("error", "NULL::text").replace("earlier", "NULL::text")
)
FIND_OUTCOMES: Final = f"SELECT {_OUTCOME_COLUMNS} FROM history WHERE run = $1::bigint ORDER BY seq"
COUNT_ROWS: Final = f"""
    SELECT count(*) FROM (SELECT 1 FROM history WHERE run = $1::bigint LIMIT {UPKEEP_ROWS_MAX + 1}) AS counted
"""
REMOVE_ROWS: Final = "DELETE FROM history WHERE run = $1::bigint AND key = ANY ($2::uuid[])"
UNREAD_AGAIN: Final = """
    UPDATE mailbox SET seq = NULL WHERE run = $1::bigint AND seq = ANY ($2::bigint[]) AND kind <> 'cancel'
"""
# What was published from there on may come again in another order.
FORGET_POSITIONS_FROM: Final = "UPDATE published SET seq = -1 WHERE run = $1::bigint AND seq >= $2::bigint"
REMOVE_CANCEL: Final = "DELETE FROM mailbox WHERE run = $1::bigint AND kind = 'cancel'"
REVIVE: Final = f"""
    UPDATE runs SET status = {word_after(RunEvent.REVIVE)}, result = NULL, error = NULL, problem = NULL, refused = '',
        finished_at = NULL, recoveries = 0, wake_at = $2::bigint, is_due = true, waits_for = NULL,
        ttl_at = CASE WHEN ttl_at > $2::bigint THEN ttl_at END, {TOUCH}
    WHERE run = $1::bigint
"""


def resume_run(transaction: Transaction, operation: ResumeRun) -> RunRow | TooLong | RunNotFound | RunConflict:
    """Let a parked, failed or cancelled run go on (see ``ResumeRun``)."""
    found = lock_run(transaction, operation.run_id)
    if found is None:
        return run_not_found(operation.run_id)
    row, is_refused = found
    run, now = row.run, operation.now
    if row.damage is not None:  # then it can be changed at least; whether it can go on, its next claim tells
        row = park_damaged(transaction, run)
        if row.problem is None and row.status not in FINAL:
            return is_damaged(row.id, row.damage or "its status")
    if row.status not in FINAL and (row.problem is not None or is_refused):
        transaction.exchange((CLEAR_PROBLEM, (run, now)), (FORGET_REFUSALS, (run,)))
    elif row.status in LIFE[RunEvent.REVIVE]:
        error = _cut_what_is_over(transaction, row, operation.cut_at)
        if error is not None:
            return error
        transaction.exchange((REMOVE_CANCEL, (run,)), (FORGET_REFUSALS, (run,)), (REVIVE, (run, now)))
    elif operation.version in (None, row.version) or row.status in FINAL:
        return not_resumable(row)
    elif row.owner is not None:
        return is_executed(row)
    if operation.version is not None:
        transaction.execute(SET_VERSION, run, operation.version)
    return read_run(transaction, operation.run_id)


def _cut_what_is_over(transaction: Transaction, row: RunRow, cut_at: int | None) -> TooLong | RunConflict | None:
    """Remove what a run that has ended is to go on without, unless the caller has done so; return why it cannot."""
    if cut_at is not None:
        return None if row.changed == cut_at else changed_meanwhile(row)
    if has_long_history(transaction, row.run):
        return TooLong(row)
    rows = histories_from(transaction.execute(FIND_OUTCOMES, row.run).rows)
    for each in rows:
        if each.damage is not None:
            return is_damaged(row.id, each.damage)
    history = [Outcome(each.seq, each.key, each.kind, each.status, each.started_at, each.finished_at) for each in rows]
    if is_compensated(history):
        return run_conflict(row, COMPENSATED)
    _cut(transaction, row.run, [(outcome.key, outcome.seq) for outcome in rows_to_cut(history)])
    return None


def has_long_history(transaction: Transaction, run: int) -> bool:
    """Return whether the history of a run is too long to be walked through in one transaction."""
    count: int = transaction.execute(COUNT_ROWS, run).rows[0][0]
    return count > UPKEEP_ROWS_MAX


def cut_history(transaction: Transaction, operation: CutHistory) -> bool | RunNotFound | RunConflict:
    """Remove a part of the rows that a run is to go on without (see ``CutHistory``)."""
    found = lock_run(transaction, operation.run_id)
    if found is None:
        return run_not_found(operation.run_id)
    row = found.row
    if row.changed != operation.changed or row.status not in LIFE[RunEvent.REVIVE]:
        return changed_meanwhile(row)
    _cut(transaction, row.run, operation.rows)
    return True


def _cut(transaction: Transaction, run: int, rows: Sequence[tuple[Key, int]]) -> None:
    if rows:
        seqs = [seq for _, seq in rows]
        transaction.exchange(
            (REMOVE_ROWS, (run, texts(key_hash(key) for key, _ in rows))),
            (UNREAD_AGAIN, (run, numbers(seqs))),
            (FORGET_POSITIONS_FROM, (run, min(seqs))),
        )
