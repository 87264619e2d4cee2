"""How the tasks of a body go when their run leaves this process, and what becomes of one that does not.

A body is asked to leave by exceptions, and may catch them: ``except:`` in a loop around a wait is a common mistake. So
each durable call that is refused lets others go first, and what the tasks of one run do after it has left is counted.
Past a bound its tasks are *abandoned*: the next time that trio would go on with one, it is told that the task has ended
with ``Detached``, and the coroutine is never touched again. Whoever waits for that task goes on. The body's own task
ends without an exception instead: around it are the tasks of other runs.

Reaches into trio, because no public way ends a task without its consent: a test guards what it assumes.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import trio

from durable_trio.errors import Detached
from durable_trio.turns.foreign import place_of
from durable_trio.turns.lane import Lane

# What one task may need to leave in order: a few waits in its ``finally`` blocks.
_STEPS_PER_TASK: Final = 200
# What all may have on top: a body that cleans up over the network is no runaway. A loop makes so many in half a second,
# while everybody else goes on.
_STEPS_SHARED: Final = 20_000
# A refused call tells more than a step does: only a loop meets thousands of them.
_STEPS_PER_REFUSAL: Final = 20
# What each task gets after all that, so that those around one that was abandoned still leave in order.
_STEPS_LAST: Final = 20
# How long a task that is not ours to abandon waits at each further call, so that it leaves the processor to others.
_PAUSE_SECONDS: Final = 0.1


class Exit(Lane):
    """Takes the place of a run's lane when it leaves: all tasks go at once, so many steps and no more.

    Args:
        lane: the one before.
        task_count: of the body.
        on_task_abandoned: called with the place where a task was that is abandoned, and whether it was the body's own.
    """

    def __init__(self, lane: Lane, task_count: int, on_task_abandoned: Callable[[str, bool], None]) -> None:
        super().__init__()
        lane.open()
        self.is_open = True
        self.first, self.is_guest = lane.first, lane.is_guest
        self._on_task_abandoned = on_task_abandoned
        self._steps_left = _STEPS_SHARED + _STEPS_PER_TASK * task_count
        self._last_steps: Counter[trio.lowlevel.Task] = Counter()
        self._has_given_up = False

    def scheduled(self, task: trio.lowlevel.Task) -> None:
        """A task of the body is about to make a step: abandon it if there were too many."""
        self._steps_left -= 1
        is_own = task is self.first
        if self._steps_left >= 0 or (is_own and self.is_guest):
            return
        self._last_steps[task] += 1
        if self._last_steps[task] <= _STEPS_LAST:
            return
        if any(nursery.child_tasks for nursery in task.child_nurseries):
            return  # they come first: a task must not end before its children
        place = place_of(task)
        task._child_nurseries.clear()
        task._next_send_fn = _return if is_own else _end
        _keep_for_ever(task.coro)
        self._on_task_abandoned(place, is_own)

    def exited(self, task: trio.lowlevel.Task) -> None:
        """A task of the body has ended."""
        super().exited(task)
        self._last_steps.pop(task, None)

    async def raise_detached(self) -> NoReturn:
        """Raise ``Detached`` in a durable call; the more often, the sooner its task is abandoned."""
        self._steps_left -= _STEPS_PER_REFUSAL
        task = trio.lowlevel.current_task()
        if self._steps_left < 0 and self.is_guest and task is self.first:
            if not self._has_given_up:
                self._has_given_up = True
                self._on_task_abandoned(place_of(task), True)
            with trio.CancelScope(shield=True):
                await trio.sleep(_PAUSE_SECONDS)
        await super().raise_detached()


def _end(_: object) -> NoReturn:
    raise Detached


def _return(_: object) -> NoReturn:
    raise StopIteration  # as a coroutine returns


def _keep_for_ever(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Have a coroutine never finalised, not even when the interpreter ends.

    Its finaliser would raise ``GeneratorExit`` in the same loop, which catches that too and has no trio around it any
    more to wait in: it would never end, in whatever place the garbage is collected.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))
