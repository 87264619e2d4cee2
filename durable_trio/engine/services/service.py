"""What the services have in common: a fault of what others call of them restarts them, as one of their own task does.

A lost nudge would be missed for ever: nobody looks again without one. A service that is started again looks at the
store for what it has missed. So it is crashed when a call from outside has failed, which the caller never notices.
"""

from __future__ import annotations

import abc
from typing import NoReturn

import trio


class Service(abc.ABC):
    """A part of the engine that a task serves, under a supervisor that starts it again."""

    _scope: trio.CancelScope | None = None
    _fault: BaseException | None = None

    @abc.abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""

    def failed(self, error: BaseException) -> None:
        """Something that others called of it has failed: crash, to be started again."""
        self._fault = error
        if self._scope is not None:
            self._scope.cancel("a call of this service has failed")

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the service's task until cancelled, or until a call from outside has failed; then raise that fault."""
        self._fault = None  # whatever it was: a service that starts looks at everything
        with trio.CancelScope() as self._scope:
            await self.run(task_status=task_status)
        if self._fault is not None:
            raise self._fault
