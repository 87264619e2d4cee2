"""What a filter of runs and an order imply, whatever they are asked of. Pure."""

from __future__ import annotations

import attrs

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.questions import Order, RunFilter

__all__ = ["narrowed"]


def narrowed(which: RunFilter, order: Order) -> RunFilter:
    """Return a filter with the statuses that runs can have which match it: an index may serve them."""
    possible = set(RunStatus if which.statuses is None else which.statuses)
    if which.is_parked or which.is_retrying or which.overdue_at is not None:
        possible &= UNFINISHED
    if order is Order.ENDED:
        possible &= FINAL
    if len(possible) == len(RunStatus):
        return which
    return attrs.evolve(which, statuses=tuple(status for status in RunStatus if status in possible))
