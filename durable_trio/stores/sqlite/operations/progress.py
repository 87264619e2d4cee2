"""What the owner of a run has to say: advance, release, finish, continue as new."""

from __future__ import annotations

import functools
import json
from typing import Any, Final

import attrs

from durable_trio.errors import DurableError, OwnershipLost, RunConflict
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import OWN_KEYS
from durable_trio.rules.run_life import BY_ADVANCE, BY_FINISH, BY_RELEASE, LIFE, WAITING, RunEvent, sources
from durable_trio.stores.contract import Advance, ContinueAsNew, Fence, Finish, Release
from durable_trio.stores.outcomes import (
    RefusalError,
    cannot_become,
    child_is_lost,
    child_is_there,
    entry_is_taken,
    has_row,
)
from durable_trio.stores.sqlite.columns import status_from
from durable_trio.stores.sqlite.operations.codes import forget_refusals
from durable_trio.stores.sqlite.operations.generations import drop_generations, end_history
from durable_trio.stores.sqlite.operations.messages import tell_parent
from durable_trio.stores.sqlite.operations.starts import FIND_RUN, store_run
from durable_trio.stores.sqlite.transaction import IS_OWNED, Transaction, is_owned, ownership_lost
from durable_trio.stores.statuses import is_one_of, word, word_after

__all__ = ["advance", "continue_as_new", "finish", "release"]

HAS_UNREAD_CANCEL: Final = (
    "SELECT 1 FROM mailbox INDEXED BY mailbox_cancel WHERE run = ? AND seq IS NULL AND kind = 'cancel' LIMIT 1"
)
HAS_UNREAD: Final = """
    SELECT 1 FROM mailbox INDEXED BY mailbox_unread
    WHERE run = ? AND seq IS NULL AND kind = 'signal' AND name = ? AND (created_at <= ? OR created_at > ?) LIMIT 1
"""
# For each ``None`` and each ``bool`` among the parameters Python looks for an adapter, in a microsecond: a tenth of the
# statement. Of a step that has simply succeeded, and of a wait that is no retry, the last columns say nothing:
# so that stands in the text. By whether they say something:
ADD_HISTORY: Final = {
    has_more: f"""
    INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, started_at, finished_at, result,
        compensates, error, earlier)
    SELECT run, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {more} FROM runs WHERE run = ? AND owner = ? AND token = ?
    ON CONFLICT (run, branch, name, n) DO NOTHING
"""
    for has_more, more in ((False, "0, NULL, NULL"), (True, "?, ?, ?"))
}
SET_WAIT: Final = {
    has_more: f"""
    INSERT OR REPLACE INTO waits (run, branch, name, n, kind, due_at, attempt, started_at, error, earlier)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, {more})
"""
    for has_more, more in ((False, "NULL, NULL"), (True, "?, ?"))
}
CLEAR_WAIT: Final = "DELETE FROM waits WHERE run = ? AND branch = ? AND name = ? AND n = ?"
CLEAR_WAITS: Final = "DELETE FROM waits WHERE run = ?"
TAKE_ENTRY: Final = "UPDATE mailbox SET seq = ? WHERE id = ? AND run = ? AND seq IS NULL RETURNING kind"
COUNT_TAKEN: Final = "UPDATE unread_counts SET signals = CAST(signals AS INTEGER) - 1 WHERE run = ?"
PUBLISH: Final = """
    INSERT INTO published (run, key, value, seq, n) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run, key) DO UPDATE SET value = excluded.value, seq = excluded.seq, n = excluded.n
"""
SET_CHANGED: Final = "UPDATE runs SET changed = ? WHERE run = ?"
SET_STATUS: Final = {
    after: f"""
    UPDATE runs SET status = {word(after)}, wake_at = ?, waits_for = ?, error = coalesce(?, error), changed = ?
    WHERE run = ? AND {is_one_of(before)}
"""
    for after in RunStatus
    if (before := sources(after, BY_ADVANCE))
}
SET_ERROR: Final = "UPDATE runs SET error = ?, changed = ? WHERE run = ?"
# An entry that the run waits for: a cancel, the end of a child, or a signal of one of those names.
IS_WANTED_UNREAD: Final = """
    SELECT EXISTS (SELECT 1 FROM mailbox WHERE run = :run AND seq IS NULL AND kind = 'cancel')
        OR EXISTS (SELECT 1 FROM mailbox WHERE run = :run AND seq IS NULL AND kind = 'child')
        OR EXISTS (
            SELECT 1 FROM json_each(:names) AS wanted CROSS JOIN mailbox INDEXED BY mailbox_unread
            WHERE mailbox.run = :run AND seq IS NULL AND mailbox.kind = 'signal' AND name = wanted.value
        )
"""
RELEASE: Final = """
    UPDATE runs SET owner = NULL, status = ?, wake_at = ?, waits_for = ?, changed = ? WHERE run = ?
"""
# A run that this one has started since it began its present history, which has lost the row of that.
IS_LOST_CHILD: Final = """
    SELECT 1 FROM runs AS child JOIN runs AS parents ON parents.run = child.parent
    WHERE child.id = ? AND parents.run = ? AND child.created_at >= parents.started_at AND NOT EXISTS (
        SELECT 1 FROM history INDEXED BY history_children
        WHERE history.run = parents.run AND kind = 'child' AND history.result = json_quote(CAST(child.id AS TEXT))
            AND seq NOT IN (SELECT value FROM json_each(?))
    )
"""
_RELEASED_FROM: Final = {after: sources(after, BY_RELEASE) for after in RunStatus}
# Names of signals as text.
_names: Final = functools.partial(json.dumps, ensure_ascii=False)
FIND_ID: Final = "SELECT id FROM runs WHERE run = ?"
FIND_STATUS: Final = "SELECT status, changed FROM runs WHERE run = ?"
FORGET_CONSUMED: Final = "DELETE FROM mailbox WHERE run = ? AND seq IS NOT NULL AND signal_id IS NULL"
UNTIE_CONSUMED: Final = "UPDATE mailbox SET seq = -1 WHERE run = ? AND seq >= 0"
FORGET_POSITIONS: Final = "UPDATE published SET seq = -1 WHERE run = ?"
CONTINUE: Final = f"""
    UPDATE runs SET owner = NULL, status = {word_after(RunEvent.CONTINUE_AS_NEW)}, generation = generation + 1,
        args = ?, version = coalesce(?, version), wake_at = ?, is_due = 1, waits_for = NULL, started_at = NULL,
        error = NULL, recoveries = 0, claimed_seq = -1, keys = {OWN_KEYS}, refused = '', changed = ?
    WHERE run = ? AND {is_one_of(LIFE[RunEvent.CONTINUE_AS_NEW])}
"""
FINISH: Final = {
    after: f"""
    UPDATE runs SET owner = NULL, status = {word(after)}, wake_at = NULL, waits_for = NULL, result = ?, error = ?,
        compensation_errors = ?, finished_at = ?, changed = ?
    WHERE run = ? AND {is_one_of(before)} RETURNING refused
"""
    for after in RunStatus
    if (before := sources(after, BY_FINISH))
}


