"""Durable branches: a trio nursery whose tasks have contexts, and so key spaces, of their own.

A branch's keys come from the structure of the program: the nursery, the branch that calls ``start_soon``, the name, and
how often that name came before from there. Starts are delivered one at a time, in the order of ``start_soon``.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from durable_trio.failures import CARRYING
from durable_trio.limits import check_name
from durable_trio.looks import class_name, look
from durable_trio.records import escape

if TYPE_CHECKING:
    from durable_trio.context.base import ContextBase


class DurableNursery:
    """What ``ctx.open_nursery()`` gives. ``cancel_scope`` is that of the trio nursery inside."""

    def __init__(self, owner: ContextBase, path: str, nursery: trio.Nursery, depth: int) -> None:
        self._owner = owner
        self._path = path
        self._nursery = nursery
        self._depth = depth
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """Cancels all branches and the block, as in trio."""
        return self._nursery.cancel_scope

    def start_soon(self, fn: Callable[..., Awaitable[object]], *args: Any, name: str | None = None) -> None:
        """Start a durable branch: ``await fn(branch_ctx, *args)``, with a context of its own.

        Args:
            name: part of the branch's keys, 1 to 256 characters; default the function's name. Several may share it.

        Raises:
            RuntimeError: not called from a task of this run's body, or the nursery is closed.
            ValueError: a name that cannot be stored.
        """
        env = self._owner.env
        branch_name = check_name("branch name", _shown_name(fn) if name is None else name)
        caller = env.context_of_current_task().branch
        count = self._counts.get((caller, branch_name), 0)
        self._counts[caller, branch_name] = count + 1
        segment = f"{escape(branch_name)}#{count}"
        if caller != self._owner.branch:
            segment = f"{escape(caller)}>{segment}"
        place = env.turns.announce_start()
        self._nursery.start_soon(self._run, place, f"{self._path}/{segment}", fn, args, name=f"branch {branch_name}")

    async def _run(self, place: int, branch: str, fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        env = self._owner.env
        await env.turns.await_start(place)
        with env.branch(branch, depth=self._depth) as context, CARRYING:
            await fn(context, *args)


def _shown_name(fn: Callable[..., object]) -> str:
    return look(_name_of, fn, instead=lambda _: class_name(type(fn)))


def _name_of(fn: Callable[..., object]) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return str(name).strip("<>")
