"""``Engine``: the facade. It checks what it is given, hands it to the services of its tree, and converts what comes.

Here is its life; what it can be asked is in ``run_calls``, ``query_calls`` and ``upkeep_calls``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Final, Self, Unpack

import attrs
import trio

from durable_trio.engine import os_signals
from durable_trio.engine.query_calls import QueryCalls
from durable_trio.engine.run_calls import RunCalls
from durable_trio.engine.settings import OpenOptions
from durable_trio.engine.tree import FAILED, open_client, open_executor, open_parent
from durable_trio.engine.upkeep_calls import UpkeepCalls
from durable_trio.engine.workers.parent import Workers
from durable_trio.errors import DurableError
from durable_trio.serving.app import check_not_loading
from durable_trio.stores.contract import Store

# The exit code when a task did not end that had to: EX_SOFTWARE of sysexits.h.
EXIT_UNSTOPPED: Final = 70


@attrs.define(eq=False)
class Life:
    """One life of an engine's tree, from its opening to its end."""

    family: Workers | None
    executor_count: int
    on_unstopped: Callable[[], None] | None
    """The last resort; None where the process is not ours to end."""
    stop: trio.Event = attrs.field(factory=trio.Event)
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    grace: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    has_begun: trio.Event = attrs.field(factory=trio.Event)
    """It is open, or will never be."""
    has_ended: trio.Event = attrs.field(factory=trio.Event)

    def end(self) -> None:
        """Drain the tree; if it is still being opened, there is nothing to drain, and opening is cancelled."""
        self.stop.set()
        self.opening.cancel()
        if not self.has_begun.is_set():
            self.scope.cancel("the engine was stopped while it was being opened")


