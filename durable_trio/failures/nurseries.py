"""Users' code in nurseries and scopes of trio's own: what it raises there, and what it leaves open.

Trio writes ``repr()`` of whatever comes out of a task or a block into the reason for the cancellation of the others. It
does so in its own loop, or in the middle of its bookkeeping, and a ``repr()`` that raises ends the process there, or
leaves the task's stack of scopes broken: that of an exception of the user's, or of groups that nest too deep for
Python's recursion, as some three hundred nurseries in each other make. So in the tasks of runs, and there only, what
trio cannot carry is exchanged before trio gets it, as it is at the doors of durable scopes.

And code that ends inside of scopes and nurseries of its own (a generator that is not exhausted does) leaves its task
in them. Where the task has more to do, they are closed for it.

Reaches into trio, because no public way stands before a nursery: a test guards what it assumes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import outcome
import trio

from durable_trio.failures.carrying import carried

__all__ = ["close_left_open", "guard_nurseries", "is_left_open"]


@functools.cache
def guard_nurseries(
    is_of_run: Callable[[trio.lowlevel.Task], bool],
    has_taken: Callable[[trio.Nursery, trio.lowlevel.Task, BaseException], bool],
) -> None:
    """Have nurseries survive whatever the tasks for which ``is_of_run`` raise; for all of the process's time.

    ``has_taken``: whether what comes out of such a task does not concern its nursery.
    """
    child_finished = trio.Nursery._child_finished
    nested_child_finished = trio.Nursery._nested_child_finished

    @functools.wraps(child_finished)
    def guarded_child(self: trio.Nursery, task: trio.lowlevel.Task, result: outcome.Outcome[Any]) -> None:
        if isinstance(result, outcome.Error) and is_of_run(task):
            error = carried(result.error)
            if has_taken(self, task, error):
                result = outcome.Value(None)
            elif error is not result.error:
                result = outcome.Error(error)
        child_finished(self, task, result)

    @functools.wraps(nested_child_finished)
    async def guarded_block(self: trio.Nursery, error: BaseException | None) -> BaseException | None:
        if error is not None and is_of_run(self._parent_task):
            error = carried(error)
        return await nested_child_finished(self, error)

    trio.Nursery._child_finished = guarded_child  # type: ignore[method-assign, assignment]
    trio.Nursery._nested_child_finished = guarded_block  # type: ignore[method-assign, assignment]


def is_left_open(within: trio.CancelScope) -> bool:
    """Return whether the calling task, which has entered ``within``, has not left all that it has entered since."""
    status = within._cancel_status
    return status is not None and not status._tasks


async def close_left_open(within: trio.CancelScope) -> None:
    """Close what the calling task has left open inside of ``within``, the innermost first; nurseries are cancelled.

    As where a task of trio's ends: scopes are closed without a word, a nursery is an error.

    Raises:
        RuntimeError: there was a nursery.
        BaseException: what its tasks have raised besides failures, such as ``trio.Cancelled``.
    """
    task = trio.lowlevel.current_task()
    was_nursery = False
    error: BaseException | None = None
    while is_left_open(within) and task._cancel_status is not None:
        scope = task._cancel_status._scope
        if task._child_nurseries and task._child_nurseries[-1].cancel_scope is scope:
            was_nursery = True
            scope.cancel("the block around the nursery was never left")
            error = await task._child_nurseries[-1]._nested_child_finished(error)
        error = scope._close(error)
    if error is not None and not isinstance(error, Exception):
        raise error
    if was_nursery:
        raise RuntimeError(
            "a nursery was opened and never left: use `async with`, and leave no generator that has one before its end"
        ) from error