def advance(transaction: Transaction, operation: Advance) -> bool | OwnershipLost | RunConflict:
    """Commit what a run's owner has to say (see ``Advance``)."""
    fence = operation.fence
    is_fenced = False
    if operation.unless_unread is not None:
        if not is_owned(transaction, fence):
            return ownership_lost(transaction, fence)
        is_fenced = True
        if transaction.execute(HAS_UNREAD, (fence.run, *operation.unless_unread, operation.now)).fetchone() is not None:
            return False
    if operation.unless_cancelled and _is_being_cancelled(transaction, fence):
        return False
    for row in operation.rows:
        key = row.key
        has_more = row.compensates or row.error is not None or row.earlier is not None
        transaction.execute(
            ADD_HISTORY[has_more],
            (
                row.seq,
                key.branch,
                key.name,
                key.n,
                row.kind._value_,  # without the calls of ``value``: each step passes here
                row.status._value_,
                row.attempt,
                row.started_at,
                row.finished_at,
                row.result,
                *((row.compensates, row.error, row.earlier) if has_more else ()),
                fence.run,
                fence.owner,
                fence.token,
            ),
        )
        if transaction.cursor.rowcount != 1:
            if is_fenced or is_owned(transaction, fence):
                raise RefusalError(has_row(fence.run, key))
            return ownership_lost(transaction, fence)
        is_fenced = True
    # As ``is_owned`` does: each wait passes here.
    if not is_fenced and transaction.execute(IS_OWNED, (fence.run, fence.owner, fence.token)).fetchone() is None:
        return ownership_lost(transaction, fence)
    if operation.children:
        _start_children(transaction, operation)
    if operation.waits or operation.cleared or operation.taken:
        _change_waits(transaction, operation)
    if operation.published or operation.status is not None or operation.error is not None:
        _change_run(transaction, operation)
    return True


def _is_being_cancelled(transaction: Transaction, fence: Fence) -> bool:
    """Return whether the run is owned, and asked to cancel without knowing it yet."""
    if not is_owned(transaction, fence):
        return False  # what follows refuses it
    return transaction.execute(HAS_UNREAD_CANCEL, (fence.run,)).fetchone() is not None


def _start_children(transaction: Transaction, operation: Advance) -> None:
    parent, parent_id = operation.fence.run, None
    for child in operation.children:
        if transaction.execute(FIND_RUN, (child.id,)).fetchone() is not None:
            raise RefusalError(_child_is_there(transaction, operation, child.id))
        if parent_id is None:
            parent_id = transaction.execute(FIND_ID, (parent,)).fetchone()[0]
        is_claimed = child.owner is not None and transaction.is_executor_alive(child.owner)
        store_run(transaction, attrs.evolve(child, parent=parent), parent_id, is_claimed=is_claimed)


