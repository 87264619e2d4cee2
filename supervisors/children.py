"""One child: its place in the tree, and the incarnations that come and go in it.

A place lasts from ``start_child`` until the child is forgotten. An incarnation is one run of the
child, in one task of its supervisor's nursery. This file decides nothing: it runs the child and says how it ended.

Why the wrapper catches *outside* the child's cancel scope: a cancelled child may raise an error while it unwinds, and
what comes out is then a group of ``trio.Cancelled`` and that error. Only the scope takes its own Cancelled out of the
group. Inside the scope, ``except Exception`` would not match the mixed group, and it would end the whole nursery.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

import attrs
import trio

from supervisors.errors import UnstoppedChild
from supervisors.exits import Exit, ExitKind, ProcessExit
from supervisors.groups import part, split_failure
from supervisors.mailboxes import Mailbox
from supervisors.specs import Child, ChildSpec, StartFunction


class ChildStatus(enum.Enum):
    """What a child is doing.

    Attributes:
        WAITING: it ended and waits for its restart.
        FINISHED: it ended by itself and is not restarted; ``restart_child`` can.
        STOPPED: it was terminated; ``restart_child`` starts it again.
        UNSTOPPED: it was asked to stop and did not within its time.
    """

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"
    FINISHED = "finished"
    STOPPED = "stopped"
    UNSTOPPED = "unstopped"


ALIVE = frozenset({ChildStatus.STARTING, ChildStatus.RUNNING, ChildStatus.STOPPING, ChildStatus.WAITING})


@attrs.define(eq=False, kw_only=True)
class Incarnation:
    """One run of a child, from the start of its task to the end of it."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    # Ready, or over before that.
    settled: trio.Event = attrs.field(factory=trio.Event)
    # Exited, or known not to (``stuck``).
    over: trio.Event = attrs.field(factory=trio.Event)
    ready_at: float | None = None
    # What the child gave to ``task_status.started()``.
    value: Any = None
    exit: Exit | None = None
    stuck: UnstoppedChild | None = None
    # When it counts as unstopped; None while nobody asked it to stop.
    stop_by: float | None = None
    pid: int | None = None
    process_exit: ProcessExit | None = None
    # The supervisor, if the child is one.
    nested: object = None
    on_ready: Callable[[], None]

    def set_ready(self, value: object = None) -> None:
        if self.ready_at is not None:
            raise RuntimeError("task_status.started() was called twice")
        self.ready_at = trio.current_time()
        self.value = value
        self.on_ready()
        self.settled.set()

    def request_stop(self, stop_seconds: float) -> float:
        """Cancel the child, if that was not done before; give the time by which it has to be gone."""
        if self.stop_by is None:
            self.stop_by = trio.current_time() + stop_seconds
            self.scope.cancel()
        return self.stop_by

    def set_stuck(self, error: UnstoppedChild) -> None:
        self.stuck = error
        self.over.set()

    def set_exit(self, exit: Exit) -> None:
        self.exit = exit
        self.settled.set()
        self.over.set()


@attrs.frozen
class Readiness:
    """The ``task_status`` of a child: all of an incarnation that the child may touch."""

    incarnation: Incarnation

    def started(self, value: Any = None) -> None:
        self.incarnation.set_ready(value)


@attrs.define(eq=False, kw_only=True)
class Place:
    """A child's place in the tree: what does not change when the child is restarted."""

    spec: ChildSpec
    path: tuple[str, ...]
    status: ChildStatus = ChildStatus.STARTING
    incarnation: Incarnation | None = None
    restart_at: float | None = None
    # For a dynamic supervisor: what waits until ``restart_at``.
    delay_scope: trio.CancelScope | None = None
    restart_count: int = 0
    # Consecutive restarts without a long enough time of being ready, for the backoff.
    attempt: int = 0
    last_exit: Exit | None = None
    mailbox: Mailbox | None = None

    @property
    def name(self) -> str:
        return self.spec.name


def takes_task_status(start: StartFunction) -> bool:
    function = getattr(start, "__func__", start)
    if (
        type(function) is FunctionType and not function.__dict__
    ):  # it stands for no other, of which it has the signature
        code = function.__code__
        return "task_status" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    try:
        return "task_status" in inspect.signature(start).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False


async def run_function(place: Place, incarnation: Incarnation) -> None:
    """Run a child that is an async function."""
    spec = place.spec
    assert isinstance(spec, Child)
    assert callable(spec.start)
    arguments: dict[str, Any] = {}
    if place.mailbox is not None:
        # A clone: the child may close its end, as ``async with`` does, and the place keeps its own.
        arguments["mailbox"] = place.mailbox[1].clone()
    try:
        has_status = takes_task_status(spec.start)
        if has_status:
            arguments["task_status"] = Readiness(incarnation)
        awaitable = spec.start(*spec.args, **arguments)  # wrong arguments show here, before it counts as ready
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"child {place.name!r}: an async function is needed; this one returned {awaitable!r}")
        if not has_status:
            incarnation.set_ready()
        await awaitable
    finally:
        if "mailbox" in arguments:
            arguments["mailbox"].close()


async def run_incarnation(
    place: Place,
    incarnation: Incarnation,
    body: Callable[[Place, Incarnation], Awaitable[None]],
    on_exit: Callable[[Place, Incarnation], None],
    on_fatal: Callable[[BaseException], None],
) -> None:
    """Run a child in this task and tell ``on_exit`` how it ended.

    What is no crash of the child but the end of the program, such as KeyboardInterrupt, is given to ``on_fatal``: it
    must not cancel the siblings all at once. Only a Cancelled of somebody else's is raised.
    """
    error: Exception | None = None
    fatal: BaseException | None = None
    try:
        with incarnation.scope:
            await body(place, incarnation)
    except BaseException as raised:  # what is not the child's is raised again below
        error, fatal = split_failure(raised)
    if incarnation.stop_by is not None or fatal is not None:
        kind = ExitKind.STOPPED
    else:
        if error is None and incarnation.ready_at is None:
            error = RuntimeError(f"child {place.name!r} returned without calling task_status.started()")
        kind = ExitKind.RETURNED if error is None else ExitKind.CRASHED
    incarnation.set_exit(Exit(kind=kind, error=error, process=incarnation.process_exit))
    on_exit(place, incarnation)
    try:
        if fatal is not None:
            if part(fatal, trio.Cancelled) is not None:
                raise fatal
            on_fatal(fatal)
    finally:
        del error, fatal  # their tracebacks refer to this frame
