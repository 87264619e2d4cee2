"""Notices when all tasks of a body are blocked.

One trio instrument serves all resident runs of a trio run. A task belongs to a run if its context variable says so:
tasks that a body spawns inherit it, step functions run with it cleared. It counts per run the tasks that are
runnable; where the count falls to zero the run is *quiet*. It is installed only while a run is resident.

It also keeps the tasks of one body apart. Trio shuffles the tasks that are runnable at once, and keeps those that wait
for an event or sit in a cancelled scope in sets: two tasks that one outcome wakes would run in another order at replay.
So only one task of a body at a time is in trio's run queue; the next follows when it has made its step.

Trio takes out an instrument that raises, and all runs would stand still: so a fault of ours in here is told to the run
that it came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn, Protocol

import trio

from durable_trio.doors import tell
from durable_trio.errors import Detached

BODY: ContextVar[Watched | None] = ContextVar("durable_trio_body", default=None)


class Lane:
    """Lets the tasks of one body go one at a time, in an order that the body alone decides.

    Tasks that are woken together (by one step of a task, or by one delivery) go in the order of their ages, behind
    those that were woken before. A task that something else wakes, which no replay repeats, goes behind all.

    Reaches into trio's run queue, because no instrument can hold a task back: a test guards what it assumes.
    """

    def __init__(self) -> None:
        self._going: trio.lowlevel.Task | None = None  # in trio's hands
        self._woken: list[trio.lowlevel.Task] = []  # since the last look
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._ages: dict[trio.lowlevel.Task, int] = {}
        self._count = 0
        self._is_open = False
        self.adopted: trio.lowlevel.Task | None = None  # not ours: it was there before, and goes on afterwards

    def spawned(self, task: trio.lowlevel.Task) -> None:
        """A task of the body begins."""
        self._count += 1
        self._ages[task] = self._count

    def exited(self, task: trio.lowlevel.Task) -> None:
        """A task of the body has ended."""
        self._ages.pop(task, None)

    def adopt(self, task: trio.lowlevel.Task) -> None:
        """The calling task becomes one of the body."""
        self.spawned(task)
        self.adopted = self._going = task

    def scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio has just put a task into its run queue: take it out again if another one goes."""
        if self._is_open:
            return
        if self._going is None:
            self._going = task
            return
        queue = task._runner.runq
        assert queue[-1] is task
        queue.pop()
        self._woken.append(task)

    def delivered(self) -> None:
        """Something was delivered: of the tasks that it has woken, the oldest goes first."""
        if not self._woken:
            return
        assert self._going is not None
        self._going._runner.runq.remove(self._going)
        self._woken.append(self._going)
        self._next()

    def stepped(self) -> None:
        """The task that goes has made its step."""
        if self._woken or self._waiting:
            self._next()
        else:
            self._going = None

    def open(self) -> None:
        """Let all tasks go at once, from now on: nobody looks on any more, or the run leaves."""
        self._is_open = True
        for task in (*self._waiting, *self._woken):
            task._runner.runq.append(task)
        self._waiting.clear()
        self._woken.clear()

    async def refuse(self) -> NoReturn:
        """Raise ``Detached`` in a durable call of a run that has left; others go first, since a body may catch it."""
        await trio.lowlevel.cancel_shielded_checkpoint()
        raise Detached

    def _next(self) -> None:
        if len(self._woken) > 1:
            self._woken.sort(key=lambda task: self._ages.get(task, 0))
        self._waiting.extend(self._woken)
        self._woken.clear()
        self._going = self._waiting.popleft()
        self._going._runner.runq.append(self._going)


class Watched(Protocol):
    """What the instrument needs of a run."""

    runnable_count: int
    tasks: set[trio.lowlevel.Task]
    lane: Lane

    def pump(self) -> None:
        """Go on with whatever can be delivered now."""

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run. Must not raise."""


class _Quiet(trio.abc.Instrument):
    def __init__(self) -> None:
        self.users = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            try:
                watched.tasks.add(task)
                watched.lane.spawned(task)
            except BaseException as error:
                tell(watched, error)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            try:
                watched.tasks.discard(task)
                watched.lane.exited(task)
            except BaseException as error:
                tell(watched, error)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count += 1
            try:
                watched.lane.scheduled(task)
            except BaseException as error:
                tell(watched, error)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count -= 1
            try:
                watched.lane.stepped()
                if watched.runnable_count == 0:
                    watched.pump()
            except BaseException as error:
                tell(watched, error)


_instrument: trio.lowlevel.RunVar[_Quiet] = trio.lowlevel.RunVar("durable_trio_quiet")


@contextmanager
def watching() -> Iterator[None]:
    """Have the instrument installed inside the block; blocks may overlap."""
    try:
        quiet = _instrument.get()
    except LookupError:
        quiet = _Quiet()
        _instrument.set(quiet)
    if quiet.users == 0:
        trio.lowlevel.add_instrument(quiet)
    quiet.users += 1
    try:
        yield
    finally:
        quiet.users -= 1
        if quiet.users == 0:
            trio.lowlevel.remove_instrument(quiet)
            for task in _all_tasks(trio.lowlevel.current_root_task()):  # what outlives an inline run's block
                watched = task.context.get(BODY)
                if watched is not None:
                    watched.lane.open()


def _all_tasks(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    left = [task] if task is not None else []
    while left:
        task = left.pop()
        yield task
        left.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)


# Where a task that waits for another task of this process is blocked, as seen by the innermost frames' module.
_IN_PROCESS_MODULES = frozenset(
    {"trio._sync", "trio._channel", "trio._core._parking_lot", "trio._core._unbounded_queue"}
)


def foreign_wait(task: trio.lowlevel.Task, *, also_in_process: bool = False) -> str | None:
    """Return where a blocked task waits for something outside the process, as ``file:line in function``, else None.

    A nursery's exit and trio's primitives between tasks are no such waits: their end comes from another task.
    That other task need not be the body's own; ``also_in_process`` counts the primitives too.
    """
    modules: list[str] = []
    for frame, _ in task.iter_await_frames():
        name = frame.f_globals.get("__name__", "")
        modules.append(name)
        if name == "trio._core._run" and frame.f_code.co_name == "_nested_child_finished":
            return None
    if not also_in_process and any(module in _IN_PROCESS_MODULES for module in modules):
        return None
    return place_of(task)


def place_of(task: trio.lowlevel.Task) -> str:
    """Return the innermost line of the user's at which a task is, as ``file:line in function``."""
    place = "unknown place"
    for frame, line in task.iter_await_frames():
        if not frame.f_globals.get("__name__", "").startswith(("trio.", "durable_trio.", "contextlib")):
            place = f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    return place
