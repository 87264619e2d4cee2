"""Errors that operations have as their outcomes, in the words of every store."""

from __future__ import annotations

from collections.abc import Sequence

from durable_trio.errors import MailboxFull, OwnershipLost, RunConflict, RunFinished, RunNotFound, StoreError
from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.run_life import CLAIMABLE
from durable_trio.stores.operations import Fence, SendSignal, SignalWithStart, StartRun
from durable_trio.stores.piece_operations import ForkRun

__all__ = [
    "RefusalError",
    "already_ended",
    "cannot_be_deleted",
    "cannot_be_removed",
    "cannot_become",
    "changed_meanwhile",
    "child_is_lost",
    "child_is_there",
    "copy_id_is_taken",
    "entry_is_taken",
    "executor_ended",
    "fence_lost",
    "has_ended",
    "has_row",
    "is_damaged",
    "is_executed",
    "left_out",
    "mailbox_full",
    "no_such_row",
    "not_resumable",
    "of_other_code",
    "original_changed",
    "parent_not_found",
    "parked_as_damaged",
    "run_conflict",
    "run_not_found",
    "signal_conflict",
    "signal_to_another",
    "start_conflict",
    "why_not_claimed",
]


class RefusalError(Exception):
    """An operation is refused after it may have written something; ``outcome`` is the error that it gives."""

    def __init__(self, outcome: Exception) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


def run_not_found(run_id: str) -> RunNotFound:
    """Return the error for an id that no run has."""
    return RunNotFound(f"there is no run {run_id!r}", run_id=run_id)


def is_damaged(run_id: str, damage: str) -> RunConflict:
    """Return the error for a run that cannot be read."""
    return RunConflict(damaged(run_id, damage).text, run_id=run_id)


def cannot_become(run: int, word: str, status: RunStatus) -> RunConflict:
    """Return the error for a status that may not follow the one which the run has."""
    return RunConflict(f"run {run} is {word} and cannot become {status} by that; nothing was written")


def executor_ended(executor: int) -> OwnershipLost:
    """Return the error for a claim by an executor that is no more."""
    return OwnershipLost(f"executor {executor} is not registered, or was declared dead; it claimed nothing")


def why_not_claimed(
    run_id: str, workflows: Sequence[str], workflow: str, status: RunStatus, word: str, owner: int | None
) -> RunConflict | RunFinished | None:
    """Return the error for a run that cannot be claimed by its id, whoever has refused it.

    Args:
        workflows: those of which there is any code.
        word: the status as it is stored.
    """
    if workflow not in workflows:
        names = ", ".join(map(repr, workflows))
        return RunConflict(f"run {run_id!r} is of workflow {workflow!r}, not {names}", run_id=run_id)
    if status not in CLAIMABLE:
        return RunFinished(f"run {run_id!r} is {word}", run_id=run_id)
    if owner is not None:
        return RunConflict(f"run {run_id!r} is held by executor {owner}, which is alive", run_id=run_id)
    return None


def parked_as_damaged(run_id: str) -> RunConflict:
    """Return the error for a claim of a run that nobody has asked for since it was parked."""
    return RunConflict(f"run {run_id!r} is parked as damaged; only somebody's word lets it go on", run_id=run_id)


def of_other_code(run_id: str, workflow: str) -> RunConflict:
    """Return the error for a claim by an executor that has no code for the run."""
    return RunConflict(f"run {run_id!r} is of another version of {workflow!r}, or was refused", run_id=run_id)


def fence_lost(fence: Fence, found: tuple[str, int | None, int] | None) -> OwnershipLost:
    """Return the error for a fence that does not hold, given id, owner and token of the run, if it is stored."""
    if found is None:
        return OwnershipLost(f"run {fence.run} is not stored any more; executor {fence.owner} wrote nothing")
    run_id, owner, token = found
    holder = f"nobody owns it after claim {token}" if owner is None else f"executor {owner} owns it by claim {token}"
    return OwnershipLost(
        f"run {run_id!r} is not owned by executor {fence.owner} by claim {fence.token}: {holder}; nothing was written"
    )


def start_conflict(operation: StartRun, workflow: str) -> RunConflict:
    """Return the error for a start whose id is that of another run, of this workflow."""
    what = "with other arguments" if workflow == operation.workflow else f"of workflow {workflow!r}"
    return RunConflict(
        f"run {operation.id!r} is stored already {what}; choose another id, or start it as it was started then",
        run_id=operation.id,
    )


