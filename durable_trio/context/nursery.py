"""Durable branches: a trio nursery whose tasks have contexts, and so key spaces, of their own.

A branch's keys come from the structure of the program: the nursery, the branch that calls ``start_soon``, the name, and
how often that name came before from there. Starts are delivered one at a time, in the order of ``start_soon``.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVarTuple

import trio

from durable_trio.calls.body import Branch
from durable_trio.failures import CARRYING
from durable_trio.limits import NURSERY_DEPTH_MAX, check_name
from durable_trio.looks import class_name, look
from durable_trio.rows import escape

Ts = TypeVarTuple("Ts")


class DurableNursery:
    """What ``ctx.open_nursery()`` gives. ``cancel_scope`` is that of the trio nursery inside."""

    def __init__(
        self, owner: Branch, path: str, nursery: trio.Nursery, depth: int, make_context: Callable[[Branch], Any]
    ) -> None:
        self._owner = owner
        self._make_context = make_context
        self._path = path
        self._nursery = nursery
        self._depth = depth
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancels all branches and the block, as in trio."""
        return self._nursery.cancel_scope

    def start_soon(self, fn: Callable[[Any, *Ts], Awaitable[object]], *args: *Ts, name: str | None = None) -> None:
        """Start a durable branch: ``await fn(branch_ctx, *args)``, with a context of its own.

        Args:
            name: part of the branch's keys, 1 to 256 characters; default the function's name. Several may share it.

        Raises:
            RuntimeError: not called from a task of this run's body, or the nursery is closed.
            ValueError: a name that cannot be stored.
        """
        body = self._owner.body
        branch_name = check_name("branch name", _shown_name(fn) if name is None else name)
        caller = body.branch_of_current_task().path
        count = self._counts.get((caller, branch_name), 0)
        self._counts[caller, branch_name] = count + 1
        segment = f"{escape(branch_name)}#{count}"
        if caller != self._owner.path:
            segment = f"{escape(caller)}>{segment}"
        place = body.lobby.announce_start()
        self._nursery.start_soon(self._run, place, f"{self._path}/{segment}", fn, args, name=f"branch {branch_name}")

    async def _run(self, place: int, path: str, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        body = self._owner.body
        await body.lobby.await_start(place)
        with Branch(body, path, depth=self._depth) as branch, CARRYING:
            await fn(self._make_context(branch), *args)


@asynccontextmanager
async def open_nursery(branch: Branch, make_context: Callable[[Branch], Any]) -> AsyncIterator[DurableNursery]:
    """Open a nursery of durable branches, each with a context of its own; see ``Context.open_nursery``."""
    branch.check_task()
    depth = branch.depth + branch.open_nursery_count
    if depth >= NURSERY_DEPTH_MAX:
        raise RecursionError(
            f"run {branch.body.run_id!r} has {depth} nurseries open around this one; at most {NURSERY_DEPTH_MAX} may "
            "nest, because a failure inside would come out as as many groups in each other"
        )
    path = str(branch.next_key("nursery name", "nursery"))
    branch.open_nursery_count += 1
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            with CARRYING:
                yield DurableNursery(branch, path, nursery, depth + 1, make_context)
    finally:
        branch.open_nursery_count -= 1


def _shown_name(fn: Callable[..., object]) -> str:
    return look(_name_of, fn, instead=lambda _: class_name(type(fn)))


def _name_of(fn: Callable[..., object]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return str(name).strip("<>")
