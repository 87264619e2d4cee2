"""An engine's life: opening its store and its tree, serving until it is told to stop, and closing both in order."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from durable_trio.engine import os_signals
from durable_trio.engine.client import Client, token_of_trio
from durable_trio.engine.loop_watch import watching_loop
from durable_trio.engine.tree import FAILED, open_client, open_executor, open_parent
from durable_trio.engine.wiring import Services
from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.parent import Workers
from durable_trio.engine.workers.requests import ReloadRequest
from durable_trio.errors import DurableError
from durable_trio.serving.app import check_not_loading
from supervisors import Supervisor
from supervisors.groups import first

# The exit code when a task did not end that had to: EX_SOFTWARE of sysexits.h.
EXIT_UNSTOPPED: Final = 70


@attrs.define(eq=False)
class TreeLife:
    """One life of an engine's tree, from its opening to its end."""

    workers: Workers | None
    executor_count: int
    # The last resort; None where the process is not ours to end.
    on_unstopped: Callable[[], None] | None
    stop: trio.Event = attrs.field(factory=trio.Event)
    opening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))
    # Of the drain, in which step functions may finish.
    grace: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    # It is open, or will never be.
    has_begun: trio.Event = attrs.field(factory=trio.Event)
    has_ended: trio.Event = attrs.field(factory=trio.Event)

    def end(self) -> None:
        """Drain the tree; if it is still being opened, there is nothing to drain, and opening is cancelled."""
        self.stop.set()
        self.opening.cancel()
        if not self.has_begun.is_set():
            self.scope.cancel("the engine was stopped while it was being opened")


class Until(Protocol):
    """Says for how long an engine serves, beside signals and cancellation."""

    async def begin(self) -> bool:
        """Return whether to serve at all. The store is open, and nobody uses it yet."""

    async def wait(self, services: Services, workers: Workers | None) -> None:
        """Return when the tree, which stands, is to be drained."""

    async def left(self) -> None:
        """The tree has been drained. The store is still open, and nobody uses it any more."""


