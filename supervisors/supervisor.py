"""The supervisor with a strategy: one control loop that owns all decisions about its children.

Everything that happens is put into an inbox: the end of a child, a request. The loop takes one thing at a time, as
OTP's supervisor process does, so starts and stops never overlap and their order is the order of the children. For the
same reason a child must not call its own supervisor before it is ready: the supervisor is waiting for it.

A child that waits for its restart has a time (``restart_at``); the loop sleeps until the earliest one. Since a group
that is restarted together always reaches to the last child it concerns, and takes over the later of two times, a child
is never started before one it was started after.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from supervisors import rules
from supervisors.children import ALIVE, ChildStatus, Incarnation, Place
from supervisors.errors import ChildRunning, RestartIntensityExceeded, SupervisorClosed, UnstoppedChild
from supervisors.exits import ExitKind
from supervisors.node import Node, Surroundings
from supervisors.specs import ChildSpec, Restart, SupervisorSpec, check_admissible
from supervisors.tree import NodeKind, TreeNode


@attrs.define(eq=False)
class Request:
    """A call of a supervisor that waits for its turn."""

    action: Callable[[], Awaitable[Any]]
    # The child it starts. Such a request ends with its caller; others are seen through.
    starts: str | None
    is_new: bool = False
    is_begun: bool = False
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    value: Any = None
    error: Exception | None = None


class Supervisor(Node):
    """A supervisor of named, ordered children; open one with ``open_supervisor``."""

    _kind = NodeKind.SUPERVISOR

    def __init__(self, spec: SupervisorSpec, surroundings: Surroundings) -> None:
        super().__init__(surroundings, spec.intensity, spec.children)
        self._spec = spec
        self._inbox: deque[Request | tuple[Place, Incarnation]] = deque()
        self._requests: set[Request] = set()
        self._bell = trio.Event()

    # What users see

    async def start_child(self, child: ChildSpec) -> Any:
        """Start a child after the others, wait until it is ready, and return what it passed to ``started()``.

        Of a ``Process`` that is what it passed to ``ready()``, of a nested supervisor itself.

        *Cancellation:* a child that is not ready yet is stopped and forgotten; the call returns when it is gone, or its
        time to stop is over.

        Raises:
            Exception: the child's own error, if it crashes before it is ready; it is forgotten then.
            ValueError: the supervisor cannot have it: its name is taken, for one.
            SupervisorClosed: it is stopping or has stopped.
        """
        check_admissible(child, self._spec.auto_shutdown)
        return await self._call(partial(self._start_new, child), starts=child.name, is_new=True)

    async def terminate_child(self, name: str) -> None:
        """Stop a child and wait until it is gone. Its specification is kept, unless it is temporary.

        A child that waits for its restart is not restarted.

        *Cancellation:* once the call has begun, the child is stopped all the same.

        Raises:
            ChildNotFound: there is none of that name.
            UnstoppedChild: it does not stop in time; the supervisor fails with that too.
            SupervisorClosed: it is stopping or has stopped.
        """
        await self._call(partial(self._terminate, name))

    async def restart_child(self, name: str) -> Any:
        """Start a child that was terminated or has finished again; else like ``start_child``.

        It is not counted for the intensity.

        Raises:
            ChildNotFound: there is none of that name.
            ChildRunning: it runs, or waits for its restart.
            Exception: the child's own error, if it crashes before it is ready.
            SupervisorClosed: it is stopping or has stopped.
        """
        return await self._call(partial(self._start_again, name), starts=name)

    async def delete_child(self, name: str) -> None:
        """Forget a child that was terminated or has finished.

        Raises:
            ChildNotFound: there is none of that name.
            ChildRunning: it runs, or waits for its restart; terminate it first.
            SupervisorClosed: it is stopping or has stopped.
        """
        await self._call(partial(self._delete, name))

    def tree(self) -> TreeNode:
        """Return this supervisor and all below it as data."""
        return attrs.evolve(super().tree(), strategy=self._spec.strategy)

    # The loop

    async def _work(self) -> None:
        for spec in self._spec.children:
            place = self._add_place(spec)
            try:
                await self._start(place)
            except Exception as error:  # it leaves the block in a group
                self._fail_to_start(place, error)
                return
        self._opened.set()
        try:
            while True:
                await self._wait_for_work()
                while self._inbox:
                    await trio.lowlevel.checkpoint()  # nothing is begun once the supervisor stops
                    await self._handle(self._inbox.popleft())
                await self._restart_due()
        except (RestartIntensityExceeded, UnstoppedChild) as error:
            self._fail(error)

    async def _wait_for_work(self) -> None:
        due = min(
            (place.restart_at for place in self._places.values() if place.restart_at is not None), default=math.inf
        )
        with trio.move_on_at(due):
            if not self._inbox:
                self._bell = trio.Event()
                await self._bell.wait()
        await trio.lowlevel.checkpoint()

    async def _handle(self, message: Request | tuple[Place, Incarnation]) -> None:
        if isinstance(message, Request):
            await self._serve(message)
        else:
            place, incarnation = message
            # An end that was awaited while it was stopped, or while it was not ready, is dealt with already.
            if place.incarnation is incarnation:
                await self._handle_exit(place, incarnation)

    async def _serve(self, request: Request) -> None:
        if request.scope.cancel_called:  # its caller went away while it waited for its turn
            return
        request.is_begun = True
        with request.scope:
            try:
                request.value = await request.action()
            except UnstoppedChild as error:
                request.error = error
                self._finish(request)
                raise
            except Exception as error:  # it is raised in the caller
                request.error = error
        if request.scope.cancelled_caught:
            assert request.starts is not None
            place = self._places[request.starts]
            await self._stop(place)
            if request.is_new:
                self._forget(place)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        self._requests.discard(request)
        request.done.set()

    async def _call(
        self, action: Callable[[], Awaitable[Any]], *, starts: str | None = None, is_new: bool = False
    ) -> Any:
        await trio.lowlevel.checkpoint()
        self._check_open()
        request = Request(action, starts, is_new)
        self._requests.add(request)
        self._post(request)
        try:
            await request.done.wait()
        finally:
            if starts is not None and not request.done.is_set():
                request.scope.cancel()
                if request.is_begun:
                    with trio.CancelScope(shield=True):  # it lasts as long as the child may take to stop
                        await request.done.wait()
            self._requests.discard(request)
        if request.error is not None:
            raise request.error
        return request.value

    def _post(self, message: Request | tuple[Place, Incarnation]) -> None:
        self._inbox.append(message)
        self._bell.set()

    def _on_exit(self, place: Place, incarnation: Incarnation) -> None:
        self._post((place, incarnation))

    def _begin_stop(self, reason: str) -> None:
        super()._begin_stop(reason)
        for request in list(self._requests):
            if request.error is None:
                request.error = SupervisorClosed(self._path)
            self._finish(request)

    # Starting and restarting

    async def _start(self, place: Place) -> Any:
        """Start a child and wait until it is ready; raise its error if it ends before."""
        incarnation = self._spawn(place)
        await incarnation.settled.wait()
        if incarnation.ready_at is not None:
            return incarnation.value
        assert incarnation.exit is not None
        place.status = ChildStatus.STOPPED
        place.incarnation = None
        raise incarnation.exit.error or SupervisorClosed(self._path)

    async def _start_new(self, spec: ChildSpec) -> Any:
        place = self._add_place(spec)
        try:
            return await self._start(place)
        except Exception:
            self._forget(place)
            raise

    async def _start_again(self, name: str) -> Any:
        place = self._find(name)
        if place.status in ALIVE:
            raise ChildRunning(self._path, name)
        return await self._start(place)

    async def _restart(self, place: Place, incarnation: Incarnation) -> None:
        """Stop what is to be restarted with an ended child, and set the time for it."""
        group = [
            self._places[name] for name in rules.restart_group(self._spec.strategy, tuple(self._places), place.name)
        ]
        delay = self._next_delay(place, incarnation, tuple(sibling.name for sibling in group))
        place.incarnation = None
        restart_at = trio.current_time() + delay
        for sibling in reversed(group):
            earlier = sibling.restart_at
            await self._stop(sibling)
            if sibling.spec.restart is Restart.TEMPORARY:
                self._forget(sibling)
                continue
            sibling.status = ChildStatus.WAITING
            sibling.restart_at = restart_at if earlier is None else max(restart_at, earlier)

    async def _restart_due(self) -> None:
        now = trio.current_time()
        for place in list(self._places.values()):
            if place.restart_at is None or place.restart_at > now:
                continue
            place.restart_count += 1
            incarnation = self._spawn(place)
            await incarnation.settled.wait()
            if incarnation.ready_at is None:
                await self._restart(place, incarnation)
                return  # with another group, maybe at another time

    async def _handle_exit(self, place: Place, incarnation: Incarnation) -> None:
        assert incarnation.exit is not None
        kind = incarnation.exit.kind
        if kind is ExitKind.STOPPED:  # it raised what ends the program: the supervisor stops
            return
        if rules.is_restarted(place.spec.restart, is_crash=kind is ExitKind.CRASHED):
            await self._restart(place, incarnation)
            return
        place.incarnation = None
        place.status = ChildStatus.FINISHED
        if place.spec.restart is Restart.TEMPORARY:
            self._forget(place)
        alive_count = sum(other.spec.significant and other.status in ALIVE for other in self._places.values())
        significant = place.spec.significant
        if rules.is_shutdown_due(self._spec.auto_shutdown, is_significant=significant, others_alive_count=alive_count):
            self._begin_stop(f"significant child {place.name!r} ended")

    # Stopping

    async def _terminate(self, name: str) -> None:
        place = self._find(name)
        await self._stop(place)
        if place.spec.restart is Restart.TEMPORARY:
            self._forget(place)

    async def _delete(self, name: str) -> None:
        place = self._find(name)
        if place.status in ALIVE:
            raise ChildRunning(self._path, name)
        self._forget(place)

    async def _stop(self, place: Place) -> None:
        """Stop a child if it runs.

        Raises:
            UnstoppedChild: its time is over.
        """
        incarnation = place.incarnation
        place.restart_at = None
        if incarnation is not None:
            if place.status is not ChildStatus.UNSTOPPED:
                place.status = ChildStatus.STOPPING
            with trio.move_on_at(incarnation.request_stop(place.spec.stop_seconds)):
                await incarnation.over.wait()
            if incarnation.exit is None:
                raise self._note_unstopped(place, incarnation)
            place.incarnation = None
        if place.status is not ChildStatus.FINISHED:
            place.status = ChildStatus.STOPPED

    async def _stop_all(self) -> None:
        for place in reversed(list(self._places.values())):
            try:
                await self._stop(place)
            except UnstoppedChild as error:
                self._fail(error)  # and go on with the others
