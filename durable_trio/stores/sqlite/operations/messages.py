"""Operations on a run's mailbox: signals (also with a start), requests to cancel, and the ends of children."""

from __future__ import annotations

from typing import Any, Final

import attrs

from durable_trio.errors import MailboxFull, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import MailboxEntry
from durable_trio.rules.run_life import FINAL, LIFE, TAKES_CANCEL, TAKES_SIGNALS, WAITING, RunEvent
from durable_trio.stores.contract import RequestCancel, SendSignal, Sent, SignalWithStart, Started
from durable_trio.stores.outcomes import (
    RefusalError,
    has_ended,
    mailbox_full,
    run_not_found,
    signal_conflict,
    signal_to_another,
)
from durable_trio.stores.sqlite.answers.mailbox import LAST_UNREAD
from durable_trio.stores.sqlite.columns import ENTRY_COLUMNS, entry_from, run_from, status_from
from durable_trio.stores.sqlite.layout import COUNT_MAX
from durable_trio.stores.sqlite.operations.codes import forget_refusals
from durable_trio.stores.sqlite.operations.damage import update_run
from durable_trio.stores.sqlite.operations.starts import FIND_RUN, start_run
from durable_trio.stores.sqlite.tables import REFUSED
from durable_trio.stores.sqlite.transaction import Transaction
from durable_trio.stores.statuses import is_one_of, word_after

__all__ = ["count_unread_anew", "request_cancel", "send_signal", "signal_with_start", "tell_parent"]

FIND_RECEIVER: Final = "SELECT run, status, owner, token FROM runs WHERE id = ?"
IS_HELD_UP: Final = f"SELECT 1 FROM runs WHERE run = ? AND ({REFUSED} OR problem IS NOT NULL)"
FIND_SIGNAL: Final = f"SELECT {ENTRY_COLUMNS} FROM mailbox WHERE run = ? AND signal_id = ?"
FIND_CANCEL: Final = f"SELECT {ENTRY_COLUMNS}, seq FROM mailbox WHERE run = ? AND kind = 'cancel'"
ADD_ENTRY: Final = """
    INSERT INTO mailbox (run, kind, name, payload, signal_id, created_at) VALUES (?, ?, ?, ?, ?, ?)
"""
COUNT_SIGNAL: Final = """
    INSERT INTO unread_counts (run, signals) VALUES (?, 1)
    ON CONFLICT (run) DO UPDATE SET signals = CAST(signals AS INTEGER) + 1 WHERE signals < ? RETURNING signals
"""
FIND_COUNT: Final = "SELECT signals FROM unread_counts WHERE run = ?"
# What a run waits for, and has none of.
IS_AWAITED: Final = f"""
    SELECT 1 FROM runs
    WHERE run = :run AND {is_one_of(WAITING)} AND json_valid(waits_for)
        AND EXISTS (SELECT 1 FROM json_each(waits_for) WHERE value = :name)
        AND NOT EXISTS (
            SELECT 1 FROM mailbox INDEXED BY mailbox_unread
            WHERE mailbox.run = :run AND seq IS NULL AND kind = 'signal' AND name = :name
        )
"""
COUNT_ANEW: Final = """
    INSERT OR REPLACE INTO unread_counts (run, signals)
    SELECT ?, count(*) FROM mailbox INDEXED BY mailbox_unread WHERE run = ? AND kind = 'signal' AND seq IS NULL
"""
# What it waits for is a hint: where that cannot be read, the run looks for itself.
WAKE_WAITING: Final = f"""
    UPDATE runs SET wake_at = min(coalesce(wake_at, :now), :now), is_due = 1
    WHERE run = :run AND owner IS NULL AND {is_one_of(WAITING)} AND problem IS NULL
        AND CASE WHEN NOT json_valid(waits_for) THEN true WHEN json_type(waits_for) <> 'array' THEN true
            ELSE EXISTS (SELECT 1 FROM json_each(waits_for) WHERE value = :name OR type <> 'text') END
"""
WAKE: Final = "UPDATE runs SET wake_at = min(coalesce(wake_at, :now), :now), is_due = 1 WHERE run = :run"
# As a person's word it is one more try for each code.
TRY_AGAIN: Final = """
    UPDATE runs SET wake_at = ?, is_due = 1, problem = NULL, fingerprint = NULL, refused = '', changed = ? WHERE run = ?
"""
CANCEL_UNBEGUN: Final = f"""
    UPDATE runs SET status = {word_after(RunEvent.CANCEL_UNBEGUN)}, wake_at = NULL, waits_for = NULL, problem = NULL,
        fingerprint = NULL, refused = '', error = ?, finished_at = ?, changed = ?
    WHERE run = ? AND {is_one_of(LIFE[RunEvent.CANCEL_UNBEGUN])}
"""
HAS_DONE: Final = """
    SELECT EXISTS (SELECT 1 FROM history WHERE run = :run) OR EXISTS (SELECT 1 FROM waits WHERE run = :run)
        OR EXISTS (SELECT 1 FROM runs WHERE parent = :run AND finished_at IS NULL)
"""
FIND_PARENT: Final = """
    SELECT parent.run, parent.status, parent.owner, parent.problem, child.id, json_quote(child.status)
    FROM runs AS child JOIN runs AS parent ON parent.run = child.parent WHERE child.run = ?
"""


