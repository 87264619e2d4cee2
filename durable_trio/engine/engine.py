"""``Engine``: the facade. It checks what it is given, hands it to the services of its tree, and converts what comes.

Here is its life; what it can be asked is in ``run_calls``, ``query_calls`` and ``upkeep_calls``.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from os import PathLike
from types import TracebackType
from typing import Self, Unpack

import trio

from durable_trio.engine import os_signals
from durable_trio.engine.query_calls import QueryCalls
from durable_trio.engine.run_calls import RunCalls
from durable_trio.engine.settings import OpenOptions
from durable_trio.engine.upkeep_calls import UpkeepCalls
from durable_trio.stores.base import Store


class Engine(RunCalls, QueryCalls, UpkeepCalls, trio.abc.AsyncResource):
    """Durable runs on one store. Serve with ``trio.run(engine.serve)``, or use it as a client with ``async with``.

    Args:
        store: a path, ``":memory:"`` (this process only), or a ``Store``.
        workflows: those that this engine knows; runs of others are left alone.
        observers: instances of ``Observer``; their errors disturb no run.
        errors: exception classes that steps may raise and replay may need, beyond builtins, trio's and the
            workflow's module's.
        concurrency: runs that are in memory at once; others wait in the store.
        durability: ``"full"`` survives power loss, ``"normal"`` the death of the process.
        strict: raise where the engine would only warn.
        options: ``lease_seconds=30``, ``grace_seconds=10``, ``payload_bytes_max=4 MiB``,
            ``replay_stall_seconds=10``, ``clock``.

    Raises:
        TypeError, ValueError: an option of another name, or out of range.
    """

    # ---- life --------------------------------------------------------------------------------------------------

    async def serve(
        self,
        *,
        signals: Sequence[int] | bool | None = None,
        task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open the store, run the whole tree until cancelled or told to stop, close.

        As ``trio.run``'s main task, SIGTERM and SIGINT drain it and it returns; a second one stops it at once.
        ``signals=`` names other signals, ``False`` none.

        *Cancellation:* drains for ``grace_seconds``, then detaches. Nothing fails, nothing is cancelled by it.
        *Durability:* whatever was acknowledged goes on in the next process that serves.

        Raises:
            StoreError: the store cannot be opened.
            ExceptionGroup: a service has failed for good; names which.
        """
        handled = self._signals_to_handle(signals)
        with os_signals.received(handled) as os_signals_received:  # before anything else: a start can be interrupted
            await self._open_store()
            try:
                stop, grace = trio.Event(), trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    if os_signals_received is not None:
                        nursery.start_soon(os_signals.wait_for_stop, os_signals_received, stop.set, grace.cancel)
                    await nursery.start(self._run_tree, stop, grace)
                    task_status.started(self)
                    try:
                        await stop.wait()
                        with trio.CancelScope(shield=True):
                            await self._tree_ended.wait()
                    finally:
                        stop.set()
                        if self._tree_ended.is_set():
                            nursery.cancel_scope.cancel()
            finally:
                await self._close_store()

    def _signals_to_handle(self, signals: Sequence[int] | bool | None) -> Sequence[int]:
        if signals is None:
            signals = os_signals.is_main_task()
        if isinstance(signals, bool):
            return os_signals.DEFAULT if signals else ()
        return [signal.Signals(item) for item in signals]

    async def _run_tree(
        self,
        stop: trio.Event,
        grace: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._tree_ended = trio.Event()
        tree = self._make_tree()
        try:
            with trio.CancelScope(shield=True):
                async with tree.executor_tree(grace):
                    self._tree = tree
                    task_status.started()
                    await stop.wait()
        finally:
            self._tree = None
            self._closed = True
            self._tree_ended.set()

    async def __aenter__(self) -> Self:
        """Open the store as a client: start, signal, cancel, list, watch; execute nothing."""
        await self._open_store()
        tree = self._make_tree()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            await stack.enter_async_context(tree.client())
            self._tree = tree
            self._client = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close a client; twice is nothing. Calls after it raise ``trio.ClosedResourceError``."""
        self._closed = True
        self._tree = None
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()  # no scope around it: it leaves scopes that were entered before
        await trio.lowlevel.checkpoint()

    async def _open_store(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this engine was closed; make a new one")
        if self._tree is not None:
            raise RuntimeError("this engine is in use already")
        if self._store.is_memory:
            self._store.open()
            await trio.lowlevel.checkpoint()
        else:
            await trio.to_thread.run_sync(self._store.open)

    async def _close_store(self) -> None:
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._store.is_memory:
                self._store.close()
            else:
                await trio.to_thread.run_sync(self._store.close)


@asynccontextmanager
async def open_engine(store: str | PathLike[str] | Store, **options: Unpack[OpenOptions]) -> AsyncIterator[Engine]:
    """Serve in the background of a block: ``async with open_engine("app.db", workflows=[order]) as engine:``.

    Takes the options of ``Engine``. At the block's end the engine drains and closes. An exception of the block
    comes out as itself; a failure of the engine's as an ``ExceptionGroup``.
    """
    engine = Engine(store, **options)
    failure: BaseException | None = None
    stop = trio.Event()
    await engine._open_store()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine._run_tree, stop, trio.CancelScope())
            try:
                yield engine
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failure = error
            finally:
                stop.set()
    finally:
        await engine._close_store()
    if failure is not None:
        raise failure
