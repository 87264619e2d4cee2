"""Errors that operations have as their outcomes, in the words of every store."""

from __future__ import annotations

from collections.abc import Sequence

from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rules.damage import damaged
from durable_trio.rules.run_life import CLAIMABLE

__all__ = [
    "cannot_become",
    "executor_ended",
    "is_damaged",
    "of_other_code",
    "parked_as_damaged",
    "run_not_found",
    "why_not_claimed",
]


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