def _child_is_there(transaction: Transaction, operation: Advance, run_id: str) -> DurableError:
    """Return the error for a child whose id is that of a stored run."""
    calls = [row.seq for row in operation.rows if row.kind is StepKind.CHILD]
    is_once = [child.id for child in operation.children].count(run_id) == 1
    new = json.dumps(calls)
    if (
        calls
        and is_once
        and transaction.execute(IS_LOST_CHILD, (run_id, operation.fence.run, new)).fetchone() is not None
    ):
        return child_is_lost(run_id)
    return child_is_there(run_id)


def _change_waits(transaction: Transaction, operation: Advance) -> None:
    run = operation.fence.run
    for key in operation.cleared:
        transaction.execute(CLEAR_WAIT, (run, *key))
    for wait in operation.waits:
        has_more = wait.error is not None or wait.earlier is not None
        more = (wait.error, wait.earlier) if has_more else ()
        values: tuple[Any, ...] = (wait.kind, wait.due_at, wait.attempt, wait.started_at, *more)
        transaction.execute(SET_WAIT[has_more], (run, *wait.key, *values))
    for entry, seq in operation.taken:
        taken = transaction.execute(TAKE_ENTRY, (seq, entry, run)).fetchall()
        if not taken:
            raise RefusalError(entry_is_taken(entry, run))
        if taken[0][0] == "signal":
            transaction.execute(COUNT_TAKEN, (run,))


def _change_run(transaction: Transaction, operation: Advance) -> None:
    run, status = operation.fence.run, operation.status
    wake_at = operation.wake_at if status in WAITING else None
    waits_for = _names(operation.waits_for) if status in WAITING else None
    changed = transaction.change()
    for key, value in operation.published:
        transaction.execute(PUBLISH, (run, key, value, *operation.position))
    if status is not None:
        if status in SET_STATUS:
            transaction.execute(SET_STATUS[status], (wake_at, waits_for, operation.error, changed, run))
        if status not in SET_STATUS or transaction.cursor.rowcount != 1:
            raise RefusalError(_cannot_be(transaction, run, status))
    elif operation.error is not None:
        transaction.execute(SET_ERROR, (operation.error, changed, run))
    else:
        transaction.execute(SET_CHANGED, (changed, run))


def release(transaction: Transaction, operation: Release) -> bool | OwnershipLost | RunConflict:
    """Let a run go (see ``Release``). Watchers are told only if its status is another."""
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    waits_for = None
    if operation.status in WAITING:
        waits_for = _names(operation.waits_for)
        if transaction.execute(IS_WANTED_UNREAD, {"run": fence.run, "names": waits_for}).fetchone()[0]:
            return False
    name, changed = transaction.execute(FIND_STATUS, (fence.run,)).fetchone()
    if status_from(name) not in _RELEASED_FROM[operation.status]:
        return _cannot_be(transaction, fence.run, operation.status)
    if name != operation.status.value:
        changed = transaction.change()
    transaction.execute(RELEASE, (operation.status.value, operation.wake_at, waits_for, changed, fence.run))
    return True


def finish(transaction: Transaction, operation: Finish) -> bool | OwnershipLost | RunConflict:
    """End a run (see ``Finish``)."""
    fence: Fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    if operation.unless_cancelled and _is_being_cancelled(transaction, fence):
        return False
    if operation.status not in FINISH:
        return _cannot_be(transaction, fence.run, operation.status)
    ended = transaction.execute(
        FINISH[operation.status],
        (
            operation.result,
            operation.error,
            operation.compensation_errors,
            operation.now,
            transaction.change(),
            fence.run,
        ),
    ).fetchall()
    if not ended:
        raise RefusalError(_cannot_be(transaction, fence.run, operation.status))
    if ended[0][0]:
        forget_refusals(transaction, fence.run)
    transaction.execute(CLEAR_WAITS, (fence.run,))
    tell_parent(transaction, fence.run, operation.now)
    return True


def continue_as_new(transaction: Transaction, operation: ContinueAsNew) -> bool | OwnershipLost | RunConflict:
    """Let a run begin anew with other arguments (see ``ContinueAsNew``).

    Sequence numbers begin anew too, so what an earlier generation has consumed is no longer tied to one of them; of
    it only signals with an id are kept, to know them again.
    """
    fence = operation.fence
    if not is_owned(transaction, fence):
        return ownership_lost(transaction, fence)
    end_history(transaction, fence.run, now=operation.now, kept=operation.generations_kept)
    values = (operation.args, operation.version, operation.now, transaction.change(), fence.run)
    transaction.execute(CONTINUE, values)
    if transaction.cursor.rowcount != 1:
        raise RefusalError(_cannot_be(transaction, fence.run, RunStatus.PENDING))
    drop_generations(transaction, fence.run, kept=operation.generations_kept)
    for statement in (CLEAR_WAITS, FORGET_CONSUMED, UNTIE_CONSUMED, FORGET_POSITIONS):
        transaction.execute(statement, (fence.run,))
    forget_refusals(transaction, fence.run)  # they were of the history that is gone
    return True


def _cannot_be(transaction: Transaction, run: int, status: RunStatus) -> RunConflict:
    """Return the error for a status that may not follow the one which the run has."""
    name = transaction.execute(FIND_STATUS, (run,)).fetchone()[0]
    return cannot_become(run, name, status)
