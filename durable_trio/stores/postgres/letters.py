"""What becomes of mailboxes: the part of ``decide`` about signals, requests to cancel, and the ends of children. Pure.

An entry gets its number while the run is locked, so the entries of a run come in the order of their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from durable_trio.errors import MailboxFull, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import MailboxEntry
from durable_trio.rules.run_life import LIFE, TAKES_CANCEL, TAKES_SIGNALS, WAITING, RunEvent
from durable_trio.stores.contract import RequestCancel, SendSignal, Sent
from durable_trio.stores.outcomes import has_ended, mailbox_full, run_not_found, signal_conflict
from durable_trio.stores.postgres.known import Changes, Facts, Letter, RacedError, Run

__all__ = [
    "has_cancel",
    "is_unread",
    "is_wanted",
    "request_cancel",
    "send_signal",
    "take",
    "tell_parent",
]


def is_unread(facts: Facts, run: Run, name: str, at: int, now: int) -> bool:
    """Return whether a signal is unread that was sent by ``at``, or that claims to be later than ``now``."""
    return any(
        letter.kind == "signal" and letter.name == name and (letter.created_at <= at or letter.created_at > now)
        for letter in facts.unread.get(run.run, {}).values()
    )


def has_cancel(facts: Facts, run: Run) -> bool:
    """Return whether a request to cancel is unread."""
    return any(letter.kind == "cancel" for letter in facts.unread.get(run.run, {}).values())


def is_wanted(facts: Facts, run: Run, names: Collection[str]) -> bool:
    """Return whether anything is unread that a run waits for: a signal of these names, or what is no signal."""
    return any(letter.kind != "signal" or letter.name in names for letter in facts.unread.get(run.run, {}).values())


def take(facts: Facts, run: Run, entry: int) -> None:
    """Have an entry be read."""
    letter = facts.unread[run.run].pop(entry)
    if letter.kind == "signal" and run.run in facts.unread_counts:
        facts.unread_counts[run.run] -= 1


def send_signal(
    facts: Facts, changes: Changes, operation: SendSignal
) -> Sent | RunNotFound | RunFinished | RunConflict | MailboxFull:
    """Put a signal into a run's mailbox (see ``SendSignal``)."""
    run = _receiver(facts, operation.run_id)
    if run is None:
        return run_not_found(operation.run_id)
    if operation.signal_id is not None:
        entry = facts.signals.get((run.run, operation.signal_id))
        if entry is not None:
            if (entry.name, entry.payload) == (operation.name, operation.payload):
                return Sent(entry=entry, created=False, owner=run.owner)
            return signal_conflict(operation)
    if run.status not in TAKES_SIGNALS:
        return has_ended(operation.run_id, run.status)
    if operation.unread_max is not None and not _has_room(facts, run, operation.name, operation.unread_max):
        return mailbox_full(operation.run_id, operation.unread_max)
    follows = _what_it_follows(facts, run)
    entry = _post(
        facts, changes, run, "signal", operation.name, operation.payload, operation.now, signal_id=operation.signal_id
    )
    if run.owner is None and run.status in WAITING and run.problem is None and operation.name in run.waits_for:
        run.wake(operation.now)
    return Sent(entry=entry, created=True, owner=run.owner, follows=follows)


def request_cancel(facts: Facts, changes: Changes, operation: RequestCancel) -> Sent | RunNotFound | None:
    """Ask a run to cancel (see ``RequestCancel``)."""
    run = _receiver(facts, operation.run_id)
    if run is None:
        return run_not_found(operation.run_id)
    if run.status not in TAKES_CANCEL:
        return None
    number, now = run.run, operation.now
    known = facts.cancels.get(number)
    follows = None
    if known is None:
        follows = _what_it_follows(facts, run)
        entry = _post(facts, changes, run, "cancel", "cancel", operation.reason, now)
        facts.cancels[number] = entry
    else:
        entry = known
    if run.owner is None:
        is_held_up = run.is_held_up
        if is_held_up:
            changes.unrefused.append(number)
        if run.status is RunStatus.PENDING or (is_held_up and not _has_begun(facts, run)):
            status = LIFE[RunEvent.CANCEL_UNBEGUN].get(run.status)
            if status is not None:
                run.end(status, error=operation.error, now=now)
                tell_parent(facts, changes, run, now)
        elif is_held_up:
            run.problem, run.refused = None, ""
            run.wake_at, run.is_due = now, True
            run.touch()
        elif run.status in WAITING and entry.id in facts.unread.get(number, ()):
            run.wake(now)
    return Sent(entry=entry, created=known is None, owner=run.owner, follows=follows)


def tell_parent(facts: Facts, changes: Changes, run: Run, now: int) -> None:
    """Leave word of a run's end with its parent, if it has one that has not ended, and wake it if it sleeps."""
    if run.parent is None:
        return
    facts.open_children.get(run.parent, set()).discard(run.run)
    parent = facts.runs.get(run.parent)
    if parent is None or parent.is_final:
        return
    if not parent.is_locked:
        raise RacedError(f"run {parent.id!r} has got a child at the same moment")
    _post(facts, changes, parent, "child", run.id, json.dumps(run.status.value), now)
    if parent.owner is None and parent.status in WAITING and parent.problem is None:
        parent.wake(now)


def _receiver(facts: Facts, run_id: str) -> Run | None:
    run = facts.by_id.get(run_id)
    if run is not None and not run.is_locked:
        raise RacedError(f"run {run_id!r} was stored at the same moment")
    return run


def _has_room(facts: Facts, run: Run, name: str, unread_max: int) -> bool:
    """Return whether one more signal may be unread; what a run waits for, and has none of, always may."""
    if facts.unread_counts.get(run.run, 0) < unread_max:
        return True
    if run.status not in WAITING or name not in run.waits_for:
        return False
    return all(letter.kind != "signal" or letter.name != name for letter in facts.unread.get(run.run, {}).values())


def _has_begun(facts: Facts, run: Run) -> bool:
    """Return whether something of a run is to be undone or waited for."""
    return run.run in facts.begun or bool(facts.open_children.get(run.run))


def _what_it_follows(facts: Facts, run: Run) -> tuple[int, int] | None:
    """Return behind what the next entry comes (see ``Sent.follows``)."""
    if run.owner is None:
        return None
    return run.token, max(facts.unread.get(run.run, ()), default=0)


def _post(
    facts: Facts,
    changes: Changes,
    run: Run,
    kind: str,
    name: str,
    payload: str,
    now: int,
    *,
    signal_id: str | None = None,
) -> MailboxEntry:
    number = run.run
    entry = MailboxEntry(
        id=facts.numbers.pop(), run=number, kind=kind, name=name, payload=payload, created_at=now, is_new=True
    )
    facts.unread.setdefault(number, {})[entry.id] = Letter(kind, name, now)
    if kind == "signal":
        facts.unread_counts[number] = facts.unread_counts.get(number, 0) + 1
        if signal_id is not None:
            facts.signals[number, signal_id] = entry
    changes.sent.append((entry, signal_id))
    return entry