def parent_not_found(operation: StartRun) -> RunNotFound:
    """Return the error for a start by a run that is not there."""
    return RunNotFound(f"run {operation.parent}, the parent of {operation.id!r}, is not stored any more")


def child_is_there(run_id: str) -> RunConflict:
    """Return the error for a child whose id is taken."""
    return RunConflict(f"run {run_id!r} is stored already; a child needs an id of its own", run_id=run_id)


def child_is_lost(run_id: str) -> StoreError:
    """Return the error for a child that its parent has started before, as its history should know."""
    return StoreError(f"the run has started its child {run_id!r} before, and its history does not know of it")


def has_row(run: int, key: Key) -> RunConflict:
    """Return the error for a history row that is there."""
    return RunConflict(f"run {run} has a history row {str(key)!r} already; nothing was written")


def entry_is_taken(entry: int, run: int) -> RunConflict:
    """Return the error for a mailbox entry that is not there, or was taken."""
    return RunConflict(f"mailbox entry {entry} of run {run} is not unread; nothing was written")


def signal_conflict(operation: SendSignal) -> RunConflict:
    """Return the error for a signal whose id is that of another."""
    return RunConflict(
        f"signal {operation.signal_id!r} was sent to run {operation.run_id!r} with another name or payload; "
        "give a new signal a new id",
        run_id=operation.run_id,
    )


def has_ended(run_id: str, status: str) -> RunFinished:
    """Return the error for a signal that comes too late."""
    return RunFinished(f"run {run_id!r} is {status} and takes no more signals", run_id=run_id)


def mailbox_full(run_id: str, unread_max: int) -> MailboxFull:
    """Return the error for a signal for which there is no room."""
    return MailboxFull(
        f"run {run_id!r} has {unread_max} unread signals, as many as a run may have: nothing was sent; "
        "send again once it has taken some, or cancel it if it never will",
        run_id=run_id,
    )


def signal_to_another(operation: SignalWithStart) -> ValueError:
    """Return the error for a signal that is not for the run that is started."""
    return ValueError(
        f"the signal is for run {operation.signal.run_id!r}, not for {operation.start.id!r}, which is started"
    )


def left_out(error: Exception, hint: str = "") -> StoreError:
    """Return the outcome of an operation that the database refuses."""
    refusal = StoreError(f"the operation cannot be stored and was left out: {error}{hint}")
    refusal.__cause__ = error
    return refusal


def changed_meanwhile(row: RunRow) -> RunConflict:
    """Return the error for a run that is not as its caller has seen it."""
    return run_conflict(row, "was changed while it was being resumed; look at it, and try again")


def not_resumable(row: RunRow) -> RunConflict:
    """Return the error for a run that goes on by itself, or has completed."""
    return run_conflict(
        row, f"is {row.status} without a problem; only parked, failed and cancelled runs can be resumed"
    )


def is_executed(row: RunRow) -> RunConflict:
    """Return the error for another version of a run that somebody has."""
    return run_conflict(row, f"is executed as version {row.version}, and keeps it; cancel it, or wait until it rests")


def no_such_row(operation: ForkRun) -> ValueError:
    """Return the error for a copy up to a row that is not there."""
    return ValueError(f"run {operation.run_id!r} has no history row {str(operation.before)!r}")


def copy_id_is_taken(operation: ForkRun) -> RunConflict:
    """Return the error for a copy whose id is that of another run."""
    return RunConflict(f"run {operation.id!r} is stored already; give the copy another id", run_id=operation.id)


def original_changed(run_id: str) -> RunConflict:
    """Return the error for a copy that would be of two histories, or that was given up."""
    text = f"run {run_id!r} was changed while it was being copied, or the copying has stood still; try again"
    return RunConflict(text, run_id=run_id)


def already_ended(row: RunRow) -> RunFinished:
    """Return the error for a run that need not be ended any more."""
    return RunFinished(f"run {row.id!r} had already ended: {row.status}", run_id=row.id)


def cannot_be_deleted(row: RunRow) -> RunConflict:
    """Return the error for the removal of a run that goes on."""
    return run_conflict(row, f"is {row.status}; only runs that have ended can be deleted: cancel it first")


def cannot_be_removed(run_id: str, why: str) -> RunConflict:
    """Return the error for the removal of a run to which others have tied something."""
    return RunConflict(f"run {run_id!r} cannot be removed: {why}", run_id=run_id)


def run_conflict(row: RunRow, what: str) -> RunConflict:
    """Return the error for a run of which something is said."""
    return RunConflict(f"run {row.id!r} {what}", run_id=row.id)
