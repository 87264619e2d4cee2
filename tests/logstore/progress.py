"""What the owner of a run has to say: advance, release, park, finish."""

from __future__ import annotations

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.rules.run_life import BY_ADVANCE, BY_FINISH, BY_RELEASE, LIFE, WAITING, RunEvent, sources
from durable_trio.stores.contract import Advance, Finish, ParkDamaged, Release
from tests.logstore.messages import tell_parent
from tests.logstore.starts import store_run
from tests.logstore.state import Run, State, cannot_be, conflict

__all__ = ["advance", "finish", "park_damaged", "release"]


def advance(state: State, operation: Advance) -> bool | OwnershipLost | RunConflict:
    """Commit what a run's owner has to say: all of it, or nothing."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    if operation.unless_unread is not None and _has_come(run, *operation.unless_unread, operation.now):
        return False
    if operation.unless_cancelled and any(run.unread("cancel")):
        return False
    refusal = _refusal(state, run, operation)
    if refusal is not None:
        return refusal
    state.record(run, operation.rows)
    for child in operation.children:
        store_run(state, child, run.row.run)
    for key in operation.cleared:
        run.waits.pop(key, None)
    for wait in operation.waits:
        run.waits[wait.key] = wait
    for number, seq in operation.taken:
        run.mail[number].seq = seq
    for name, text in operation.published:
        run.values[name] = (text, operation.position)
    if operation.status is not None:
        run.row.status = operation.status
        run.row.wake_at = operation.wake_at if operation.status in WAITING else None
        run.waits_for = operation.waits_for if operation.status in WAITING else ()
    if operation.error is not None:
        run.row.error = operation.error
    if operation.published or operation.status is not None or operation.error is not None:
        state.touch(run)
    return True


def _has_come(run: Run, name: str, at: int, now: int) -> bool:
    """Return whether a signal has come by an instant, or claims to come from the future."""
    return any(letter.entry.created_at <= at or letter.entry.created_at > now for letter in run.unread("signal", name))


def _refusal(state: State, run: Run, operation: Advance) -> RunConflict | None:
    """Return why an advance cannot be committed."""
    keys = {row.key for row in operation.rows}
    if len(keys) < len(operation.rows) or not keys.isdisjoint(run.history):
        return conflict(run, "has one of these history rows already; nothing was written")
    ids = {child.id for child in operation.children}
    if len(ids) < len(operation.children) or not ids.isdisjoint(state.by_id):
        taken = next((child.id for child in operation.children if child.id in state.by_id), operation.children[0].id)
        return RunConflict(f"run {taken!r} is stored already; a child needs an id of its own", run_id=taken)
    numbers = [number for number, _ in operation.taken]
    if len(set(numbers)) < len(numbers) or not all(n in run.mail and run.mail[n].is_unread for n in numbers):
        return conflict(run, "has not all of these mailbox entries unread; nothing was written")
    if operation.status is not None and run.row.status not in sources(operation.status, BY_ADVANCE):
        return cannot_be(run, operation.status)
    return None


def release(state: State, operation: Release) -> bool | OwnershipLost | RunConflict:
    """Let a run go, unless something has come that it waits for. Watchers are told only of another status."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    waits = operation.status in WAITING
    if waits and any(_is_wanted(letter.entry.kind, letter.entry.name, operation) for letter in run.unread()):
        return False
    if run.row.status not in sources(operation.status, BY_RELEASE):
        return cannot_be(run, operation.status)
    run.row.owner = None
    run.row.wake_at = operation.wake_at
    run.waits_for = operation.waits_for if waits else ()
    if run.row.status is not operation.status:
        run.row.status = operation.status
        state.touch(run)
    return True


def _is_wanted(kind: str, name: str, operation: Release) -> bool:
    return kind != "signal" or name in operation.waits_for


def park_damaged(state: State, operation: ParkDamaged) -> bool | OwnershipLost:
    """Park a run that is damaged."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    status = LIFE[RunEvent.PARK][run.row.status]
    assert status is not None
    run.row.status = status
    run.row.owner = run.row.wake_at = None
    run.row.problem = operation.problem
    run.waits_for = ()
    run.refused.clear()
    state.touch(run)
    return True


def finish(state: State, operation: Finish) -> bool | OwnershipLost | RunConflict:
    """End a run."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    if operation.unless_cancelled and any(run.unread("cancel")):
        return False
    if run.row.status not in sources(operation.status, BY_FINISH):
        return cannot_be(run, operation.status)
    row = run.row
    row.status, row.result, row.error = operation.status, operation.result, operation.error
    row.compensation_errors, row.finished_at = operation.compensation_errors, operation.now
    row.owner = row.wake_at = None
    run.waits_for = ()
    run.waits.clear()
    run.refused.clear()
    state.touch(run)
    tell_parent(state, run, operation.now)
    return True
