"""``from_asyncio``: functions of asyncio's as steps."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from durable_trio.calls.current_step import CURRENT
from durable_trio.looks import is_async
from durable_trio.platforms.hosts.bridges import BRIDGE

__all__ = ["from_asyncio"]

P = ParamSpec("P")
R = TypeVar("R")


def from_asyncio(fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Make an ``async def`` of asyncio's a function for steps: ``await ctx.step("fetch", from_asyncio(fetch), url)``.

    It runs as a task of the event loop in which the engine was opened, with a copy of the step's context variables:
    ``current_step()`` works in it. Names, types and all options of the step are as for any other function.

    *Cancellation:* of the step, as by its timeout, cancels the task and waits for its end; if it returns all the same,
    that is recorded. If somebody else cancels the task, as the end of ``asyncio.run`` does, the step has no outcome:
    the run leaves this process, and goes on in the next one.

    Raises:
        TypeError: ``fn`` is no ``async def``.
        RuntimeError: from the step, if its engine was not opened by ``durable_trio.asyncio``; or it is no step.
    """
    if not is_async(fn):
        raise TypeError(f"from_asyncio takes an `async def`, not {fn!r}; give a sync function to ctx.step as it is")

    @functools.wraps(fn)
    async def step(*args: P.args, **kwargs: P.kwargs) -> R:
        name = getattr(fn, "__qualname__", repr(fn))
        current = CURRENT.get()
        if current is None:
            raise RuntimeError(f"{name} is made for a step by from_asyncio: write await ctx.step('{name}', …)")
        bridge = BRIDGE.get()
        if bridge is None:
            raise RuntimeError(
                f"{name} needs the event loop of asyncio, and this engine was opened in none: open it with "
                "durable_trio.asyncio.open_engine(…), or make the function one of trio's"
            )
        call = current[0]
        where = f"{name} ← {call.run_id}/{call.key}"
        result: Any = await bridge.run_task(functools.partial(fn, *args, **kwargs), name=where, left_alone=call.leave)
        return result  # type: ignore[no-any-return]

    return step
