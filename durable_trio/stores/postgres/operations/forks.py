"""Forks: a copy of a run with a part of its history, in one transaction or, of a long one, piece by piece.

Until all is there the copy is hidden: nobody sees or claims it. One whose caller has died is removed by the janitor.

The original is kept as it is by a share lock: it neither begins a new history nor is cut meanwhile. That its owner goes
on does no harm, for rows with a lower number than one that is there were all committed before it.
"""

from __future__ import annotations

from typing import Final, TypeVar

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import RunEvent
from durable_trio.stores.contract import CopyHistory, Draft, ForkRun
from durable_trio.stores.outcomes import copy_id_is_taken, is_damaged, no_such_row, original_changed, run_not_found
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.operations.finding import FIND_RUN, read_run, share_run
from durable_trio.stores.postgres.operations.removals import DISCARD, HIDDEN_ID
from durable_trio.stores.postgres.operations.resuming import has_long_history
from durable_trio.stores.postgres.rows import key_hash
from durable_trio.stores.postgres.texts import texts
from durable_trio.stores.postgres.transaction import NOW, TOUCH, Transaction
from durable_trio.stores.statuses import word_after

__all__ = ["copy_history", "fork_run"]

FIND_ROW: Final = "SELECT seq FROM history WHERE run = $1::bigint AND key = $2::uuid"
COPY_RUN: Final = f"""
    INSERT INTO runs (id, workflow, status, changed, priority, queue, created_at, started_at, hidden_at, generation,
        seed, args_digest, tags, keys, version, forked_from, forked_before, args)
    SELECT {HIDDEN_ID} || gen_random_uuid(), workflow, {word_after(RunEvent.FORK)}, {NOW}, priority, queue,
        $2::bigint, started_at, greatest(1, $2::bigint), generation, seed, args_digest, tags, keys, version, id,
        $3::text, args
    FROM runs WHERE run = $1::bigint RETURNING run
"""
SHOW: Final = f"""
    UPDATE runs SET id = $2::text, hidden_at = NULL, wake_at = $3::bigint, is_due = true, {TOUCH}
    WHERE run = $1::bigint
"""
GO_ON: Final = """
    UPDATE runs SET hidden_at = greatest(1, $2::bigint) WHERE run = $1::bigint AND coalesce(hidden_at, 0) > 0
"""
SHARE_STATE: Final = """
    SELECT run, generation, finished_at FROM runs WHERE run = $1::bigint AND hidden_at IS NULL FOR SHARE
"""
# A copied row of a child gets attempt 0: that child belongs to the run that has started it.
COPY_ROWS: Final = """
    INSERT INTO history (run, key, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at,
        error, result, earlier)
    SELECT $1::bigint, key, seq, branch, name, n, kind, status, CASE kind WHEN 'child' THEN 0 ELSE attempt END, false,
        started_at, finished_at, error, result, earlier
    FROM history WHERE run = $2::bigint AND seq < $3::bigint AND kind NOT IN ('compensation', 'cancel', 'ttl')
"""
COPY_ROWS_OF_KEYS: Final = f"{COPY_ROWS} AND key = ANY ($4::uuid[])"
# Numbers are given in their order.
COPY_SIGNALS: Final = """
    INSERT INTO mailbox (run, seq, kind, name, signal_id, created_at, payload)
    SELECT $1::bigint, CASE WHEN seq < $3::bigint THEN seq END, kind, name, signal_id, created_at, payload
    FROM mailbox
    WHERE run = $2::bigint AND kind = 'signal' AND (seq IS NULL OR seq >= $3::bigint OR signal_id IS NOT NULL)
    ORDER BY id
"""

Refusal = TypeVar("Refusal", bound=Exception)


def fork_run(transaction: Transaction, operation: ForkRun) -> RunRow | Draft | RunNotFound | RunConflict | ValueError:
    """Store a copy of a run with its history before one row (see ``ForkRun``)."""
    draft, now = operation.draft, operation.now
    found = share_run(transaction, operation.run_id)
    if found is None:
        return _refused(transaction, draft, run_not_found(operation.run_id))
    source = found.row
    if source.damage is not None:
        return _refused(transaction, draft, is_damaged(source.id, source.damage))
    place, taken = transaction.exchange(
        (FIND_ROW, (source.run, key_hash(operation.before))), (FIND_RUN, (operation.id,))
    )
    if not place.rows:
        return _refused(transaction, draft, no_such_row(operation))
    if taken.rows:
        return _refused(transaction, draft, copy_id_is_taken(operation))
    before: int = place.rows[0][0]
    if draft is None:
        run: int = transaction.execute(COPY_RUN, source.run, now, str(operation.before)).rows[0][0]
        draft = Draft(run, (source.run, source.generation, source.finished_at), before)
        if has_long_history(transaction, source.run):
            return draft
        transaction.execute(COPY_ROWS, run, source.run, before)
    elif not _is_as_before(transaction, draft, now):
        return _refused(transaction, draft, original_changed(operation.run_id))
    if operation.signals:
        transaction.execute(COPY_SIGNALS, draft.run, source.run, before)
    try:
        transaction.execute(SHOW, draft.run, operation.id, now)
    except ServerError as error:
        if error.constraint == "runs_id":  # somebody else has stored it at the same moment: it is seen the next time
            raise ServerError.of_conflict(str(error)) from error
        raise
    return read_run(transaction, operation.id)


def copy_history(transaction: Transaction, operation: CopyHistory) -> bool | RunConflict:
    """Copy some rows into a copy that is being made (see ``CopyHistory``)."""
    draft = operation.draft
    if not _is_as_before(transaction, draft, operation.now):
        return _refused(transaction, draft, original_changed(operation.run_id))
    keys = texts(key_hash(key) for key in operation.keys)
    transaction.execute(COPY_ROWS_OF_KEYS, draft.run, draft.source[0], draft.before, keys)
    return True


def _is_as_before(transaction: Transaction, draft: Draft, now: int) -> bool:
    """Return whether a copy is still being made, of a run whose history before a row is still the same."""
    state, gone_on = transaction.exchange((SHARE_STATE, draft.source[:1]), (GO_ON, (draft.run, now)))
    return gone_on.changed == 1 and state.rows == [draft.source]


def _refused(transaction: Transaction, draft: Draft | None, error: Refusal) -> Refusal:
    if draft is not None:
        transaction.execute(DISCARD, draft.run)
    return error
