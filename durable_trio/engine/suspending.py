"""Having an open engine rest: for a while it executes nothing, and owns nothing, so that others may go on.

The tree stays as it is. What the process is no more is an executor: its runs are drained and given back, and its
services find nothing to claim. It becomes another one when it goes on.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from durable_trio.engine.wiring import Executor, Services
from durable_trio.errors import StoreError
from durable_trio.stores.due_questions import FindNextDue

__all__ = ["resume", "suspend", "tidy"]


async def suspend(services: Services, executor: Executor, *, drain_seconds: float, leave_seconds: float) -> int | None:
    """Claim nothing any more, drain, and give back what is left; return when the next run is due, as it is stored.

    Args:
        drain_seconds: what steps in hand have to finish.
        leave_seconds: how long it is waited for steps that do not let themselves be interrupted.

    *Cancellation:* interrupts the steps in hand; ``resume`` has the engine go on with their runs.

    Raises:
        StoreError: the store cannot be written; nothing is lost, and others find this executor dead in time.
    """
    runs, recovery = executor.runs, executor.recovery
    try:
        await runs.drain(drain_seconds)
        with trio.move_on_after(leave_seconds):
            await runs.detach_all()
    finally:  # those that have been told to leave do not come back
        runs.detach_now()
        recovery.rest()
    codes = runs.served.all
    await recovery.retire(frozenset(runs.crashed))
    found = await services.writer.ask(FindNextDue(codes=codes, executors=(), now=executor.clock.stamp()))
    return found.at


async def tidy(services: Services, *, seconds: float) -> None:
    """Have the store put itself in order, if that is done in so many seconds: a process that rests may be killed."""
    with trio.move_on_after(seconds), suppress(StoreError):
        await services.writer.tidy()


def resume(executor: Executor) -> None:
    """Go on as another executor, as soon as the store can be written. Twice is nothing."""
    executor.runs.is_draining = False
    executor.recovery.go_on()
    executor.dispatcher.nudge()
