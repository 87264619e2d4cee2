"""Ending a run that no code ends, in one transaction: whoever owns it, and whatever of it is not undone."""

from __future__ import annotations

from typing import Final

from durable_trio.errors import RunFinished, RunNotFound
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import Key
from durable_trio.rules.compensation import compensation_key
from durable_trio.rules.run_life import FINAL, LIFE, RunEvent
from durable_trio.stores.contract import Abandoned, AbandonRun, RequestCancel, Sent
from durable_trio.stores.outcomes import already_ended, run_not_found
from durable_trio.stores.sqlite.columns import run_from
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.operations.codes import forget_refusals
from durable_trio.stores.sqlite.operations.damage import park_damaged
from durable_trio.stores.sqlite.operations.messages import request_cancel, tell_parent
from durable_trio.stores.sqlite.operations.progress import CLEAR_WAITS
from durable_trio.stores.sqlite.operations.starts import FIND_RUN
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import is_one_of, word_after

__all__ = ["abandon_run"]

# Nobody who owned it writes any more: not even one that takes it for its own still.
ABANDON: Final = f"""
    UPDATE runs SET owner = NULL, token = token + 1, status = {word_after(RunEvent.ABANDON)}, wake_at = NULL,
        waits_for = NULL, problem = NULL, fingerprint = NULL, refused = '', result = NULL, error = ?, finished_at = ?,
        changed = ?, compensation_errors = ?
    WHERE run = ? AND {is_one_of(LIFE[RunEvent.ABANDON])}
"""
# The names of rows that are damaged are left out: of which step they are, nobody can say.
FIND_COMPENSABLE: Final = """
    SELECT branch, name, n FROM history
    WHERE run = ? AND compensates = 1 AND typeof(branch) = 'text' AND typeof(name) = 'text' AND typeof(n) = 'integer'
    ORDER BY seq DESC
"""
LAST_SEQ: Final = (
    f"SELECT coalesce(max(seq), 0) FROM history WHERE run = ? AND typeof(seq) = 'integer' AND seq < {COUNT_MAX}"
)
ADD_NOT_UNDONE: Final = """
    INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at, error)
    VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?)
    ON CONFLICT (run, branch, name, n) DO NOTHING
"""
FIND_COMPENSATION_ERRORS: Final = """
    SELECT json_group_array(json(error)) FROM (
        SELECT error FROM history WHERE run = ? AND kind = 'compensation' AND json_valid(error) ORDER BY seq
    )
"""
# Those that it let go of (attempt 0) live on by themselves.
FIND_CHILDREN: Final = """
    SELECT child.id FROM runs AS child JOIN history INDEXED BY history_children
        ON history.run = child.parent AND history.kind = 'child' AND history.result = json_quote(CAST(child.id AS TEXT))
    WHERE child.parent = ? AND child.finished_at IS NULL AND history.attempt > 0 ORDER BY child.run
"""


def abandon_run(transaction: Transaction, operation: AbandonRun) -> Abandoned | RunNotFound | RunFinished:
    """End a run that no code ends (see ``AbandonRun``)."""
    found = transaction.execute(FIND_RUN, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    before = row = run_from(found)
    if row.damage is not None:  # what cannot be read is replaced, so that the rest can be changed
        row = park_damaged(transaction, row.run)
    if row.status in FINAL:
        return already_ended(row)
    children = [text for (text,) in transaction.execute(FIND_CHILDREN, (row.run,)).fetchall()]
    told = [_request(transaction, row.id, operation)] if row.owner is not None else []
    not_undone_count = _note_not_undone(transaction, row.run, operation)
    errors = transaction.execute(FIND_COMPENSATION_ERRORS, (row.run,)).fetchone()[0]
    values = (operation.error, operation.now, transaction.change(), errors, row.run)
    transaction.execute(ABANDON, values)
    transaction.execute(CLEAR_WAITS, (row.run,))
    forget_refusals(transaction, row.run)
    tell_parent(transaction, row.run, operation.now)
    told += [_request(transaction, child, operation) for child in children]
    sent = tuple(outcome for outcome in told if isinstance(outcome, Sent))
    return Abandoned(row=before, not_undone_count=not_undone_count, sent=sent)


def _request(transaction: Transaction, run_id: str, operation: AbandonRun) -> object:
    """Ask a run to cancel. The abandoned run gets one as well: its owner reads it, and finds that it is his no more."""
    request = RequestCancel(run_id=run_id, reason=operation.reason, error=operation.error_of_child, now=operation.now)
    return request_cancel(transaction, request)


def _note_not_undone(transaction: Transaction, run: int, operation: AbandonRun) -> int:
    """Record of each compensation that has not run that it never will; return how many these are."""
    count = 0
    seq: int = transaction.execute(LAST_SEQ, (run,)).fetchone()[0]
    for step in transaction.execute(FIND_COMPENSABLE, (run,)).fetchall():
        key, now = compensation_key(Key(*step)), operation.now
        said = (StepKind.COMPENSATION.value, StepStatus.FAILED.value, now, now, operation.not_undone)
        transaction.execute(ADD_NOT_UNDONE, (run, seq + 1, *key, *said))
        if transaction.cursor.rowcount == 1:
            seq += 1
            count += 1
    return count