class Serving:
    """Opens and closes one engine, once: as a server, in the background of a block, or as a client."""

    def __init__(self, client: Client) -> None:
        self.root: Supervisor | None = None
        #: Whether this process is nothing but the parent of its workers, if it has any.
        self.is_program = False
        self._workers: Workers | None = None
        self._client = client
        self._opened: AsyncExitStack | None = None  # as a client
        self._life: TreeLife | None = None  # in the background of a block

    # ---- as a server -------------------------------------------------------------------------------------------

    async def serve(
        self,
        workers: Workers | None,
        *,
        executors: int,
        signals: Sequence[int] | bool | None,
        started: Callable[[], None],
        until: Until | None = None,
    ) -> None:
        """Have the tree until cancelled or told to stop; see ``engine.serve``. ``started`` is called once it stands."""
        token_of_trio()  # before handlers are set
        handled = _signals_to_handle(signals)
        with os_signals.received(handled) as os_signals_received:  # before anything else: a start can be interrupted
            life = TreeLife(workers, executors, partial(os_signals.exit_soon, EXIT_UNSTOPPED) if handled else None)
            if not await self._open_store_unless_stopped(life, os_signals_received):
                return
            try:
                if until is not None and not await until.begin():
                    return
                async with _failure_as_itself(), trio.open_nursery() as nursery:
                    if os_signals_received is not None:
                        nursery.start_soon(os_signals.wait_for_stop, os_signals_received, life.end)
                    try:
                        nursery.start_soon(self._run_tree, life)
                        await life.has_begun.wait()
                        if not life.has_ended.is_set():
                            started()
                            if until is not None:
                                nursery.start_soon(self._end_when, until, life)
                        await life.has_ended.wait()
                    finally:
                        life.end()
                        if life.has_ended.is_set():
                            nursery.cancel_scope.cancel()
                if until is not None:
                    await until.left()
            finally:
                await self._close_store()

    async def _end_when(self, until: Until, life: TreeLife) -> None:
        services = self._client.services
        if services is not None:
            await until.wait(services, life.workers)
        life.end()

    @asynccontextmanager
    async def in_background(self, workers: Workers | None) -> AsyncIterator[None]:
        """Serve inside the block; see ``open_engine``."""
        failure: BaseException | None = None
        life = self._life = TreeLife(workers, 1, None)
        await self._open_store()
        with ExitStack() as closing:
            try:
                async with _failure_as_itself(), trio.open_nursery() as nursery:
                    try:
                        nursery.start_soon(self._run_tree, life)
                        await life.has_begun.wait()
                        yield
                    except BaseException as error:
                        if first(error, KeyboardInterrupt) is not None:  # the next one shall not wait for steps in hand
                            closing.enter_context(os_signals.ended_by_ctrl_c())
                        if not isinstance(error, Exception | KeyboardInterrupt | SystemExit):
                            raise
                        failure = error
                    finally:
                        life.end()
            finally:
                await self._close_store()
        if failure is not None:
            raise failure

    def hurry(self) -> None:
        """Let the drain at the block's end, now or when it comes, wait for no step function."""
        if self._life is not None:
            self._life.grace.cancel("the engine is to stop at once")

    def workers(self, count: int | None, app: str | None) -> Workers | None:
        """Return the worker processes to serve with, if any; ``count`` and ``app`` instead of the engine's own."""
        settings = self._client.settings
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
        if not self._client.store.is_shared:
            raise ValueError("a store in memory belongs to one process; give the engine a file, or workers=0")
        self._workers = Workers(
            app=settings.app,
            family=Family("durable-trio reload" if self.is_program else "restart it"),
            can_reload=self.is_program,
            count=settings.workers,
            grace_seconds=settings.grace_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        )
        return self._workers

    def ask_reload(self) -> bool:
        """Have the workers replaced, by new ones with the code of the files; return False if that cannot be."""
        workers = self._workers
        if workers is None or not workers.can_reload or self.root is None:
            return False
        workers.requests.add(ReloadRequest(id=str(uuid.uuid4())))
        return True

    async def _open_store_unless_stopped(self, life: TreeLife, os_signals_received: AsyncIterator[int] | None) -> bool:
        """Open the store; return False if a signal of the operating system came first."""
        if os_signals_received is None:
            await self._open_store()
            return True
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(os_signals.wait_for_stop, os_signals_received, life.end)
            with life.opening:
                try:
                    await self._open_store()
                except Exception as error:  # it is not to come in a group
                    failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return not life.opening.cancelled_caught

    async def _run_tree(self, life: TreeLife) -> None:
        """Have the tree until the end of its life. Shielded: only ``life`` ends it, and in order."""
        client = self._client
        services = client.make_services(executes=life.workers is None)
        try:
            with life.scope:
                if life.workers is not None:
                    opened = open_parent(services, life.workers, life.on_unstopped)
                else:
                    assert services.executor is not None
                    services.executor.dispatcher.expect(life.executor_count)
                    opened = open_executor(services, services.executor, life.on_unstopped, life.grace)
                async with opened as root:
                    client.services, self.root = services, root
                    life.has_begun.set()
                    with watching_loop(services.executor, client.settings.stall_seconds_max):
                        await life.stop.wait()
        finally:
            client.services = self.root = None
            client.is_closed = True
            life.has_ended.set()
            life.has_begun.set()

    # ---- as a client -------------------------------------------------------------------------------------------

    async def open_client(self) -> None:
        """Open the store and execute nothing."""
        await self._open_store()
        services = self._client.make_services(executes=False)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_store)
            self.root = await stack.enter_async_context(open_client(services))
            self._client.services = services
            self._opened = stack.pop_all()

    async def close_client(self) -> None:
        """Close what ``open_client`` has opened; twice is nothing."""
        client = self._client
        if client.services is not None:
            client.check_home()
        client.is_closed = True
        client.services = self.root = None
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()  # no scope around it: it leaves scopes that were entered before
        await trio.lowlevel.checkpoint()

    # ---- the store ---------------------------------------------------------------------------------------------

    async def _open_store(self) -> None:
        self._client.settings.clock.stamp()  # one that cannot be used here says so before anything is opened
        self._client.settle()
        store = self._client.store
        if store.may_block:
            await self._open_in_thread()
        else:
            await trio.lowlevel.checkpoint()  # before: nobody closes what is open when this is cancelled
            store.open()

    async def _open_in_thread(self) -> None:
        """Open the store off the event loop.

        *Cancellation:* at once, though others may hold it for long; what is opened later is closed.
        """
        store = self._client.store
        lock = threading.Lock()  # guards what follows
        is_wanted, is_open = True, False

        def open_store() -> None:
            nonlocal is_open
            store.open()
            with lock:
                is_open = is_wanted
            if not is_open:
                store.close()

        try:
            await trio.to_thread.run_sync(open_store, abandon_on_cancel=True)
        except trio.Cancelled:
            self._client.is_closed = True  # it may be open for a while yet
            with lock:
                is_wanted = False
            if is_open:  # both at the same moment
                await self._close_store()
            raise

    async def _close_store(self) -> None:
        self._client.is_closed = True
        store = self._client.store
        with trio.CancelScope(shield=True):
            if store.may_block:
                await trio.to_thread.run_sync(store.close)
            else:
                store.close()


def _signals_to_handle(signals: Sequence[int] | bool | None) -> Sequence[int]:
    if signals is None:
        signals = os_signals.is_main_task()
    if isinstance(signals, bool):
        return os_signals.DEFAULT if signals else ()
    return [signal.Signals(item) for item in signals]


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
