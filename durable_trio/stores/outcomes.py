"""Errors that operations have as their outcomes, in the words of every store."""

from __future__ import annotations

from durable_trio.errors import OwnershipLost, RunNotFound

__all__ = ["executor_ended", "run_not_found"]


def run_not_found(run_id: str) -> RunNotFound:
    """Return the error for an id that no run has."""
    return RunNotFound(f"there is no run {run_id!r}", run_id=run_id)


def executor_ended(executor: int) -> OwnershipLost:
    """Return the error for a claim by an executor that is no more."""
    return OwnershipLost(f"executor {executor} is not registered, or was declared dead; it claimed nothing")
