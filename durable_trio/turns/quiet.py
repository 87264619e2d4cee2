"""Notices when all tasks of a body are blocked.

Two trio instruments serve all resident runs of a trio run: one sees tasks, and one their steps. A task belongs to a run
if its context variable says so: tasks that a body spawns inherit it, step functions run with it cleared. Counted are
per run the tasks that are runnable; where the count falls to zero the run is *quiet*. Nothing is installed unless a run
is resident.

Trio tells of each step of every task, and most are of no body. So what sees steps is installed only while a body is
*afoot*. One is not while it rests with one task, which waits in a durable call: from there only the run itself wakes
it, and has it seen before (``go``). Whatever else there may be in a body keeps it afoot.

They also tell the run's ``lane``, which keeps its tasks apart.

Trio takes out an instrument that raises, and all runs would stand still: so a fault of ours in here is told to the run
that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import trio

from durable_trio.doors import tell
from durable_trio.turns.lane import Lane

BODY: ContextVar[Watched | None] = ContextVar("durable_trio_body", default=None)


class Watched(Protocol):
    """What the instrument needs of a run."""

    runnable_count: int
    tasks: set[trio.lowlevel.Task]
    lane: Lane
    # Whether its steps are to be seen: kept by ``go`` and ``rest``.
    is_afoot: bool
    # Goes on with whatever can be delivered now.
    pump: Callable[[], None]

    def failed(self, error: BaseException) -> None:
        """Something of ours has failed in this run. Must not raise."""


class _Tasks(trio.abc.Instrument):
    """Knows which tasks a body has."""

    def __init__(self) -> None:
        self.user_count = 0
        self.afoot_count = 0
        self.steps = _Steps()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            try:
                watched.tasks.add(task)
                watched.lane.spawned(task)
                go(watched)
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


class _Steps(trio.abc.Instrument):
    """Notices when a body is quiet."""

    def __dir__(self) -> tuple[str, ...]:
        """Name all that there is for trio, which looks at each name whenever this is installed."""
        return ("task_scheduled", "after_task_step")

    # These two are called for each step of each task. Nearly always a body has one task, and its lane only notes
    # whether that goes: this is done here.

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count += 1
            try:
                lane = watched.lane
                if lane.going is None and not lane.is_open:
                    lane.going = task
                else:
                    lane.scheduled(task)
            except BaseException as error:
                tell(watched, error)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count -= 1
            try:
                lane = watched.lane
                if lane.woken or lane.waiting:
                    lane.stepped()
                else:
                    lane.going = None
                if watched.runnable_count == 0:
                    watched.pump()
                if not watched.tasks:  # it has ended, with this step
                    rest(watched)
            except BaseException as error:
                tell(watched, error)


_instrument: trio.lowlevel.RunVar[_Tasks | None] = trio.lowlevel.RunVar("durable_trio_quiet")


def go(watched: Watched) -> None:
    """Have the steps of a body seen: a task of it is about to be woken, or is there."""
    tasks = _instrument.get(None)
    if watched.is_afoot or tasks is None:  # nobody watches
        return
    watched.is_afoot = True
    tasks.afoot_count += 1
    if tasks.afoot_count == 1 and tasks.user_count:
        trio.lowlevel.add_instrument(tasks.steps)


def rest(watched: Watched) -> None:
    """Have the steps of a body not seen, until ``go``: it has one task, which nobody else wakes, or none."""
    tasks = _instrument.get(None)
    if not watched.is_afoot or tasks is None:
        return
    watched.is_afoot = False
    tasks.afoot_count -= 1
    if tasks.afoot_count == 0 and tasks.user_count:
        trio.lowlevel.remove_instrument(tasks.steps)


@contextmanager
def watching() -> Iterator[None]:
    """Have the instrument installed inside the block; blocks may overlap."""
    quiet = _instrument.get(None)
    if quiet is None:
        quiet = _Tasks()
        _instrument.set(quiet)
    if quiet.user_count == 0:
        trio.lowlevel.add_instrument(quiet)
        if quiet.afoot_count:
            trio.lowlevel.add_instrument(quiet.steps)
    quiet.user_count += 1
    try:
        yield
    finally:
        quiet.user_count -= 1
        if quiet.user_count == 0:
            trio.lowlevel.remove_instrument(quiet)
            if quiet.afoot_count:
                trio.lowlevel.remove_instrument(quiet.steps)
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
