"""The parent's side of worker processes. It supervises; it executes no runs and gives them no orders.

Workers are equals that meet in the store: each claims what is due and its share. So all the parent does is to start
them, to replace those that end, hang or are stopped, and to say at once when one is dead, so that the others can have
its runs without waiting for its lease.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import attrs
import trio

from durable_trio.errors import StoreFull, StoreInUse, WorkerFailed
from durable_trio.limits import WORKER_READY_SECONDS
from supervisors import (
    Backoff,
    ChildExited,
    ChildStarted,
    DynamicSupervisorSpec,
    EventsLost,
    ExitKind,
    Intensity,
    Process,
    ProcessError,
    Supervisor,
)

_LOGGER: Final = logging.getLogger("durable_trio.engine")
#: What the parent imports from; a worker must find the same modules, also those beside the script that was started.
PATH_VARIABLE: Final = "DURABLE_TRIO_WORKER_PATH"
#: How many workers there are to be, so that the first one there leaves the others their shares.
COUNT_VARIABLE: Final = "DURABLE_TRIO_WORKER_COUNT"
#: The tree's name of the supervisor of the workers.
WORKERS: Final = "workers"

# A worker that was well for a second comes back nearly at once; one that falls again and again comes back slower.
_BACKOFF: Final = Backoff(first=0.02, factor=2, longest=0.5, reset_after=1)
# Deaths by a signal are not the application's fault, and somebody may kill workers all day: this only stops a storm.
_RESTARTS_PER_WORKER: Final = 20
_RESTARTS_SECONDS: Final = 10.0
# A worker that ends by itself before this time has not served anybody.
_SERVED_SECONDS: Final = 1.0
# So often in a row may a worker end without having served.
_FALSE_STARTS_MAX: Final = 5
# A drained worker closes its store, and interpreters take their time.
_EXIT_SECONDS: Final = 5.0


@attrs.frozen(kw_only=True)
class Workers:
    """How many worker processes, of what, and their deadlines in seconds."""

    app: str
    count: int
    grace_seconds: float
    heartbeat_seconds: float

    def spec(self) -> DynamicSupervisorSpec:
        """Return the supervisor of the workers: independent, started and drained all at the same time."""
        return DynamicSupervisorSpec(
            intensity=Intensity(_RESTARTS_PER_WORKER * self.count, per=_RESTARTS_SECONDS),
            children=[self._process(f"worker-{number}") for number in range(1, self.count + 1)],
        )

    def _process(self, name: str) -> Process:
        return Process(
            name,
            [sys.executable, "-m", "durable_trio.workers", self.app],
            env={**os.environ, PATH_VARIABLE: os.pathsep.join(sys.path), COUNT_VARIABLE: str(self.count)},
            ready_within=WORKER_READY_SECONDS,
            heartbeat_within=self.heartbeat_seconds,
            shutdown=self.grace_seconds + _EXIT_SECONDS,
            backoff=_BACKOFF,
        )


class WorkerWatch:
    """The service that reacts to deaths of workers."""

    def __init__(
        self,
        root: Callable[[], Awaitable[Supervisor]],
        reap: Callable[[], Awaitable[object]],
        give_up: Callable[[WorkerFailed], None],
    ) -> None:
        self._root = root
        self._reap = reap
        self._give_up = give_up
        self._ready_at: dict[str, float] = {}
        self._false_starts: dict[str, int] = {}

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        task_status.started()
        events = (await self._root()).events()
        await self._reap_dead()  # of whom the last server of this file has left
        async for event in events:
            if isinstance(event, EventsLost):
                await self._reap_dead()
            elif isinstance(event, ChildStarted | ChildExited) and event.path[-2:-1] == (WORKERS,):
                if isinstance(event, ChildStarted):
                    self._ready_at[event.path[-1]] = event.at
                else:
                    await self._reap_dead()
                    self._count(event)
        await trio.sleep_forever()  # the tree has ended, and this task is about to be cancelled
        raise AssertionError("unreachable")

    async def _reap_dead(self) -> None:
        try:
            await self._reap()
        except (StoreFull, StoreInUse) as error:  # no fault of this process, and the workers look for themselves too
            _LOGGER.warning("a dead worker's runs could not be set free yet: %s", error)

    def _count(self, event: ChildExited) -> None:
        """Give up if a worker has ended by itself, again and again, without having served."""
        name, exit = event.path[-1], event.exit
        ready_at = self._ready_at.pop(name, None)
        has_served = ready_at is not None and event.at - ready_at >= _SERVED_SECONDS
        is_own_doing = exit.kind is not ExitKind.STOPPED and exit.process is not None and exit.process.is_fault
        if has_served or not is_own_doing:
            self._false_starts.pop(name, None)
            return
        count = self._false_starts[name] = self._false_starts.get(name, 0) + 1
        if count >= _FALSE_STARTS_MAX:
            why = last_line(exit.error) if exit.error is not None else str(exit)
            failed = WorkerFailed(f"{name} ended {count} times in a row as soon as it was started: {why}")
            failed.__cause__ = exit.error
            self._give_up(failed)


def first_failure(group: BaseExceptionGroup[BaseException]) -> WorkerFailed | None:
    """Return what to say if the workers could not be started at all, else ``None``."""
    error: BaseException | None = group.split(ProcessError)[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, ProcessError):
        return None
    return WorkerFailed(f"{error.name} could not be started: {last_line(error)}")


def last_line(error: BaseException) -> str:
    """Return the last line of what a worker has said, which is its error."""
    return str(error).rstrip().rsplit("\n", 1)[-1].strip()
