"""Forks: a copy of a run with a part of its history, in one transaction or, of a long one, piece by piece.

Until all is there the copy is hidden: nobody sees or claims it. One whose caller has died is removed by the janitor.
"""

from __future__ import annotations

from typing import Final, TypeVar

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import RunEvent
from durable_trio.stores.contract import CopyHistory, Draft, ForkRun
from durable_trio.stores.outcomes import copy_id_is_taken, is_damaged, no_such_row, original_changed, run_not_found
from durable_trio.stores.sqlite.columns import run_from
from durable_trio.stores.sqlite.operations.messages import count_unread_anew
from durable_trio.stores.sqlite.operations.removals import DISCARD, HIDDEN_ID
from durable_trio.stores.sqlite.operations.resuming import has_long_history
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["copy_history", "fork_run"]

FIND_ROW: Final = "SELECT seq FROM history WHERE run = ? AND branch = ? AND name = ? AND n = ?"
COPY_RUN: Final = f"""
    INSERT INTO runs (id, workflow, status, changed, priority, queue, created_at, started_at, hidden_at, generation,
        seed, args_digest, tags, keys, version, forked_from, forked_before, args)
    SELECT {HIDDEN_ID} || lower(hex(randomblob(16))), workflow, {word_after(RunEvent.FORK)}, ?, priority, queue, ?,
        started_at, ?, generation, seed, args_digest, tags, keys, version, id, ?, args
    FROM runs WHERE run = ?
"""
SHOW: Final = "UPDATE runs SET id = ?, hidden_at = NULL, wake_at = ?, is_due = 1, changed = ? WHERE run = ?"
TOUCH: Final = "UPDATE runs SET hidden_at = ? WHERE run = ? AND hidden_at > 0"
FIND_STATE: Final = "SELECT run, generation, finished_at FROM runs WHERE run = ? AND hidden_at IS NULL"
# A copied row of a child gets attempt 0: that child belongs to the run that has started it.
COPY_ROWS: Final = """
    INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at, error,
        result, earlier)
    SELECT ?, seq, branch, name, n, kind, status, CASE kind WHEN 'child' THEN 0 ELSE attempt END, 0, started_at,
        finished_at, error, result, earlier
    FROM history WHERE run = ? AND seq < ? AND kind NOT IN ('compensation', 'cancel', 'ttl')
"""
COPY_SIGNALS: Final = """
    INSERT INTO mailbox (run, seq, kind, name, signal_id, created_at, payload)
    SELECT :copy, iif(seq < :before, seq, NULL), kind, name, signal_id, created_at, payload
    FROM mailbox
    WHERE run = :source AND kind = 'signal' AND (seq IS NULL OR seq >= :before OR signal_id IS NOT NULL) ORDER BY id
"""
COPY_HISTORY: Final = f"{COPY_ROWS} ORDER BY id"
COPY_ROW: Final = f"{COPY_ROWS} AND branch = ? AND name = ? AND n = ?"

Refusal = TypeVar("Refusal", bound=Exception)


def fork_run(transaction: Transaction, operation: ForkRun) -> RunRow | Draft | RunNotFound | RunConflict | ValueError:
    """Store a copy of a run with its history before one row (see ``ForkRun``)."""
    draft, now = operation.draft, operation.now
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return _refused(transaction, draft, run_not_found(operation.run_id))
    source = run_from(found)
    if source.damage is not None:
        return _refused(transaction, draft, is_damaged(source.id, source.damage))
    before = transaction.execute(FIND_ROW, (source.run, *operation.before)).fetchone()
    if before is None:
        return _refused(transaction, draft, no_such_row(operation))
    if transaction.execute(FIND_RUN, (operation.id,)).fetchone() is not None:
        return _refused(transaction, draft, copy_id_is_taken(operation))
    if draft is None:
        before_key = str(operation.before)
        transaction.execute(COPY_RUN, (transaction.change(), now, max(1, now), before_key, source.run))
        assert transaction.cursor.lastrowid is not None
        draft = Draft(transaction.cursor.lastrowid, (source.run, source.generation, source.finished_at), before[0])
        if has_long_history(transaction, source.run):
            return draft
        transaction.execute(COPY_HISTORY, (draft.run, source.run, before[0]))
    elif not _is_as_before(transaction, draft, now):
        return _refused(transaction, draft, original_changed(operation.run_id))
    if operation.signals:
        transaction.execute(COPY_SIGNALS, {"copy": draft.run, "source": source.run, "before": before[0]})
        count_unread_anew(transaction, draft.run)
    transaction.execute(SHOW, (operation.id, now, transaction.change(), draft.run))
    return run_from(transaction.execute(FIND_RUN, (operation.id,)).fetchone())


def copy_history(transaction: Transaction, operation: CopyHistory) -> bool | RunConflict:
    """Copy some rows into a copy that is being made (see ``CopyHistory``)."""
    draft = operation.draft
    if not _is_as_before(transaction, draft, operation.now):
        return _refused(transaction, draft, original_changed(operation.run_id))
    for key in operation.keys:
        transaction.execute(COPY_ROW, (draft.run, draft.source[0], draft.before, *key))
    return True


def _is_as_before(transaction: Transaction, draft: Draft, now: int) -> bool:
    """Return whether a copy is still being made, of a run whose history before a row is still the same."""
    transaction.execute(TOUCH, (max(1, now), draft.run))
    if transaction.cursor.rowcount != 1:
        return False
    state: tuple[int, int, int | None] | None = transaction.execute(FIND_STATE, draft.source[:1]).fetchone()
    return state == draft.source


def _refused(transaction: Transaction, draft: Draft | None, error: Refusal) -> Refusal:
    if draft is not None:
        transaction.execute(DISCARD, (draft.run,))
    return error
