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


class Errand(Protocol):
    """What is done in such a task: one attempt of a function, or a look at a child."""

    async def run(self, scope: trio.CancelScope) -> None:
        """Do it inside ``scope``, which may be cancelled. It lets Ctrl-C come, if that is for it."""

    def ended(self) -> None:
        """It has come out, or was cancelled."""


@attrs.define(eq=False)
class StepTasks:
    """Runs errands, each in a task that runs nothing else meanwhile."""

    _nursery: trio.Nursery
    _name: str
    _idle: list[_StepTask] = attrs.field(factory=list, init=False)

    @property
    def idle_count(self) -> int:
        """How many of the tasks have nothing to do; they end as soon as they are cancelled."""
        return len(self._idle)

    def start(self, context: Context, errand: Errand) -> None:
        """Run an errand in a task with the given context."""
        if self._idle:
            task = self._idle.pop().task
            task.context = context
            trio.lowlevel.reschedule(task, Value(errand))
        else:
            context.run(self._spawn, errand)

    def _spawn(self, errand: Errand) -> None:
        self._nursery.start_soon(_StepTask(self._idle).serve, errand, name=self._name)


class _StepTask:
    """One task for errands, and its place among the idle ones."""

    __slots__ = ("_idle", "task")

    def __init__(self, idle: list[_StepTask]) -> None:
        self._idle = idle
        self.task: trio.lowlevel.Task

    # Ctrl-C must not come between standing among the idle ones and waiting there: it is for what an errand calls.
    @trio.lowlevel.enable_ki_protection
    async def serve(self, errand: Errand) -> None:
        self.task = trio.lowlevel.current_task()
        while True:
            with trio.CancelScope() as scope:
                while True:
                    try:
                        await errand.run(scope)
                    except BaseException as error:  # of ours: the function's own is an outcome
                        if is_cancelled() and not isinstance(error, Exception):
                            raise
                        tell(errand, error)
                        return
                    if scope.cancel_called:
                        break
                    try:  # as ``guarded`` does: each step passes here
                        errand.ended()
                    except BaseException as error:
                        tell(errand, error)
                    if len(self._idle) >= _IDLE_TASKS_MAX:
                        return
                    self._idle.append(self)
                    errand = await trio.lowlevel.wait_task_rescheduled(self._abort)
            guarded(errand.ended)  # its scope is used up
            if len(self._idle) >= _IDLE_TASKS_MAX:
                return
            self._idle.append(self)
            errand = await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._idle.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED
