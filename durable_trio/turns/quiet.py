"""Notices when all tasks of a body are blocked.

One trio instrument serves all resident runs of a trio run. A task belongs to a run if its context variable says so:
tasks that a body spawns inherit it, step functions run with it cleared. It counts per run the tasks that are
runnable; where the count falls to zero the run is *quiet*. It is installed only while a run is resident.

It also tells the run's ``lane``, which keeps its tasks apart.

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
    # Goes on with whatever can be delivered now.
    pump: Callable[[], None]

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
