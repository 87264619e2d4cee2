"""Notices when all tasks of a body are blocked.

One trio instrument serves all resident runs of a trio run. A task belongs to a run if its context variable says so:
tasks that a body spawns inherit it, step functions run with it cleared. It counts per run the tasks that are
runnable; where the count falls to zero the run is *quiet*. It is installed only while a run is resident.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import trio

BODY: ContextVar[Watched | None] = ContextVar("durable_trio_body", default=None)


class Watched(Protocol):
    """What the instrument needs of a run."""

    runnable_count: int
    tasks: set[trio.lowlevel.Task]

    def pump(self) -> None:
        """Go on with whatever can be delivered now."""


class _Quiet(trio.abc.Instrument):
    def __init__(self) -> None:
        self.users = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.tasks.discard(task)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        watched = task.context.get(BODY)
        if watched is not None:
            watched.runnable_count -= 1
            if watched.runnable_count == 0:
                watched.pump()


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
    place = "unknown place"
    for frame, line in task.iter_await_frames():
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("trio.", "durable_trio.")):
            place = f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
        modules.append(name)
        if name == "trio._core._run" and frame.f_code.co_name == "_nested_child_finished":
            return None
    if not also_in_process and any(module in _IN_PROCESS_MODULES for module in modules):
        return None
    return place
