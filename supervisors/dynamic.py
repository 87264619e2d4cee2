"""The supervisor of independent children: any number of them, started on demand, each on its own (one for one).

There is no order among the children, so there is no loop to wait for: a start costs the same with ten thousand children
as with one, a child that is slow to be ready holds up only its own caller, and all are stopped at the same time, each
within its own ``shutdown``. A child that has ended for good is forgotten.
"""

from __future__ import annotations

from typing import Any

import trio

from supervisors import rules
from supervisors.children import ChildStatus, Incarnation, Place
from supervisors.errors import RestartIntensityExceeded, SupervisorClosed, TooManyChildren
from supervisors.exits import ExitKind
from supervisors.node import Node, Surroundings
from supervisors.specs import AutoShutdown, ChildSpec, DynamicSupervisorSpec, check_admissible
from supervisors.tree import NodeKind

# So often is one of the first children started that is killed before it is ready: by chance it is not.
FIRST_STARTS_MAX = 10


class DynamicSupervisor(Node):
    """A supervisor of independent children; open one with ``open_dynamic_supervisor``."""

    _kind = NodeKind.DYNAMIC

    def __init__(self, spec: DynamicSupervisorSpec, surroundings: Surroundings) -> None:
        super().__init__(surroundings, spec.intensity, spec.children)
        self._spec = spec

    # What users see

    @property
    def child_count(self) -> int:
        """How many children there are, with those that start, stop or wait for their restart."""
        return len(self._places)

    async def start_child(self, child: ChildSpec) -> Any:
        """Start a child, wait until it is ready, and return what it passed to ``started()``.

        *Cancellation:* a child that is not ready yet is stopped and forgotten; the call returns when it is gone, or its
        time to stop is over.

        Raises:
            Exception: the child's own error, if it crashes before it is ready; it is forgotten then.
            ValueError: the supervisor cannot have it: its name is taken, for one.
            TooManyChildren: there are ``max_children`` already.
            SupervisorClosed: it is stopping or has stopped.
        """
        check_admissible(child, AutoShutdown.NEVER)
        await trio.lowlevel.checkpoint()
        self._check_open()
        children_max = self._spec.max_children
        if children_max is not None and len(self._places) >= children_max and child.name not in self._places:
            raise TooManyChildren(self._path, children_max)
        place = self._add_place(child)
        incarnation = self._spawn(place)
        try:
            await incarnation.settled.wait()
        finally:
            if not incarnation.settled.is_set():
                self._stop_soon(place)
                with trio.CancelScope(shield=True):
                    await incarnation.over.wait()
        if incarnation.ready_at is not None:
            return incarnation.value
        assert incarnation.exit is not None
        raise incarnation.exit.error or SupervisorClosed(self._path)

    async def terminate_child(self, name: str) -> None:
        """Stop a child, wait until it is gone, and forget it.

        *Cancellation:* once the call has begun, the child is stopped all the same.

        Raises:
            ChildNotFound: there is none of that name.
            UnstoppedChild: it does not stop in time; the supervisor fails with that too.
            SupervisorClosed: it is stopping or has stopped.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        place = self._find(name)
        incarnation = place.incarnation
        self._stop_soon(place)
        if incarnation is None:
            return
        await incarnation.over.wait()
        if incarnation.stuck is not None:
            raise incarnation.stuck

    # Its life

    async def _work(self) -> None:
        failures: list[tuple[Place, Exception]] = []
        first = [self._add_place(child) for child in self._spec.children]
        async with trio.open_nursery() as nursery:
            for place in first:
                nursery.start_soon(self._start_first, place, failures, nursery.cancel_scope)
        if failures:
            self._fail_to_start(*failures[0])
            return
        self._opened.set()
        await trio.sleep_forever()

    async def _start_first(
        self, place: Place, failures: list[tuple[Place, Exception]], scope: trio.CancelScope
    ) -> None:
        """Start one of the children that belong to the supervisor's opening; if it fails, so does that.

        Except that a process which somebody has killed on its way is started again: once says nothing about it.
        """
        for starts_left in reversed(range(FIRST_STARTS_MAX)):
            incarnation = self._spawn(place)
            await incarnation.settled.wait()
            if incarnation.ready_at is not None:
                return
            exit = incarnation.exit
            assert exit is not None
            try:
                if exit.process is None or exit.process.is_fault or not starts_left:
                    raise exit.error or SupervisorClosed(self._path)
                await trio.sleep(self._next_delay(place, incarnation, (place.name,)))
                place = self._add_place(place.spec)  # it was forgotten
            except Exception as error:
                failures.append((place, error))
                scope.cancel()
                return

    def _on_exit(self, place: Place, incarnation: Incarnation) -> None:
        assert incarnation.exit is not None
        kind = incarnation.exit.kind
        has_been_ready = incarnation.ready_at is not None or place.restart_count > 0
        is_restarted = rules.is_restarted(place.spec.restart, is_crash=kind is ExitKind.CRASHED)
        if self._reason is not None or kind is ExitKind.STOPPED or not has_been_ready or not is_restarted:
            self._forget(place)
            return
        try:
            delay = self._next_delay(place, incarnation, (place.name,))
        except RestartIntensityExceeded as error:
            self._forget(place)
            self._fail(error)
            return
        assert self._nursery is not None
        place.incarnation = None
        place.status = ChildStatus.WAITING
        place.restart_at = trio.current_time() + delay
        place.delay_scope = trio.CancelScope(deadline=place.restart_at)
        self._nursery.start_soon(self._restart_later, place, place.delay_scope)

    async def _restart_later(self, place: Place, delay_scope: trio.CancelScope) -> None:
        with delay_scope:
            await trio.sleep_forever()
        if self._places.get(place.name) is place:  # nobody has forgotten it in the meantime
            place.restart_count += 1
            self._spawn(place)

    # Stopping

    def _stop_soon(self, place: Place) -> None:
        """Ask a child to stop, and see to it that it does."""
        assert self._nursery is not None
        if place.incarnation is None:
            self._forget(place)
            if place.delay_scope is not None:
                place.delay_scope.cancel()
        elif place.incarnation.stop_by is None:
            place.status = ChildStatus.STOPPING
            stop_by = place.incarnation.request_stop(place.spec.stop_seconds)
            self._nursery.start_soon(self._see_off, place, place.incarnation, stop_by)

    async def _see_off(self, place: Place, incarnation: Incarnation, stop_by: float) -> None:
        with trio.move_on_at(stop_by):
            await incarnation.over.wait()
        if incarnation.exit is None:
            self._note_unstopped(place, incarnation)

    async def _stop_all(self) -> None:
        for place in list(self._places.values()):
            self._stop_soon(place)
