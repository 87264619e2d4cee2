"""Opening an engine in a program of asyncio's: for a block, or from here to there."""

from __future__ import annotations

import asyncio
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Literal, Unpack

import durable_trio.engine.engine as native
from durable_trio.asyncio.engine import Engine
from durable_trio.asyncio.life import Life, Manager
from durable_trio.engine.settings import OpenOptions
from durable_trio.logger import Logger
from durable_trio.stores.contract import Store

__all__ = ["open_client", "open_engine", "start_engine"]

_LOGGER = Logger("durable_trio.processes")


class Opening:
    """An engine that is open inside a block."""

    def __init__(self, host: str, manager: Manager) -> None:
        self._host = host
        self._manager = manager
        self._life: Life | None = None
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False

    async def __aenter__(self) -> Engine:
        self._life = await Life.open(self._host, self._manager, self._end_block)
        self._task = asyncio.current_task()
        if self._life.is_over.is_set():  # so soon
            self._end_block()
        return Engine(self._life)

    def _end_block(self) -> None:
        """The engine has failed: nothing in the block is to wait for it any more."""
        if self._life is not None and self._task is not None and not self._task.done():
            self._has_cancelled = self._task.cancel("the engine has failed")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        life, task = self._life, self._task
        assert life is not None
        is_cancelled = isinstance(error, asyncio.CancelledError) and not self._has_cancelled
        try:
            await life.close(int(is_cancelled))
        finally:
            if self._has_cancelled and task is not None:
                task.uncancel()


def open_engine(
    store: str | PathLike[str] | Store, *, host: Literal["guest", "thread"] = "guest", **options: Unpack[OpenOptions]
) -> Opening:
    """Serve inside a block: ``async with open_engine("app.db", workflows=[order]) as engine:``.

    At the block's end the engine drains and closes, also if the block is cancelled, as by Ctrl-C in ``asyncio.run``; if
    the task is cancelled again meanwhile, it stops at once. An exception of the block comes out as itself.

    Args:
        store, options: as ``durable_trio.open_engine``.
        host: where the engine runs. ``"guest"``: in the thread of the event loop, beside its tasks. ``"thread"``: in a
            thread of its own, for programs whose loop is blocked for seconds.

    Raises:
        ExceptionGroup: the engine has failed for good. The block is cancelled, and this comes out of it.
        ValueError, TypeError, StoreError: as ``durable_trio.open_engine``.
    """
    return Opening(host, partial(native.open_engine, store, **options))


def open_client(
    store: str | PathLike[str] | Store, *, host: Literal["guest", "thread"] = "guest", **options: Unpack[OpenOptions]
) -> Opening:
    """Use a store inside a block, and execute nothing: ``async with open_client("app.db") as engine:``.

    Another process serves. Arguments and errors are those of ``open_engine``.
    """
    return Opening(host, partial(native.Engine, store, **options))


async def start_engine(
    store: str | PathLike[str] | Store, *, host: Literal["guest", "thread"] = "guest", **options: Unpack[OpenOptions]
) -> Engine:
    """Serve from now on, until ``await engine.aclose()``, which may be in another task.

    For frameworks that begin and end in different tasks. If the loop ends before, as ``asyncio.run`` does when its main
    task has ended, the engine drains then. If the engine fails for good, the log and ``engine.wait_closed()`` say so.
    Else as ``open_engine``.

    *Cancellation:* while it opens, of the task that waits leaves no engine open.
    """
    life = await Life.open(host, partial(native.open_engine, store, **options), _guard_sees)
    life.guard = asyncio.create_task(_guard(life), name="durable_trio: await engine.aclose() ends this")
    return Engine(life)


def _guard_sees() -> None:
    """The task that guards an engine waits for its end."""


async def _guard(life: Life) -> None:
    """Close an engine that has failed, and one whose loop ends: then this task is cancelled."""
    try:
        await life.is_over.wait()
    except asyncio.CancelledError:
        await life.close(1)
        raise
    try:
        await life.close()
    except Exception as error:  # it is told to who waits for its end, too
        _LOGGER.critical("the engine has failed, and is closed", exc_info=error)
