"""Mailboxes: signals, requests to cancel, and the ends of children."""

from __future__ import annotations

import json

import attrs

from durable_trio.errors import MailboxFull, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import MailboxEntry
from durable_trio.rules.run_life import LIFE, TAKES_CANCEL, TAKES_SIGNALS, RunEvent
from durable_trio.stores.contract import RequestCancel, SendSignal, Sent, SignalWithStart, Started
from tests.logstore.starts import start_run
from tests.logstore.state import Run, State, conflict, not_found

__all__ = ["last_unread", "request_cancel", "send_signal", "signal_with_start", "tell_parent"]


def send_signal(state: State, operation: SendSignal) -> Sent | RunNotFound | RunFinished | RunConflict | MailboxFull:
    """Put a signal into a run's mailbox, once for each id."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    for letter in run.mail.values() if operation.signal_id is not None else ():
        if letter.signal_id == operation.signal_id:
            if (letter.entry.name, letter.entry.payload) == (operation.name, operation.payload):
                return Sent(entry=letter.entry, created=False, owner=run.row.owner)
            return conflict(run, f"has another signal {operation.signal_id!r}; give a new signal a new id")
    if run.row.status not in TAKES_SIGNALS:
        return RunFinished(f"run {run.row.id!r} is {run.row.status}, and takes no more signals", run_id=run.row.id)
    if operation.unread_max is not None and not _has_room(run, operation.name, operation.unread_max):
        return _mailbox_full(run.row.id, operation.unread_max)
    sent = _post(state, run, "signal", operation.name, operation.payload, operation.now, operation.signal_id)
    if run.is_asleep and run.row.problem is None and operation.name in run.waits_for:
        state.wake(run, operation.now)
    return sent


def _has_room(run: Run, name: str, unread_max: int) -> bool:
    """Return whether one more signal may be unread: what a run waits for, and has none of, always may."""
    if sum(1 for _ in run.unread("signal")) < unread_max:
        return True
    return run.row.status is RunStatus.SUSPENDED and name in run.waits_for and not any(run.unread("signal", name))


def _mailbox_full(run_id: str, unread_max: int) -> MailboxFull:
    return MailboxFull(f"run {run_id!r} has {unread_max} unread signals: nothing was sent", run_id=run_id)


def signal_with_start(
    state: State, operation: SignalWithStart
) -> Started | RunNotFound | RunFinished | RunConflict | MailboxFull | ValueError:
    """Store a run and a signal to it: both or neither."""
    start, signal = operation.start, operation.signal
    if signal.run_id != start.id:
        return ValueError(f"the signal is for run {signal.run_id!r}, not for {start.id!r}, which is started")
    if start.id not in state.by_id and signal.unread_max is not None and signal.unread_max <= 0:
        return _mailbox_full(start.id, signal.unread_max)  # the only reason why a new run takes no signal
    started = start_run(state, attrs.evolve(start, owner=None))
    if not isinstance(started, Started):
        return started
    sent = send_signal(state, signal)
    if not isinstance(sent, Sent):
        return sent
    return attrs.evolve(started, row=state.row(state.by_id[start.id]))  # the signal may have woken it


def request_cancel(state: State, operation: RequestCancel) -> Sent | RunNotFound | None:
    """Ask a run to cancel; end it if it has not begun."""
    run = state.by_id.get(operation.run_id)
    if run is None:
        return not_found(operation.run_id)
    if run.row.status not in TAKES_CANCEL:
        return None
    known = next((letter for letter in run.mail.values() if letter.entry.kind == "cancel"), None)
    if known is None:
        sent = _post(state, run, "cancel", "cancel", operation.reason, operation.now, None)
    else:
        sent = Sent(entry=known.entry, created=False, owner=run.row.owner)
    if run.row.owner is not None:
        return sent
    is_held_up = run.is_held_up
    if is_held_up:  # a person's word: one more try for each code
        run.refused.clear()
        run.row.problem = None
    if run.row.status is RunStatus.PENDING or (is_held_up and _has_done_nothing(state, run)):
        _cancel_unbegun(state, run, operation)
    elif is_held_up:
        run.row.wake_at = operation.now
        state.touch(run)
    elif run.is_asleep and (known is None or known.is_unread):
        state.wake(run, operation.now)
    return sent


def _cancel_unbegun(state: State, run: Run, operation: RequestCancel) -> None:
    status = LIFE[RunEvent.CANCEL_UNBEGUN][run.row.status]
    assert status is not None
    run.row.status = status
    run.row.error = operation.error
    run.row.finished_at = operation.now
    run.row.wake_at = None
    run.waits_for = ()
    run.refused.clear()
    run.row.problem = None
    state.touch(run)
    tell_parent(state, run, operation.now)


def _has_done_nothing(state: State, run: Run) -> bool:
    return not (run.history or run.waits or any(not child.is_final for child in state.children_of(run.row.run)))


def tell_parent(state: State, run: Run, now: int) -> None:
    """Leave word of a run's end with its parent, if that has not ended, and wake it if it sleeps."""
    parent = state.runs.get(run.row.parent or 0)
    if parent is None or parent.is_final:
        return
    state.post(parent, "child", run.row.id, json.dumps(run.row.status), now, None)
    if parent.is_asleep and parent.row.problem is None:
        state.wake(parent, now)


def _post(state: State, run: Run, kind: str, name: str, payload: str, now: int, signal_id: str | None) -> Sent:
    follows = None
    if run.row.owner is not None:
        follows = (run.row.token, last_unread(run))
    entry = state.post(run, kind, name, payload, now, signal_id)
    return Sent(entry=entry, created=True, owner=run.row.owner, follows=follows)


def last_unread(run: Run, before: MailboxEntry | None = None) -> int:
    """Return the number of the last unread entry of a run, or of the last one before an entry; 0 if there is none."""
    found = (letter.entry.id for letter in run.unread() if before is None or letter.entry.id < before.id)
    return max(found, default=0)
