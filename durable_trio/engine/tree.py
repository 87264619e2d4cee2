"""The engine's supervision tree, as data, and how it is opened and drained.

    engine  rest_for_one
    ├─ store       the store's writer; when it crashes, all runs leave, and are taken over under the next executor id
    ├─ runs        one actor per resident run
    └─ services    one_for_one
       └─ timers · recovery · feed · dispatcher · janitor · reports

A client has the store and the feed alone. With ``workers=N`` the parent executes nothing, and its tree is

    engine  one_for_one
    ├─ client      rest_for_one: store · feed
    ├─ watch       has a dead worker's runs set free at once
    ├─ reports
    ├─ workers     N processes, each with the first tree; started, and drained, at the same time
    └─ reloads     replaces them, one at a time; where the process is nothing but their parent

Children start in this order and stop in reverse. A service that crashes is started again and looks at the store for
what it has missed; those who wait for it go on waiting, or get an error. Too many crashes, and the engine ends with an
``ExceptionGroup`` that names the child.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from durable_trio.doors import guarded
from durable_trio.engine.services.recovery import Reaper
from durable_trio.engine.wiring import Executor, Services
from durable_trio.engine.workers.parent import WORKERS, Workers, WorkerWatch, first_failure
from durable_trio.engine.workers.probe import probe
from durable_trio.engine.workers.rehearsing import rehearse
from durable_trio.engine.workers.reloads import Reloads
from durable_trio.errors import StoreError
from durable_trio.logger import Logger
from supervisors import (
    Backoff,
    Child,
    Intensity,
    RestartIntensityExceeded,
    Strategy,
    Supervisor,
    SupervisorSpec,
    UnstoppedChild,
    open_supervisor,
)
from supervisors.groups import first, sole

_LOGGER = Logger("durable_trio.processes")

# A fault that comes back at once has come back four times after a third of a second; then all services are tried anew
# twice, and after one to two seconds the engine gives up. A fault that comes once a minute is lived with.
SERVICE_RESTARTS: Final = Intensity(3, per=5)
ENGINE_RESTARTS: Final = Intensity(2, per=10)
SOON: Final = Backoff(first=0.02, factor=3, longest=1, reset_after=5)
# Where the group begins in which an engine's own failure comes.
FAILED: Final = "the engine has failed"
# A body that is detached may have a sync step function that must end first.
LEAVE_SECONDS: Final = 30.0
# The store is in a hurry when it is to end (5 s in all); a statement under way may wait for another program (5 s).
STORE_LEAVES_SECONDS: Final = 45.0


def service_specs(services: Services, executor: Executor) -> SupervisorSpec:
    """Return the services of an executor, each of which can be restarted alone."""
    return SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE,
        intensity=SERVICE_RESTARTS,
        children=[
            Child("timers", executor.timers.serve, backoff=SOON),
            Child("recovery", executor.recovery.serve, backoff=SOON),
            Child("feed", services.feed.serve, backoff=SOON),
            Child("dispatcher", executor.dispatcher.serve, backoff=SOON),
            Child("janitor", executor.janitor.run, backoff=SOON),
            Child("reports", services.reports.run, backoff=SOON, shutdown=math.inf),
        ],
    )


def executor_spec(services: Services, executor: Executor) -> SupervisorSpec:
    """Return the tree of an engine that executes runs."""
    return SupervisorSpec(
        strategy=Strategy.REST_FOR_ONE,
        intensity=ENGINE_RESTARTS,
        children=[
            Child("store", services.run_store, backoff=SOON, shutdown=STORE_LEAVES_SECONDS),
            Child("runs", executor.run_runs, shutdown=LEAVE_SECONDS),
            Child("services", service_specs(services, executor)),
        ],
    )


def client_spec(services: Services) -> SupervisorSpec:
    """Return the tree of an engine that executes nothing."""
    return SupervisorSpec(
        strategy=Strategy.REST_FOR_ONE,
        intensity=ENGINE_RESTARTS,
        children=[
            Child("store", services.run_store, backoff=SOON, shutdown=STORE_LEAVES_SECONDS),
            Child("feed", services.feed.serve, backoff=SOON),
        ],
    )


def parent_spec(services: Services, workers: Workers, watch: WorkerWatch, reloads: Reloads) -> SupervisorSpec:
    """Return the tree of an engine whose runs are executed by worker processes."""
    # Last, so that it stops first: no worker is started any more while the others drain. It waits for nothing else.
    reloading = [Child("reloads", reloads.run, backoff=SOON, shutdown=math.inf)] if workers.can_reload else []
    return SupervisorSpec(
        strategy=Strategy.ONE_FOR_ONE,
        intensity=ENGINE_RESTARTS,
        children=[
            Child("client", client_spec(services)),
            Child("watch", watch.run, backoff=SOON),
            Child("reports", services.reports.run, args=(reloads.report,), backoff=SOON, shutdown=math.inf),
            Child(WORKERS, workers.spec()),
            *reloading,
        ],
    )


@asynccontextmanager
async def open_client(services: Services) -> AsyncIterator[Supervisor]:
    """Run what a client needs inside the block."""
    async with _open(services, client_spec(services), None) as root:
        try:
            yield root
        finally:
            guarded(services.writer.hurry)
            guarded(services.feed.close)


@asynccontextmanager
async def open_executor(
    services: Services, executor: Executor, on_unstopped: Callable[[], None] | None, grace: trio.CancelScope
) -> AsyncIterator[Supervisor]:
    """Run the whole tree inside the block, then drain it: runs have ``grace`` until it is cancelled.

    ``on_unstopped`` is called when a task does not end that must end: nothing can be done within the process. Without
    it, where the process is not ours to end, such tasks are waited for.
    """
    async with _open(services, executor_spec(services, executor), on_unstopped) as root:
        try:
            yield root
        except trio.Cancelled:
            grace.cancel()  # the tree has failed, and nothing can be waited for
            raise
        finally:
            try:
                with trio.CancelScope(shield=True):  # runs are detached before they are cancelled
                    await _drain(services, executor, grace, math.inf if on_unstopped is None else LEAVE_SECONDS)
            finally:
                guarded(services.feed.close)


@asynccontextmanager
async def open_parent(
    services: Services, workers: Workers, on_unstopped: Callable[[], None] | None
) -> AsyncIterator[Supervisor]:
    """Run worker processes, and a client of their store, inside the block; then drain all workers at the same time.

    They do not outlive this process, however it ends.

    Raises:
        WorkerFailed: the first workers could not be started.
    """
    reaper = Reaper(services.writer, services.settings.clock)
    watch = WorkerWatch(workers.family, services.reports.root, reaper.reap_dead, services.give_up)
    reloads = Reloads(
        workers,
        probe=partial(probe, workers),
        rehearse=partial(rehearse, workers, services.writer.store.path),
        root=services.reports.root,
        writer=services.writer,
        clock=services.settings.clock,
        changed=services.reports.nudge,
    )
    has_opened = False
    try:
        async with _open(services, parent_spec(services, workers, watch, reloads), on_unstopped) as root:
            has_opened = workers.family.is_open = True
            try:
                yield root
            finally:
                guarded(services.feed.close)
    except BaseExceptionGroup as group:
        failed = None if has_opened else first_failure(group)
        if failed is None:
            raise
        raise failed from None  # what the worker has said went to standard error


@asynccontextmanager
async def _open(
    services: Services, spec: SupervisorSpec, on_unstopped: Callable[[], None] | None
) -> AsyncIterator[Supervisor]:
    def report(error: UnstoppedChild) -> None:
        _LOGGER.critical("%s", error)
        if on_unstopped is not None:
            on_unstopped()

    refused: StoreError | None = None
    is_open = False
    try:
        async with open_supervisor(spec, name="engine", on_unstopped=report) as root:
            is_open = True
            services.opened(root)
            yield root
    except ExceptionGroup as group:
        only = sole(group)
        if is_open or not isinstance(only, StoreError):
            raise _failure(group) from None
        refused = only  # damaged, say: as itself, as if it had shown when the store was opened
    finally:
        services.closed()
    if refused is not None:
        raise refused
    if services.failure is not None:
        raise ExceptionGroup(FAILED, [services.failure])


def _failure(group: ExceptionGroup[Exception]) -> ExceptionGroup[Exception]:
    """Return one line that names the child, instead of one group for each supervisor on the way to it."""
    exceeded, rest = group.split(RestartIntensityExceeded)
    cause = first(exceeded, RestartIntensityExceeded)
    if cause is None or rest is not None:
        return group
    while (inner := first(cause.__cause__, RestartIntensityExceeded)) is not None:
        cause = inner  # it is of the supervisor whose own child has crashed
    path = "/".join((*cause.path, cause.child))
    crash = cause.__cause__
    notes = () if crash is None else getattr(sole(crash), "__notes__", ())
    below = [note for note in notes if note.startswith("child ")]  # one that did not even start
    what = f"{path} crashed too often" + "".join(f" ({note})" for note in below[:1])
    return ExceptionGroup(f"{FAILED}: {what}", [cause])


async def _drain(services: Services, executor: Executor, grace: trio.CancelScope, leave_seconds: float) -> None:
    executor.runs.is_draining = True
    if services.writer.failure is not None:
        return
    try:
        with grace:
            await executor.runs.drain(services.settings.grace_seconds)
        services.writer.hurry()  # also what is being written: a run leaves when its write has ended
        with trio.move_on_after(leave_seconds) as patience:
            await executor.runs.detach_all()
        if patience.cancelled_caught:
            names = ", ".join(repr(row.id) for row in executor.runs.resident_rows()[:20])
            _LOGGER.error("these runs do not leave: %s; their steps ignore that they are cancelled", names)
        executor.recovery.rest()  # or it would find itself dead, if its lease was due just then, and become another one
        await executor.recovery.retire(frozenset(executor.runs.crashed))
    except trio.ClosedResourceError:
        pass
    except Exception as error:  # also a fault of ours
        _LOGGER.warning(
            "executor %s leaves without giving its runs back; the next process finds it dead, and takes them over: %s",
            executor.id,
            error,
            exc_info=None if isinstance(error, StoreError) else error,
        )
