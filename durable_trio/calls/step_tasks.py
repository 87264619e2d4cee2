"""Tasks for step functions: spawned in the run's nursery beside the body, and used again while the run is resident.

Spawning a task and a cancel scope for each step would cost about as much as all the rest of a step.
"""

from __future__ import annotations

from contextvars import Context
from typing import Protocol

import attrs
import trio
from outcome import Value

from durable_trio.doors import guarded, tell
from durable_trio.failures import is_cancelled

# Tasks kept for the next step; a burst of many concurrent steps leaves no more behind.
_IDLE_TASKS_MAX = 4


class Job(Protocol):
    """One attempt of a function."""

    async def run(self, scope: trio.CancelScope) -> None:
        """Run the function inside ``scope``, which may be cancelled. It lets Ctrl-C come, if that is for it."""

    def ended(self) -> None:
        """The function has come out, or was cancelled."""


@attrs.define(eq=False)
class StepTasks:
    """Runs jobs, each in a task that runs nothing else meanwhile."""

    _nursery: trio.Nursery
    _name: str
    _idle: list[_Worker] = attrs.field(factory=list, init=False)

    def start(self, context: Context, job: Job) -> None:
        """Run a job in a task with the given context."""
        if self._idle:
            task = self._idle.pop().task
            task.context = context
            trio.lowlevel.reschedule(task, Value(job))
        else:
            context.run(self._spawn, job)

    def _spawn(self, job: Job) -> None:
        self._nursery.start_soon(_Worker(self._idle).work, job, name=self._name)


class _Worker:
    """One task for jobs, and its place among the idle ones."""

    __slots__ = ("_idle", "task")

    def __init__(self, idle: list[_Worker]) -> None:
        self._idle = idle
        self.task: trio.lowlevel.Task

    # Ctrl-C must not come between standing among the idle ones and waiting there: it is for what a job calls.
    @trio.lowlevel.enable_ki_protection
    async def work(self, job: Job) -> None:
        self.task = trio.lowlevel.current_task()
        while True:
            with trio.CancelScope() as scope:
                while True:
                    try:
                        await job.run(scope)
                    except BaseException as error:  # of ours: the function's own is an outcome
                        if is_cancelled() and not isinstance(error, Exception):
                            raise
                        tell(job, error)
                        return
                    if scope.cancel_called:
                        break
                    try:  # as ``guarded`` does: each step passes here
                        job.ended()
                    except BaseException as error:
                        tell(job, error)
                    if len(self._idle) >= _IDLE_TASKS_MAX:
                        return
                    self._idle.append(self)
                    job = await trio.lowlevel.wait_task_rescheduled(self._abort)
            guarded(job.ended)  # its scope is used up
            if len(self._idle) >= _IDLE_TASKS_MAX:
                return
            self._idle.append(self)
            job = await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED
