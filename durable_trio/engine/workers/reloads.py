"""The service that brings new code into a family of workers, without a moment in which nobody serves.

A probe process imports the files as they are; if it cannot, nothing happens. What it has read is what the family is to
serve from now on. Then one worker at a time: a new one is started, and once it is ready the old one is drained. Where a
new one does not become ready, or its code is another one again, the reload ends there: old and new go on side by side,
as any two codes on one store may, and that is said.

A worker that dies meanwhile comes back with the new code by itself, and counts as replaced. What is asked for during a
reload waits for its end: files may have changed since it began.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, Protocol

import attrs
import trio

from durable_trio.clock import Clock
from durable_trio.engine.codes import FamilyCode
from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.parent import WORKERS, reason_of
from durable_trio.engine.workers.requests import ReloadRequest, Requests, read, take_back
from durable_trio.errors import StoreError
from durable_trio.limits import WORKER_READY_SECONDS
from durable_trio.logger import Logger
from durable_trio.processes import ProcessIdentity
from durable_trio.records import Reload, WorkerFamily
from durable_trio.serving.reasons import error_line
from durable_trio.stores.questions import ListReports
from durable_trio.stores.writer import Writer
from supervisors import (
    ChildInfo,
    ChildNotFound,
    ChildSpec,
    ChildStatus,
    DynamicSupervisor,
    ProcessError,
    Supervisor,
    SupervisorClosed,
)

__all__ = ["ReloadFailed", "Reloads", "Successors"]

_LOGGER: Final = Logger("durable_trio.processes")
# How often it is looked whether somebody asks.
_LOOK_SECONDS: Final = 1.0
_SERVES_LOOK_SECONDS: Final = 0.05
# Reloads that have ended, and of which is told for whoever still asks.
_TOLD_MAX: Final = 4
# More that wait than anybody means.
_WAITING_MAX: Final = 8
_STOPPING: Final = "the server is stopping"


class ReloadFailed(Exception):
    """It could not be done; the text says why, in one line."""


class Successors(Protocol):
    """What workers are started as."""

    @property
    def family(self) -> Family:
        """Which code they serve."""

    @property
    def requests(self) -> Requests:
        """What was asked for."""

    @property
    def can_reload(self) -> bool:
        """Whether they can be replaced."""

    @property
    def count(self) -> int:
        """How many workers there are at first."""

    def process(self, name: str) -> ChildSpec:
        """Return one worker."""


class Reloads:
    """Reloads a family when it is asked to, and says what comes of it.

    Args:
        probe: returns the code that a worker would have now; raises ``ReloadFailed``.
        rehearse: raises ``ReloadFailed`` if runs would not go on with the code of the files; is given the path of an
            earlier rehearsal, if only what is worse than there counts.
        root: returns the tree of this process, once it is open.
        changed: told that there is something else to say.
    """

    def __init__(
        self,
        workers: Successors,
        *,
        probe: Callable[[], Awaitable[FamilyCode | None]],
        rehearse: Callable[[str | None], Awaitable[None]],
        root: Callable[[], Awaitable[Supervisor]],
        writer: Writer,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._family = workers.family
        self._requests = workers.requests
        self._probe = probe
        self._rehearse = rehearse
        self._find_root = root
        self._writer = writer
        self._clock = clock
        self._changed = changed
        self._names_given = workers.count
        self._told: dict[str, Reload] = {}

    def report(self) -> WorkerFamily:
        """Return what there is to say of the family now."""
        return WorkerFamily(
            can_reload=self._workers.can_reload,
            held_back=dict(self._family.held_back),
            reloads=tuple(self._told.values()),
        )

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled. What was going on is over then, and has failed."""
        for reload in list(self._told.values()):
            if reload.is_under_way:
                self._say(reload.id, state="failed", reason="a fault of the server has interrupted it; see its log")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_requests)
            task_status.started()
            while True:
                while self._requests.waiting:
                    await self._serve(self._requests.waiting.popleft())
                self._requests.has_come = trio.Event()
                await self._requests.has_come.wait()
        raise AssertionError("unreachable")

    async def _look_for_requests(self) -> NoReturn:
        own = str(ProcessIdentity.own())
        taken: set[str] = set()  # whose rows could not be removed yet
        while True:
            try:
                found = read(await self._writer.ask(ListReports()), own)
                for request in found.values():
                    if request.id not in taken:
                        self._accept(request)
                taken = {request.id for request in found.values()}
                for asker in found:
                    await take_back(self._writer, self._clock, asker)
            except (StoreError, trio.ClosedResourceError):
                pass  # who asks waits, and others say what is wrong
            await trio.sleep(_LOOK_SECONDS)

    def _accept(self, request: ReloadRequest) -> None:
        is_too_much = len(self._requests.waiting) >= _WAITING_MAX
        self._told[request.id] = Reload(id=request.id, state="waiting")
        if is_too_much:
            self._say(request.id, state="failed", reason=f"{_WAITING_MAX} reloads wait already")
            return
        self._changed()
        self._requests.add(request)

    # ---- one reload ----------------------------------------------------------------------------------------------

    async def _serve(self, request: ReloadRequest) -> None:
        self._told[request.id] = Reload(id=request.id, state="importing")
        self._changed()
        _LOGGER.info("reload: the new code is imported", extra={"event": "reload_started"})
        try:
            await self._reload(request)
        except ReloadFailed as error:
            self._say(request.id, state="failed", now="", reason=str(error))
            extra: dict[str, object] = {"event": "reload_failed", "reason": str(error)}
            _LOGGER.error("the reload has ended: %s", error, extra=extra)
        except trio.Cancelled:
            self._say(request.id, state="failed", now="", reason=f"{_STOPPING}; its workers are drained")
            raise
        else:
            told = self._told[request.id]
            self._say(request.id, state="done", now="")
            s = "" if told.replaced == 1 else "s"
            code = "the same code as before" if told.is_same_code else "the new code"
            extra = {"event": "reload_done", "workers": told.replaced, "is_same_code": told.is_same_code}
            _LOGGER.info("reload: %d worker%s replaced, with %s", told.replaced, s, code, extra=extra)

    async def _reload(self, request: ReloadRequest) -> None:
        served = self._family.digest  # now: if all workers die meanwhile, those that come back bring the new code
        try:
            code = await self._probe()
            if code is not None and self._family.store and code.store != self._family.store:
                raise ReloadFailed(f"the new code serves another database, {code.store!r}: restart the server for that")
            if request.rehearses:
                self._say(request.id, state="rehearsing")
                await self._rehearse(request.baseline)
                again = await self._probe()
                if (again and again.digest) != (code and code.digest):
                    raise ReloadFailed("the files have changed while they were rehearsed")
        except ReloadFailed as error:
            outcome = "nothing was changed"
            if self._family.digest != served:
                outcome = "all workers had ended meanwhile, and those that have come since serve the code of the files"
            raise ReloadFailed(f"{error}; {outcome}") from error
        before = self._family.expect(code)
        self._say(request.id, is_same_code=code is not None and code.digest == served)
        try:
            await self._replace_all(request.id)
        finally:
            if self._told[request.id].replaced == 0:
                self._family.expect_again(before)

    async def _replace_all(self, id: str) -> None:
        old = (await self._supervisor()).children()
        self._say(id, state="replacing", workers=len(old))
        for number, child in enumerate(old):
            try:
                await self._replace(id, child)
            except ReloadFailed as error:
                rest = "all workers serve the old code still"
                if number:
                    rest = f"{number} of {len(old)} workers serve the new code, the others the old one"
                raise ReloadFailed(f"{error}; {rest}") from error
            self._say(id, replaced=number + 1)

    async def _replace(self, id: str, old: ChildInfo) -> None:
        """Have another worker take the place of one, and return when that has gone."""
        supervisor = await self._supervisor()
        if _came_back(supervisor, old):
            return  # it had died, and has read the new code
        self._names_given += 1
        name = f"worker-{self._names_given}"
        self._say(id, now=f"{name} starts")
        self._family.coming.add(name)
        try:
            await supervisor.start_child(self._workers.process(name))
        except SupervisorClosed as error:
            raise ReloadFailed(_STOPPING) from error
        except ProcessError as error:
            raise ReloadFailed(f"{name} was not ready: {reason_of(error)}") from error
        except Exception as error:  # it could not even be started
            raise ReloadFailed(f"{name} was not ready: {error_line(error)}") from error
        self._family.coming.discard(name)
        self._say(id, now=f"{name} is ready, {old.name} drains")
        try:
            await supervisor.terminate_child(old.name)
        except ChildNotFound:
            pass
        except SupervisorClosed as error:
            raise ReloadFailed(_STOPPING) from error
        self._family.is_back(old.name)
        await self._wait_serving(supervisor, name)

    async def _wait_serving(self, supervisor: DynamicSupervisor, name: str) -> None:
        """Return if a worker that was ready serves still; where it has died, once another one is in its place."""
        with trio.move_on_after(WORKER_READY_SECONDS):
            while (status := _status_of(supervisor, name)) is not ChildStatus.RUNNING:
                if status is None:
                    raise ReloadFailed(_STOPPING)
                await trio.sleep(_SERVES_LOOK_SECONDS)
            return
        raise ReloadFailed(f"{name} has ended, and does not come back")

    async def _supervisor(self) -> DynamicSupervisor:
        workers = (await self._find_root()).child(WORKERS).value
        if not isinstance(workers, DynamicSupervisor):
            raise ReloadFailed("the workers are being started anew")
        return workers

    def _say(self, id: str, **changes: Any) -> None:
        self._told[id] = attrs.evolve(self._told[id], **changes)
        ended = [reload.id for reload in self._told.values() if reload.has_ended]
        for old in ended[:-_TOLD_MAX]:
            del self._told[old]
        self._changed()


def _status_of(supervisor: DynamicSupervisor, name: str) -> ChildStatus | None:
    try:
        return supervisor.child(name).status
    except ChildNotFound:
        return None


def _came_back(supervisor: DynamicSupervisor, old: ChildInfo) -> bool:
    """Whether a worker has died since, and another one serves in its place."""
    try:
        child = supervisor.child(old.name)
    except ChildNotFound:
        return False
    return child.restart_count != old.restart_count and child.status is ChildStatus.RUNNING
