"""What every supervisor has, whatever its strategy: its life as a block, its places, its events, its failure.

Theory. A supervisor is two tasks' worth of work under one nursery: the *block* (the body of ``async with``) and the
*control* task, which owns a second nursery in which the children run. The control task is shielded: cancelling the
block from outside must not hit all children at once. Instead the end of the block, for whatever reason, is the request
to stop, and the control task then stops the children one after the other, each with its own deadline. So the block
counts as the child that was started last. The shield has a deadline as long as every child has one.

A supervisor that ends by itself (it failed, or a significant child ended) cancels its block and stops its children.
A failure leaves the block in an ExceptionGroup, as from a nursery. So does what a child raises that ends the program,
such as KeyboardInterrupt: it too stops the children in order, within their deadlines.

A child that does not come out after its cancellation cannot be killed, and trio, rightly, does not let its nursery end
without it. What can be done is done at once: nobody takes its place, its supervisor stops all others and fails, and so
do the supervisors above, up to the root, whose ``on_unstopped`` may end the process. The blocks end when the task does.
"""

from __future__ import annotations

import contextvars
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, Self

import attrs
import trio

from supervisors import rules
from supervisors.children import ChildStatus, Incarnation, Place, run_function, run_incarnation
from supervisors.errors import ChildNotFound, RestartIntensityExceeded, SupervisorClosed, UnstoppedChild, path_text
from supervisors.events import (
    EVENTS_MAX,
    ChildExited,
    ChildStarted,
    ChildUnstopped,
    EventSource,
    EventStream,
    RestartScheduled,
    SupervisorEnded,
    SupervisorStarted,
    SupervisorStopping,
)
from supervisors.exits import ExitKind
from supervisors.groups import error_text
from supervisors.mailboxes import Mailboxes
from supervisors.process import run_process
from supervisors.specs import Child, ChildSpec, DynamicSupervisorSpec, Intensity, Process, SupervisorSpec
from supervisors.tree import (
    CHILDREN_DRAWN_MAX,
    ChildInfo,
    NodeKind,
    TreeNode,
    child_info,
    format_tree,
    leaf,
)


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a supervisor is given beside its specification."""

    name: str
    parent: Node | None
    # Source of jitter.
    random: Random
    on_unstopped: Callable[[UnstoppedChild], None] | None
    # Those of its children; they outlive it, if it is nested and restarted.
    mailboxes: Mailboxes
    make_node: Callable[[SupervisorSpec | DynamicSupervisorSpec, Surroundings], Node]


class Node(ABC):
    """Base class of ``Supervisor`` and ``DynamicSupervisor``."""

    _kind: NodeKind

    def __init__(self, surroundings: Surroundings, intensity: Intensity, children: Sequence[ChildSpec]) -> None:
        parent = surroundings.parent
        self._declared = frozenset(child.name for child in children)
        self._surroundings = surroundings
        self._parent = parent
        self._intensity = intensity
        self._path: tuple[str, ...] = (*(parent.path if parent is not None else ()), surroundings.name)
        above = parent._event_source if parent is not None else None
        self._event_source: EventSource = EventSource(above)
        self._places: dict[str, Place] = {}
        self._restarted_at: tuple[float, ...] = ()
        self._failures: list[Exception] = []
        self._fatal: list[BaseException] = []
        self._reason: str | None = None
        self._block_scope = trio.CancelScope()
        self._work_scope = trio.CancelScope()
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._context = contextvars.copy_context()

    # What users see

    @property
    def name(self) -> str:
        return self._path[-1]

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root of the tree to this supervisor."""
        return self._path

    def children(self) -> tuple[ChildInfo, ...]:
        """Return all children as they are now, in starting order."""
        return tuple(child_info(place) for place in self._places.values())

    def child(self, *path: str) -> ChildInfo:
        """Look a child up by name, or by the names on the way to it through nested supervisors.

        Raises:
            ChildNotFound: there is none of that name.
        """
        node: Node = self
        for name in path[:-1]:
            incarnation = node._find(name).incarnation
            nested = incarnation.nested if incarnation is not None else None
            if not isinstance(nested, Node):
                raise ChildNotFound((*node.path, name), path[-1])
            node = nested
        return child_info(node._find(path[-1]))

    def mailbox(self, name: str) -> trio.MemorySendChannel[Any]:
        """Return a new sending end of the mailbox of a child's place; close it when done with it.

        It stays valid over restarts of the child and of the supervisors above it, and breaks
        (``trio.BrokenResourceError``) when the child is forgotten.

        Raises:
            ChildNotFound: there is none of that name.
            ValueError: it was declared without ``mailbox=``.
        """
        mailbox = self._find(name).mailbox
        if mailbox is None:
            raise ValueError(f"child {name!r} has no mailbox; declare it with mailbox=<capacity>")
        return mailbox[0].clone()

    def events(self, events_max: int = EVENTS_MAX) -> EventStream:
        """Open a stream of the events from now on, of this supervisor and all below it."""
        stream = self._event_source.open_stream(events_max)
        if self._ended.is_set():
            stream.close()
        return stream

    def tree(self) -> TreeNode:
        """Return this supervisor and all below it as data."""
        now = trio.current_time()
        window = self._intensity.per
        return TreeNode(
            name=self.name,
            kind=self._kind,
            status=self._status(),
            intensity=self._intensity,
            restarts_in_window=sum(now - at <= window for at in self._restarted_at),
            children=tuple(self._branch(place, now) for place in self._places.values()),
        )

    def _status(self) -> ChildStatus:
        if self._ended.is_set():
            return ChildStatus.STOPPED
        return ChildStatus.RUNNING if self._reason is None else ChildStatus.STOPPING

    def format_tree(self, *, children_max: int = CHILDREN_DRAWN_MAX) -> str:
        """Draw ``tree`` as text, at most ``children_max`` children of each supervisor."""
        return format_tree(self.tree(), children_max=children_max)

    def stop(self) -> None:
        """Ask the supervisor to stop: its children end, in order and with their deadlines, and then its block does."""
        self._begin_stop("asked to stop")

    async def wait_ended(self) -> None:
        """Wait until the supervisor and all its children are gone. Within its block: until the block is cancelled."""
        await self._ended.wait()

    # Its life

    @abstractmethod
    async def _work(self) -> None:
        """Start the first children, set ``_opened``, supervise; until ``_work_scope`` is cancelled."""

    @abstractmethod
    async def _stop_all(self) -> None:
        """Stop all children; those that do not are noted by ``_note_unstopped``."""

    @abstractmethod
    def _on_exit(self, place: Place, incarnation: Incarnation) -> None:
        """React, without waiting, to the end of a child; called in its task."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            self._context = contextvars.copy_context()
            nursery.start_soon(self._control, name=f"supervisor {path_text(self._path)}")
            try:
                with self._block_scope:
                    await self._opened.wait()
                    self._event_source.publish(SupervisorStarted(path=self._path, at=trio.current_time()))
                    yield self
            finally:
                self._begin_stop("its block ended")

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def _control(self) -> None:
        error: Exception | None = None
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as self._nursery:
                    with self._work_scope:
                        await self._work()
                    await self._stop_all()
            error = self._combined_failure()
        finally:
            self._end(error)
        raised = [*self._fatal, *([error] if error is not None else [])]
        if len(raised) == 1:
            raise raised[0]
        if raised:
            raise BaseExceptionGroup(f"supervisor {path_text(self._path)!r} failed", raised)

    def _note_fatal(self, raised: BaseException) -> None:
        """A child has raised what ends the program; it leaves the block when all children are stopped."""
        self._fatal.append(raised)
        self._begin_stop(error_text(raised))

    def _begin_stop(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        self._event_source.publish(SupervisorStopping(path=self._path, at=trio.current_time(), reason=reason))
        self._work_scope.cancel()
        if self._opened.is_set():
            self._block_scope.cancel()

    def _fail(self, error: Exception) -> None:
        is_consequence = bool(self._fatal) and isinstance(error, SupervisorClosed)
        if not is_consequence and not any(error is known for known in self._failures):
            self._failures.append(error)
        self._begin_stop(error_text(error))

    def _fail_to_start(self, place: Place, error: Exception) -> None:
        """Fail with what a child crashed with before it was ready; a note tells which child."""
        note = f"child {path_text(place.path)!r} crashed before it was ready"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        self._fail(error)

    def _combined_failure(self) -> Exception | None:
        if len(self._failures) > 1:
            return ExceptionGroup(f"supervisor {path_text(self._path)!r} failed", self._failures)
        return self._failures[0] if self._failures else None

    def _end(self, error: Exception | None) -> None:
        self._reason = self._reason or "ended"
        # A nested supervisor's are kept for its successor, but for children that only this one knew.
        self._surroundings.mailboxes.close_all(but=() if self._parent is None else self._declared)
        self._event_source.publish(SupervisorEnded(path=self._path, at=trio.current_time(), error=error))
        self._event_source.close()
        self._ended.set()

    # Its children

    def _find(self, name: str) -> Place:
        place = self._places.get(name)
        if place is None:
            known = tuple(self._places) if len(self._places) <= CHILDREN_DRAWN_MAX else ()
            raise ChildNotFound(self._path, name, known)
        return place

    def _check_open(self) -> None:
        if self._reason is not None:
            raise SupervisorClosed(self._path)

    def _add_place(self, spec: ChildSpec) -> Place:
        if spec.name in self._places:
            raise ValueError(f"supervisor {path_text(self._path)!r} has a child {spec.name!r} already")
        place = Place(spec=spec, path=(*self._path, spec.name))
        if isinstance(spec, Child) and spec.mailbox is not None:
            place.mailbox = self._surroundings.mailboxes.open(spec.name, spec.mailbox)
        self._places[spec.name] = place
        return place

    def _forget(self, place: Place) -> None:
        if self._places.get(place.name) is place:
            del self._places[place.name]
            self._surroundings.mailboxes.close(place.name)

    def _spawn(self, place: Place) -> Incarnation:
        """Start the child's task. It inherits the context of the supervisor, not of who asked for the child."""
        assert self._nursery is not None
        incarnation = Incarnation(on_ready=lambda: self._set_running(place))
        place.incarnation = incarnation
        place.restart_at = None
        place.status = ChildStatus.STARTING
        run = partial(run_incarnation, on_exit=self._set_exited, on_fatal=self._note_fatal)
        start = partial(self._nursery.start_soon, run, place, incarnation, self._run_body)
        self._context.run(partial(start, name=path_text(place.path)))
        return incarnation

    async def _run_body(self, place: Place, incarnation: Incarnation) -> None:
        spec = place.spec
        if isinstance(spec, Process):
            await run_process(spec, incarnation)
        elif isinstance(spec, Child) and isinstance(spec.start, SupervisorSpec | DynamicSupervisorSpec):
            surroundings = attrs.evolve(
                self._surroundings,
                name=spec.name,
                parent=self,
                on_unstopped=None,
                mailboxes=self._surroundings.mailboxes.below(spec.name),
            )
            node = self._surroundings.make_node(spec.start, surroundings)
            incarnation.nested = node
            async with node.opened():
                incarnation.set_ready(node)
                await trio.sleep_forever()
        else:
            await run_function(place, incarnation)

    def _set_running(self, place: Place) -> None:
        if place.status is ChildStatus.STARTING:
            place.status = ChildStatus.RUNNING
        pid = place.incarnation.pid if place.incarnation is not None else None
        now = trio.current_time()
        self._event_source.publish(ChildStarted(path=place.path, at=now, restart_count=place.restart_count, pid=pid))

    def _set_exited(self, place: Place, incarnation: Incarnation) -> None:
        assert incarnation.exit is not None
        if incarnation.exit.kind is not ExitKind.STOPPED or incarnation.exit.error is not None:
            place.last_exit = incarnation.exit
        now, ready_at = trio.current_time(), incarnation.ready_at
        ready_seconds = None if ready_at is None else now - ready_at
        event = ChildExited(path=place.path, at=now, exit=incarnation.exit, ready_seconds=ready_seconds)
        self._event_source.publish(event)
        self._on_exit(place, incarnation)

    def _next_delay(self, place: Place, incarnation: Incarnation, names: tuple[str, ...]) -> float:
        """Count a restart of this place, and return its delay.

        Raises:
            RestartIntensityExceeded: it is one too many.
        """
        now = trio.current_time()
        exit = incarnation.exit
        counted = rules.count_restart(self._intensity, self._restarted_at, now)
        if counted is None:
            exceeded = RestartIntensityExceeded(self._path, place.name, self._intensity.restarts, self._intensity.per)
            raise exceeded from (exit.error if exit is not None else None)
        self._restarted_at = counted
        ready_seconds = now - incarnation.ready_at if incarnation.ready_at is not None else 0.0
        backoff = place.spec.backoff
        if isinstance(place.spec, Process) and exit is not None and exit.process is not None:
            backoff = place.spec.backoff_after(exit.process.code)
        place.attempt = rules.next_attempt(backoff, place.attempt, ready_seconds)
        delay = rules.delay_seconds(backoff, place.attempt, self._surroundings.random.random())
        self._event_source.publish(
            RestartScheduled(path=place.path, at=now, attempt=place.attempt, delay_seconds=delay, names=names)
        )
        return delay

    # Children that do not stop

    def _note_unstopped(self, place: Place, incarnation: Incarnation) -> UnstoppedChild:
        """Record that a child's time to stop is over: fail, and make the supervisors above fail."""
        if incarnation.stuck is not None:  # a nested supervisor that has told us already
            return incarnation.stuck
        error = UnstoppedChild(place.path, place.spec.stop_seconds)
        self._event_source.publish(ChildUnstopped(path=place.path, at=trio.current_time(), error=error))
        self._mark_stuck(place, incarnation, error)
        return error

    def _mark_stuck(self, place: Place, incarnation: Incarnation, error: UnstoppedChild) -> None:
        place.status = ChildStatus.UNSTOPPED
        incarnation.set_stuck(error)
        self._fail(error)
        if self._parent is not None:
            self._parent._note_stuck_below(self, error)
        elif self._surroundings.on_unstopped is not None:
            self._surroundings.on_unstopped(error)

    def _note_stuck_below(self, node: Node, error: UnstoppedChild) -> None:
        place = self._places.get(node.name)
        if place is not None and place.incarnation is not None and place.incarnation.nested is node:
            place.incarnation.request_stop(place.spec.stop_seconds)
            self._mark_stuck(place, place.incarnation, error)

    # Reports

    def _branch(self, place: Place, now: float) -> TreeNode:
        node = leaf(place, now)
        nested = place.incarnation.nested if place.incarnation is not None else None
        if not isinstance(nested, Node):
            return node
        below = nested.tree()
        return attrs.evolve(
            node,
            strategy=below.strategy,
            intensity=below.intensity,
            restarts_in_window=below.restarts_in_window,
            children=below.children,
        )
