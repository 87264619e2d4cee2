"""Keeps what bodies raise in nurseries of trio's own from all that is around them: it is theirs alone."""

from __future__ import annotations

from typing import Final

import trio

from durable_trio.engine.runs.lending import LENDER
from durable_trio.failures import guard_nurseries, logged
from durable_trio.logger import Logger
from durable_trio.turns.quiet import BODY

__all__ = ["guard_bodies"]

_LOGGER: Final = Logger("durable_trio.runs")


def guard_bodies() -> None:
    """Have what bodies raise in nurseries of trio's own be theirs alone; for all of the process's time."""
    guard_nurseries(_is_of_run, _has_taken)


def _is_of_run(task: trio.lowlevel.Task) -> bool:
    """Return whether a task runs code of a run's: its body, a step, or what these have begun."""
    return LENDER in task.context


def _has_taken(nursery: trio.Nursery, task: trio.lowlevel.Task, error: BaseException) -> bool:
    """Have a run take what comes of a task that its body has put beside its own: around both are all other runs."""
    run = task.context.get(BODY)
    if run is None or not isinstance(error, Exception):
        return False
    own = run.lane.first
    if own is None or own is task or run.lane.is_guest or own.parent_nursery is not nursery:
        return False
    _LOGGER.error("a task that a run has started beside itself has failed", exc_info=logged(error))
    run.failed(error)
    return True