class Engine(RunCalls, QueryCalls, UpkeepCalls, trio.abc.AsyncResource):
    """Durable runs on one store. Serve with ``trio.run(engine.serve)``, or use it as a client with ``async with``.

    Args:
        store: a path, ``":memory:"`` (this process only), or a ``Store``.
        workflows: those that this engine knows; runs of others are left alone.
        observers: instances of ``Observer``; their errors disturb no run.
        errors: exception classes that steps may raise and replay may need, beyond builtins, trio's and the
            workflow's module's.
        concurrency: runs that are in memory at once; others wait in the store. One whose own code waits for another
            run, in a step say, does not count meanwhile (of at most 1000).
        durability: ``"full"`` survives power loss, ``"normal"`` the death of the process.
        strict: park a run where the engine would only warn.
        workers: processes that execute the runs, each a full executor with ``concurrency`` of its own; this one then
            only supervises them. 0: this process executes.
        app: where worker processes find this engine, as ``"module:engine"``; needed with ``workers``.
        options: ``lease_seconds=30``, ``grace_seconds=10``, ``heartbeat_seconds=10``, ``payload_bytes_max=4 MiB``,
            ``unread_signals_max=10_000`` (of one run), ``replay_stall_seconds=10``, ``clock``.

    Raises:
        TypeError, ValueError: an option of another name, or out of range.
    """

    # ---- life --------------------------------------------------------------------------------------------------

    async def serve(
        self,
        *,
        workers: int | None = None,
        app: str | None = None,
        executors: int = 1,
        signals: Sequence[int] | bool | None = None,
        task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open the store, run the whole tree until cancelled or told to stop, close.

        As ``trio.run``'s main task, SIGTERM and SIGINT drain it and it returns; a second one stops it at once.
        ``signals=`` names other signals, ``False`` none. ``workers`` and ``app``: instead of the engine's own.
        ``executors``: how many processes are started together to serve this store; the first of them leaves runs
        that wait to the others, for two seconds. Worker processes are told by their parent.

        *Cancellation:* drains for ``grace_seconds``, then detaches. Nothing fails, nothing is cancelled by it.
        *Durability:* whatever was acknowledged goes on in the next process that serves.

        Raises:
            StoreError: the store cannot be opened.
            ValueError: ``workers`` without ``app``, or on a store in memory.
            WorkerFailed: worker processes cannot be started, as when ``app`` cannot be imported, or serves when it is.
            ExceptionGroup: a service has failed for good; names which.
        """
        family = self._workers(workers, app)
        handled = self._signals_to_handle(signals)
        with os_signals.received(handled) as os_signals_received:  # before anything else: a start can be interrupted
            life = Life(family, executors, partial(os_signals.exit_soon, EXIT_UNSTOPPED) if handled else None)
            if not await self._open_store_unless_stopped(life, os_signals_received):
                return
            try:
                async with _failure_as_itself(), trio.open_nursery() as nursery:
                    if os_signals_received is not None:
                        nursery.start_soon(os_signals.wait_for_stop, os_signals_received, life.end, life.grace.cancel)
                    try:
                        nursery.start_soon(self._run_tree, life)
                        await life.has_begun.wait()
                        if not life.has_ended.is_set():
                            task_status.started(self)
                        await life.has_ended.wait()
                    finally:
                        life.end()
                        if life.has_ended.is_set():
                            nursery.cancel_scope.cancel()
            finally:
                await self._close_store()

    async def _open_store_unless_stopped(self, life: Life, os_signals_received: AsyncIterator[int] | None) -> bool:
        """Open the store; return False if a signal of the operating system came first."""
        if os_signals_received is None:
            await self._open_store()
            return True
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(os_signals.wait_for_stop, os_signals_received, life.end, life.grace.cancel)
            with life.opening:
                try:
                    await self._open_store()
                except Exception as error:  # it is not to come in a group
                    failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return not life.opening.cancelled_caught

    def _signals_to_handle(self, signals: Sequence[int] | bool | None) -> Sequence[int]:
        if signals is None:
            signals = os_signals.is_main_task()
        if isinstance(signals, bool):
            return os_signals.DEFAULT if signals else ()
        return [signal.Signals(item) for item in signals]

    def _workers(self, count: int | None, app: str | None) -> Workers | None:
        """Return the worker processes to serve with, if any."""
        settings = self._settings
        if count is not None or app is not None:
            settings = attrs.evolve(
                settings,
                workers=settings.workers if count is None else count,
                app=settings.app if app is None else app,
            )
        if settings.workers == 0:
            return None
        check_not_loading()
        if settings.app is None:
            raise ValueError(f"workers={settings.workers} needs app='module:engine', where they find this engine")
        if self._store.is_memory:
            raise ValueError("a store in memory belongs to one process; give the engine a file, or workers=0")
        return Workers(
            app=settings.app,
            count=settings.workers,
            grace_seconds=settings.grace_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )

    async def _run_tree(self, life: Life) -> None:
        """Have the tree until the end of its life. Shielded: only ``life`` ends it, and in order."""
        parts = self._make_parts()
        parts.dispatcher.expect(life.executor_count)
        try:
            with life.scope:
                if life.family is None:
                    opened = open_executor(parts, life.grace, life.on_unstopped)
                else:
                    opened = open_parent(parts, life.family, life.grace, life.on_unstopped)
                async with opened as root:
                    self._parts, self._root = parts, root
                    life.has_begun.set()
                    await life.stop.wait()
        finally:
            self._parts = self._root = None
            self._closed = True
            life.has_ended.set()
            life.has_begun.set()

    async def __aenter__(self) -> Self:
        """Open the store as a client: start, signal, cancel, list, watch; execute nothing."""
        await self._open_store()
        parts = self._make_parts()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            self._root = await stack.enter_async_context(open_client(parts))
            self._parts = parts
            self._client = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close a client; twice is nothing. Calls after it raise ``trio.ClosedResourceError``.

        Raises:
            RuntimeError: it was opened by another ``trio.run``.
        """
        if self._parts is not None:
            self._check_home()
        self._closed = True
        self._parts = self._root = None
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()  # no scope around it: it leaves scopes that were entered before
        await trio.lowlevel.checkpoint()

    async def _open_store(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this engine was closed; make a new one")
        if self._parts is not None:
            raise RuntimeError("this engine is in use already")
        self._home = trio.lowlevel.current_trio_token(), threading.current_thread().name
        if self._store.is_memory:
            self._store.open()
            await trio.lowlevel.checkpoint()
        else:
            await self._open_file()

    async def _open_file(self) -> None:
        """Open the store off the event loop.

        *Cancellation:* at once, though others may have the write turn for long; what is opened later is closed.
        """
        lock = threading.Lock()  # guards what follows
        is_wanted, is_open = True, False

        def open_store() -> None:
            nonlocal is_open
            self._store.open()
            with lock:
                is_open = is_wanted
            if not is_open:
                self._store.close()

        try:
            await trio.to_thread.run_sync(open_store, abandon_on_cancel=True)
        except trio.Cancelled:
            self._closed = True  # it may be open for a while yet
            with lock:
                is_wanted = False
            if is_open:  # both at the same moment
                await self._close_store()
            raise

    async def _close_store(self) -> None:
        self._closed = True
        with trio.CancelScope(shield=True):
            if self._store.is_memory:
                self._store.close()
            else:
                await trio.to_thread.run_sync(self._store.close)


@asynccontextmanager
async def _failure_as_itself() -> AsyncIterator[None]:
    """Take a failure of the engine's own out of the groups of nurseries around it, where it is the only one."""
    failed: BaseException | None = None
    try:
        yield
    except BaseExceptionGroup as group:
        failed = group
        while isinstance(failed, BaseExceptionGroup) and not failed.message.startswith(FAILED):
            if len(failed.exceptions) > 1:
                raise
            failed = failed.exceptions[0]
        if not isinstance(failed, DurableError | ExceptionGroup):
            raise
    if failed is not None:
        raise failed


@asynccontextmanager
async def open_engine(store: str | PathLike[str] | Store, **options: Unpack[OpenOptions]) -> AsyncIterator[Engine]:
    """Serve in the background of a block: ``async with open_engine("app.db", workflows=[order]) as engine:``.

    Takes the options of ``Engine``. At the block's end the engine drains and closes. An exception of the block
    comes out as itself; a failure of the engine's as an ``ExceptionGroup``.
    """
    engine = Engine(store, **options)
    failure: BaseException | None = None
    life = Life(engine._workers(None, None), 1, None)
    await engine._open_store()
    try:
        async with _failure_as_itself(), trio.open_nursery() as nursery:
            try:
                nursery.start_soon(engine._run_tree, life)
                await life.has_begun.wait()
                yield engine
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failure = error
            finally:
                life.end()
    finally:
        await engine._close_store()
    if failure is not None:
        raise failure