def send_signal(
    transaction: Transaction, operation: SendSignal
) -> Sent | RunNotFound | RunFinished | RunConflict | MailboxFull:
    """Put a signal into a run's mailbox (see ``SendSignal``)."""
    found = transaction.execute(FIND_RECEIVER, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run, name, owner, token = found
    status = status_from(name)
    if operation.signal_id is not None:
        known = transaction.execute(FIND_SIGNAL, (run, operation.signal_id)).fetchone()
        if known is not None:
            entry = entry_from(known)
            if (entry.name, entry.payload) == (operation.name, operation.payload):
                return Sent(entry=entry, created=False, owner=owner)
            return signal_conflict(operation)
    if status not in TAKES_SIGNALS:
        return has_ended(operation.run_id, status)
    unread_max = COUNT_MAX if operation.unread_max is None else operation.unread_max
    if not _count_signal(transaction, run, unread_max) and not _count_awaited(transaction, run, operation.name):
        return mailbox_full(operation.run_id, unread_max)
    follows = None if owner is None else _what_it_follows(transaction, run, token)
    entry = _add(transaction, run, "signal", operation.name, operation.payload, operation.now, operation.signal_id)
    if owner is None and status in WAITING:
        values = {"now": operation.now, "run": run, "name": operation.name}
        update_run(transaction, WAKE_WAITING, values, run=run)
    return Sent(entry=entry, created=True, owner=owner, follows=follows)


def signal_with_start(transaction: Transaction, operation: SignalWithStart) -> Any:
    """Store a run and a signal to it, both or neither (see ``SignalWithStart``)."""
    run_id = operation.start.id
    if operation.signal.run_id != run_id:
        return signal_to_another(operation)
    started = start_run(transaction, attrs.evolve(operation.start, owner=None))
    if not isinstance(started, Started):
        return started
    sent = send_signal(transaction, operation.signal)
    if not isinstance(sent, Sent):
        if started.created:
            raise RefusalError(sent)
        return sent
    if started.created:
        return started
    # The signal may have woken it.
    return attrs.evolve(started, row=run_from(transaction.execute(FIND_RUN, (run_id,)).fetchone()))


def _what_it_follows(transaction: Transaction, run: int, token: int) -> tuple[int, int]:
    """Return behind what the next entry comes (see ``Sent.follows``)."""
    last = transaction.execute(LAST_UNREAD, (run,)).fetchone()[0]
    return token, last or 0


def _count_signal(transaction: Transaction, run: int, unread_max: int) -> bool:
    """Count one more unread signal of a run; return False, and do not, if it has as many as it may have."""
    if transaction.execute(COUNT_SIGNAL, (run, unread_max)).fetchone() is not None:
        return True
    (count,) = transaction.execute(FIND_COUNT, (run,)).fetchone()
    if type(count) is int and 0 <= count <= COUNT_MAX:
        return False
    count_unread_anew(transaction, run)  # the number is damaged; what it counts is not
    return transaction.execute(COUNT_SIGNAL, (run, unread_max)).fetchone() is not None


def _count_awaited(transaction: Transaction, run: int, name: str) -> bool:
    """Count a signal of a run whose mailbox is full, if it is what the run waits for: only it makes room."""
    if transaction.execute(IS_AWAITED, {"run": run, "name": name}).fetchone() is None:
        return False
    return transaction.execute(COUNT_SIGNAL, (run, COUNT_MAX)).fetchone() is not None


def count_unread_anew(transaction: Transaction, run: int) -> None:
    """Count the unread signals of a run one by one."""
    transaction.execute(COUNT_ANEW, (run, run))


def request_cancel(transaction: Transaction, operation: RequestCancel) -> Sent | RunNotFound | None:
    """Ask a run to cancel (see ``RequestCancel``)."""
    found = transaction.execute(FIND_RECEIVER, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run, name, owner, token = found
    status = status_from(name)
    if status not in TAKES_CANCEL:
        return None
    known = transaction.execute(FIND_CANCEL, (run,)).fetchone()
    is_unread = known is None or known[-1] is None
    follows = None
    if known is None:
        follows = None if owner is None else _what_it_follows(transaction, run, token)
        entry = _add(transaction, run, "cancel", "cancel", operation.reason, operation.now, None)
    else:
        entry = entry_from(known[:-1])
    if owner is None:
        is_held_up = transaction.execute(IS_HELD_UP, (run,)).fetchone() is not None
        if is_held_up:
            forget_refusals(transaction, run)
        if status is RunStatus.PENDING or (is_held_up and _has_done_nothing(transaction, run)):
            values = (operation.error, operation.now, transaction.change(), run)
            if update_run(transaction, CANCEL_UNBEGUN, values, run=run):
                tell_parent(transaction, run, operation.now)
        elif is_held_up:
            update_run(transaction, TRY_AGAIN, (operation.now, transaction.change(), run), run=run)
        elif status in WAITING and is_unread:
            update_run(transaction, WAKE, {"now": operation.now, "run": run}, run=run)
    return Sent(entry=entry, created=known is None, owner=owner, follows=follows)


def _has_done_nothing(transaction: Transaction, run: int) -> bool:
    """Return whether nothing of a run is to be undone or waited for; its arguments may be what does not fit."""
    return not transaction.execute(HAS_DONE, {"run": run}).fetchone()[0]


def tell_parent(transaction: Transaction, run: int, now: int) -> None:
    """Leave word of a run's end with its parent, if it has one that has not ended, and wake it if it sleeps."""
    found = transaction.execute(FIND_PARENT, (run,)).fetchone()
    if found is None:
        return
    parent, name, owner, problem, run_id, payload = found
    status = status_from(name)
    if status in FINAL:
        return
    _add(transaction, parent, "child", run_id, payload, now, None)
    if owner is None and status in WAITING and problem is None:
        update_run(transaction, WAKE, {"now": now, "run": parent}, run=parent)


def _add(
    transaction: Transaction, run: int, kind: str, name: str, payload: str, now: int, signal_id: str | None
) -> MailboxEntry:
    transaction.execute(ADD_ENTRY, (run, kind, name, payload, signal_id, now))
    entry = transaction.cursor.lastrowid
    assert entry is not None
    return MailboxEntry(id=entry, run=run, kind=kind, name=name, payload=payload, created_at=now, is_new=True)
