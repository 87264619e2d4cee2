"""What comes of operations, given the facts: outcomes, and what is to be written. Pure: no statement, no clock.

Operations are taken in their order. Each looks at what is known, is refused or changes it, and notes what is to be
written; several of one run become one change of its row. What is refused has changed nothing, so every reason for it
comes before the first change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from durable_trio.errors import OwnershipLost, RunConflict, StoreError
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import RunRow
from durable_trio.rules.run_life import BY_ADVANCE, BY_FINISH, BY_RELEASE, WAITING, sources
from durable_trio.stores.contract import (
    Advance,
    Fence,
    Finish,
    Release,
    RenewLease,
    RequestCancel,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    StartRun,
)
from durable_trio.stores.new_runs import new_run
from durable_trio.stores.outcomes import (
    cannot_become,
    child_is_lost,
    child_is_there,
    entry_is_taken,
    fence_lost,
    has_row,
    parent_not_found,
    signal_to_another,
    start_conflict,
)
from durable_trio.stores.postgres.known import Changes, Facts, NotTogetherError, RacedError, Run
from durable_trio.stores.postgres.letters import (
    has_cancel,
    is_unread,
    is_wanted,
    request_cancel,
    send_signal,
    take,
    tell_parent,
)

__all__ = ["decide"]

_BY_ADVANCE: Final = {after: sources(after, BY_ADVANCE) for after in RunStatus}
_BY_RELEASE: Final = {after: sources(after, BY_RELEASE) for after in RunStatus}
_BY_FINISH: Final = {after: sources(after, BY_FINISH) for after in RunStatus}


def decide(facts: Facts, operations: Iterable[Any]) -> tuple[list[Any], Changes]:
    """Return an outcome for each operation, and what is to be written. The facts are not those of now any more then.

    Raises:
        NotTogetherError, RacedError: nothing is decided.
    """
    changes = Changes()
    outcomes = [_HANDLERS[type(operation)](facts, changes, operation) for operation in operations]
    changes.runs = [run for run in facts.runs.values() if run.is_changed]
    changes.unwanted = [added.run for added in facts.added.values() if not added.is_used]
    return outcomes, changes


def _owned(facts: Facts, fence: Fence) -> Run | None:
    """Return the run of a fence that holds."""
    run = facts.runs.get(fence.run)
    if run is None or run.owner != fence.owner or run.token != fence.token or fence.owner not in facts.living:
        return None
    return run


def _lost(facts: Facts, fence: Fence) -> OwnershipLost:
    run = facts.runs.get(fence.run)
    return fence_lost(fence, None if run is None else (run.id, run.owner, run.token))


# ---- starting ----------------------------------------------------------------------------------------------------


def _start(facts: Facts, changes: Changes, operation: StartRun) -> Any:
    run = facts.by_id.get(operation.id)
    if run is not None:
        row = _row_of(facts, run)
        if row.workflow == operation.workflow and facts.digests[run.run] == operation.args_digest:
            return Started(row=row, created=False, claimed=False)
        return start_conflict(operation, row.workflow)
    if operation.parent is not None and operation.parent not in facts.runs:
        return parent_not_found(operation)
    run = _begin(facts, operation)
    return Started(row=facts.rows[run.run], created=True, claimed=run.owner is not None)


def _row_of(facts: Facts, run: Run) -> RunRow:
    row = facts.rows.get(run.run)
    if row is None:
        raise RacedError(f"run {run.id!r} was stored at the same moment")
    return run.take_from(row) if run.is_changed else row


def _begin(facts: Facts, operation: StartRun) -> Run:
    """Have a run begin that was inserted for this operation."""
    if facts.starts[operation.id] is not operation:
        raise NotTogetherError  # another one came first, and was refused
    added = facts.added.get(operation.id)
    if added is None:
        raise RacedError(f"run {operation.id!r} was stored at the same moment")
    added.is_used = True
    row = facts.rows[added.run] = new_run(
        operation,
        run=added.run,
        owner=added.owner,
        parent=added.parent,
        parent_id=added.parent_id,
        changed=added.changed,
    )
    facts.digests[added.run] = operation.args_digest
    run = facts.runs[added.run] = facts.by_id[operation.id] = Run(
        added.run,
        operation.id,
        row.owner,
        row.token,
        is_locked=True,
        status=row.status,
        wake_at=row.wake_at,
        is_due=row.wake_at is not None and row.wake_at <= operation.created_at,
        parent=row.parent,
        changed=row.changed,
        now=row.changed,
    )
    if added.parent is not None:
        facts.open_children.setdefault(added.parent, set()).add(added.run)
    return run


def _start_and_send(facts: Facts, changes: Changes, operation: SignalWithStart) -> Any:
    """Store a run and a signal to it, both or neither."""
    if operation.signal.run_id != operation.start.id:
        return signal_to_another(operation)
    started = _start(facts, changes, operation.start)
    if not isinstance(started, Started):
        return started
    run = facts.by_id[operation.start.id]
    sent = send_signal(facts, changes, operation.signal)
    if not isinstance(sent, Sent):
        if started.created:
            _take_back(facts, run)
        return sent
    return started if started.created else attrs.evolve(started, row=_row_of(facts, run))  # which it may have woken


def _take_back(facts: Facts, run: Run) -> None:
    """Have a run that has just begun never have been there."""
    facts.added[run.id].is_used = False
    del facts.by_id[run.id], facts.runs[run.run]
    if run.parent is not None:
        facts.open_children[run.parent].discard(run.run)


# ---- what the owner says -----------------------------------------------------------------------------------------


def _advance(facts: Facts, changes: Changes, operation: Advance) -> Any:
    fence = operation.fence
    run = _owned(facts, fence)
    if run is None:
        return _lost(facts, fence)
    if operation.unless_unread is not None:
        name, at = operation.unless_unread
        if is_unread(facts, run, name, at, operation.now):
            return False
    if operation.unless_cancelled and has_cancel(facts, run):
        return False
    refusal = _refusal(facts, run, operation)
    if refusal is not None:
        return refusal
    number = run.run
    for row in operation.rows:
        facts.history.add((number, row.key))
        changes.history.append((number, row))
    for child in operation.children:
        _begin(facts, child)
    for key in operation.cleared:
        changes.waits[number, key] = None
    for wait in operation.waits:
        changes.waits[number, wait.key] = wait
    if operation.rows or operation.waits:
        facts.begun.add(number)
    for entry, seq in operation.taken:
        take(facts, run, entry)
        changes.taken.append((entry, seq))
    if operation.published or operation.status is not None or operation.error is not None:
        _change_run(changes, run, operation)
    return True


def _refusal(facts: Facts, run: Run, operation: Advance) -> RunConflict | StoreError | None:
    """Return why an advance cannot be committed."""
    number = run.run
    history = facts.history
    new = set()
    for row in operation.rows:
        place = number, row.key
        if place in history or place in new:
            return has_row(number, row.key)
        new.add(place)
    if operation.children:
        refusal = _refusal_of_children(facts, run, operation)
        if refusal is not None:
            return refusal
    unread = facts.unread.get(number, {})
    taken = set()
    for entry, _ in operation.taken:
        if entry not in unread or entry in taken:
            return entry_is_taken(entry, number)
        taken.add(entry)
    status = operation.status
    if status is not None and run.status not in _BY_ADVANCE[status]:
        return cannot_become(number, run.status, status)
    return None


def _refusal_of_children(facts: Facts, run: Run, operation: Advance) -> RunConflict | StoreError | None:
    ids = set()
    for child in operation.children:
        if child.id in facts.by_id or child.id in ids:
            is_called = any(row.kind is StepKind.CHILD for row in operation.rows)
            is_once = [each.id for each in operation.children].count(child.id) == 1
            if is_called and is_once and child.id in facts.lost_children:
                return child_is_lost(child.id)
            return child_is_there(child.id)
        ids.add(child.id)
    return None


def _change_run(changes: Changes, run: Run, operation: Advance) -> None:
    for key, value in operation.published:
        changes.published[run.run, key] = (value, *operation.position)
    status = operation.status
    if status is not None:
        run.status = status
        run.wake_at = operation.wake_at if status in WAITING else None
        run.waits_for = operation.waits_for if status in WAITING else ()
    if operation.error is not None:
        run.error = operation.error
    run.touch()


def _release(facts: Facts, changes: Changes, operation: Release) -> Any:
    run = _owned(facts, operation.fence)
    if run is None:
        return _lost(facts, operation.fence)
    status = operation.status
    is_waiting = status in WAITING
    if is_waiting and is_wanted(facts, run, operation.waits_for):
        return False
    if run.status not in _BY_RELEASE[status]:
        return cannot_become(run.run, run.status, status)
    run.owner = None
    run.wake_at = operation.wake_at
    run.waits_for = operation.waits_for if is_waiting else ()
    run.is_changed = True
    if run.status is not status:
        run.status = status
        run.touch()
    return True


def _finish(facts: Facts, changes: Changes, operation: Finish) -> Any:
    run = _owned(facts, operation.fence)
    if run is None:
        return _lost(facts, operation.fence)
    if operation.unless_cancelled and has_cancel(facts, run):
        return False
    if run.status not in _BY_FINISH[operation.status]:
        return cannot_become(run.run, run.status, operation.status)
    run.end(operation.status, error=operation.error, now=operation.now)
    run.result = operation.result
    run.compensation_errors = operation.compensation_errors
    if run.refused:
        changes.unrefused.append(run.run)
    changes.over.append(run.run)
    tell_parent(facts, changes, run, operation.now)
    return True


def _renew(facts: Facts, changes: Changes, operation: RenewLease) -> bool:
    if operation.executor not in facts.living:
        return False
    changes.renewals[operation.executor] = changes.renewals.get(operation.executor, 0) + 1
    return True


_HANDLERS: Final[dict[type, Callable[[Facts, Changes, Any], Any]]] = {
    StartRun: _start,
    SignalWithStart: _start_and_send,
    Advance: _advance,
    Release: _release,
    Finish: _finish,
    RenewLease: _renew,
    SendSignal: send_signal,
    RequestCancel: request_cancel,
}
