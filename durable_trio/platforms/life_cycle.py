"""Being put to sleep and woken up by the platform, as a telephone does with a program in the background."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import trio

from durable_trio.clock import seconds_of, to_datetime
from durable_trio.engine import suspending
from durable_trio.engine.engine import Engine
from durable_trio.engine.wiring import Executor, Services
from durable_trio.platforms.wake_ups import NoWakeUp, WakeUp

__all__ = ["LifeCycle"]

# Of the time that is given, what is left for giving the runs back and for asking for a wake-up.
_CLOSING_SECONDS: Final = 0.5


class LifeCycle:
    """Binds an open engine to the life of the program around it: ``suspend`` when that is to stand still, ``resume``.

    In between the engine stays open. Clients of it go on; it executes nothing, and owns nothing, so that others may.
    A platform that says nothing beforehand, as where the lid of a laptop is closed, needs none of this: that the
    machine has slept is noticed when it wakes up.

    Args:
        engine: one that executes runs, by ``serve`` or ``open_engine``, in this process.
        wake_up: who is asked to start the program when the next run is due; default nobody.
    """

    def __init__(self, engine: Engine, *, wake_up: WakeUp | None = None) -> None:
        self._client = engine._client
        self._wake_up = NoWakeUp() if wake_up is None else wake_up
        self._one_at_a_time = trio.Lock()
        self._draining = trio.CancelScope()
        #: Whether the engine rests.
        self.is_suspended = False

    async def suspend(self, deadline: float | timedelta) -> datetime | None:
        """Claim nothing any more, let steps in hand finish, give all runs back, and ask to be woken up.

        Steps that have not finished half a second before the deadline are interrupted, and begun again by whoever goes
        on with their runs.

        Args:
            deadline: seconds from now in which it must be done; a platform gives some five.

        Returns:
            When the next run is due, in UTC, which may be past; ``None``: none by itself, or ``resume`` was called
            meanwhile. Suspended already, it says so again.

        *Cancellation:* the engine goes on; steps in hand are interrupted, and begun again.
        *Durability:* once it returns, the process may be killed, and nothing has to be taken over from it.

        Raises:
            RuntimeError: the engine executes nothing in this process, or is not open.
            WakeUpFailed: it could not be asked to be woken up. The engine rests all the same.
            StoreError: the store cannot be written; the engine goes on.
        """
        ends_at = trio.current_time() + seconds_of(deadline, what="deadline")
        services, executor = self._executor()
        async with self._one_at_a_time:
            due = None
            has_rested = False
            with trio.CancelScope() as self._draining:
                try:
                    left = max(0.0, ends_at - trio.current_time() - _CLOSING_SECONDS)
                    due = await suspending.suspend(
                        services, executor, drain_seconds=left, leave_seconds=_CLOSING_SECONDS / 2
                    )
                    self.is_suspended = has_rested = True
                finally:
                    if not has_rested:  # cancelled by anybody, or it could not be written
                        suspending.resume(executor)
            if not has_rested:
                self.is_suspended = False
                return None
            next_due = None if due is None else to_datetime(due)
            if next_due is not None:
                await self._wake_up.schedule(next_due)
            await suspending.tidy(services, seconds=max(0.0, ends_at - trio.current_time()))
            return next_due

    async def resume(self) -> None:
        """Execute runs again. Where nothing was suspended, nothing happens.

        *Cancellation:* a cancel point before anything happens.

        Raises:
            RuntimeError: the engine executes nothing in this process, or is not open.
        """
        _, executor = self._executor()
        self._draining.cancel("the program goes on")
        async with self._one_at_a_time:
            self.is_suspended = False
            suspending.resume(executor)

    def _executor(self) -> tuple[Services, Executor]:
        services = self._client.services_in_use()
        if services.executor is None:
            raise RuntimeError(
                "this engine executes nothing in this process, so there is nothing to suspend: it is a client, or its "
                "workers do, which are stopped instead"
            )
        return services, services.executor
