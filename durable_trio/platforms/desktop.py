"""An engine in the loop of a desktop toolkit, as the program in that loop has it: by calls that answer to callbacks.

What the toolkits have in common. trio is a guest in the window's thread (``hosts.driver``); what a program asks for is
a task there, and each callback is a call of the loop's own, between two turns of trio's: so it may open a dialog with a
loop of its own, in which the guest goes on. ``tk`` and ``qt`` are a ``Toolkit`` each: what differs, as functions.
"""

from __future__ import annotations

import contextvars
import enum
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Final, TypeVar, TypeVarTuple

import attrs
import trio
from outcome import Error, Outcome

from durable_trio.engine.engine import Engine
from durable_trio.engine.os_signals import end_by
from durable_trio.platforms.hosts.driver import Driver
from durable_trio.platforms.hosts.host import Host

__all__ = ["DesktopCall", "DesktopEngine", "Toolkit"]

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

# Of Ctrl-C: the first drains, the second stops at once, this one ends the process.
_ENDS_PROCESS: Final = 3


@attrs.frozen(kw_only=True)
class Toolkit:
    """What differs between toolkits beside their loops."""

    make_host: Callable[[], Host]
    #: Call something of the program's, if it can still mean something.
    call: Callable[[Callable[[], object]], object]
    #: Say what a callback has raised, as the toolkit does.
    report: Callable[[BaseException], object]
    #: Run the loop until the condition holds, inside or after its own run.
    run_until: Callable[[Callable[[], bool]], object]
    #: End the loop's own run: the engine has ended, or has failed.
    leave: Callable[[bool], object]
    #: Have a function called when the window is closed, if that ends no run by itself; return what undoes it.
    take_closing: Callable[[Callable[[], object]], Callable[[], object]]
    # For errors: what is called how in a program. The last one calls ``{}``.
    name: str
    run: str
    from_thread: str


class Stage(enum.Enum):
    """Where an engine is in its life. Each leads to the next one only."""

    NEW = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class DesktopCall:
    """Something that was asked for. Made by ``DesktopEngine.call_soon`` and ``follow``."""

    def __init__(self, engine: DesktopEngine, then: Callable[[Any], object] | None, failed: Any) -> None:
        self._engine = engine
        self._then = then
        self._failed: Callable[[BaseException], object] | None = failed
        self._scope = trio.CancelScope()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel it: no callback of it is called from now on. Nothing if it has ended.

        What it had handed to the store is committed all the same.

        Raises:
            RuntimeError: called in another thread than the window's; it says what to write there.
        """
        self._engine._check_thread("call.cancel()")
        self._is_cancelled = True
        self._engine._to_trio(self._scope.cancel)

    # ---- in trio ----

    async def _run(self, work: Callable[[Engine], Awaitable[None]]) -> None:
        """Do the work with the engine once that is open; tell an error. A system task: nothing comes out of it."""
        try:
            with self._scope:
                await work(await self._engine._opened_engine())
        except trio.Cancelled:  # the run is ending around it
            self._fail(trio.ClosedResourceError("the engine was closed"))
            raise
        except BaseException as error:
            self._fail(error)

    def _tell(self, value: Any, told: Callable[[], object] = lambda: None) -> None:
        """Have ``then`` called with a value, and ``told`` after it."""

        def call() -> None:
            try:
                if self._then is not None and not self._is_cancelled:
                    self._then(value)
            finally:
                told()

        self._engine._call_back(call)

    def _fail(self, error: BaseException) -> None:
        def call() -> None:
            if self._is_cancelled:
                return
            if self._failed is not None:
                self._failed(error)
            elif not (self._engine._is_over and isinstance(error, trio.ClosedResourceError)):
                raise error  # it is reported as what a callback raises; but not that nothing more comes at the end

        self._engine._call_back(call)


class DesktopEngine:
    """An engine in the loop of a desktop toolkit, for callbacks of that loop. Made by ``host`` of ``tk`` and ``qt``.

    The block is around the toolkit's own run: ``with host(root, open_engine("app.db")) as engine: root.mainloop()``.
    The engine opens when the loop runs; what was asked for before waits for that. At the block's end it has drained and
    is closed, whatever has ended it.

    Ctrl-C is ``close``, unless the program has a handler of its own, and comes out of the block as
    ``KeyboardInterrupt`` once the engine has drained; the second one stops at once, the third ends the process.

    Raises:
        ExceptionGroup: from the block: the engine has failed for good, which ends the toolkit's run.
        ValueError, TypeError, StoreError: from the block: the engine could not be opened.
        RuntimeError: used in another thread, from trio, outside of its block, or in one in which no loop has run; it
            says what to write there.
        trio.ClosedResourceError: used after its end.
    """

    def __init__(self, toolkit: Toolkit, manager: AbstractAsyncContextManager[Engine]) -> None:
        self._toolkit = toolkit
        self._manager = manager
        self._stage = Stage.NEW
        self._thread_id = threading.get_ident()
        self._host: Host
        self._driver: Driver
        self._has_run = False  # the loop, with trio in it
        self._engine: Engine | None = None
        self._opened = trio.Event()
        self._stop = trio.Event()
        self._outcome: Outcome[Any] | None = None
        self._is_left = False  # the block
        self._interrupted_count = 0
        self._undo = ExitStack()

    # ---- for the program ---------------------------------------------------------------------------------------

    def call_soon(
        self,
        fn: Callable[[Engine, *Ts], Awaitable[T]],
        *args: *Ts,
        then: Callable[[T], object] | None = None,
        failed: Callable[[BaseException], object] | None = None,
    ) -> DesktopCall:
        """Call ``await fn(engine, *args)`` in trio; ``engine.call_soon(Engine.start, order, 30, then=show)``.

        Each method of ``durable_trio.Engine`` is such a function, and so is any of yours. Options go into a
        ``functools.partial(Engine.start, id="order-7")``. It must open no dialog: a callback does.

        Args:
            then: called with what it returns, in the toolkit's thread.
            failed: called with what it raises; default: the toolkit reports it as what a callback raises, as it does
                with what ``then`` and ``failed`` raise. Not if the engine is closed meanwhile: nobody waits any more.
        """
        self._check()
        call = DesktopCall(self, then, failed)

        async def work(engine: Engine) -> None:
            call._tell(await fn(engine, *args))

        self._spawn(call, work, fn)
        return call

    def follow(
        self,
        fn: Callable[[Engine, *Ts], AbstractAsyncContextManager[AsyncIterator[T]]],
        *args: *Ts,
        then: Callable[[T], object],
        failed: Callable[[BaseException], object] | None = None,
    ) -> DesktopCall:
        """Call ``then`` with all that comes: ``engine.follow(Engine.watch, then=show)``; until it ends or is cancelled.

        The next one is asked for when ``then`` has returned: of what has changed meanwhile a watch gives the newest.

        Args:
            fn: called as ``fn(engine, *args)``, returns an async context manager of an async iterator, as
                ``Engine.watch`` does.
            then, failed: as for ``call_soon``.
        """
        self._check()
        call = DesktopCall(self, then, failed)

        async def work(engine: Engine) -> None:
            async with fn(engine, *args) as items:
                async for item in items:
                    is_told = trio.Event()
                    call._tell(item, partial(self._to_trio, is_told.set))
                    await is_told.wait()

        self._spawn(call, work, fn)
        return call

    def close(self) -> None:
        """Let the engine drain, and then end the toolkit's run; twice: wait for no step in hand, which runs again."""
        self._check()
        if self._stage is Stage.OPEN:
            self._stage = Stage.CLOSING
            self._to_trio(self._stop.set)
        elif self._engine is not None:
            self._to_trio(self._engine._serving.hurry)

    # ---- the block ---------------------------------------------------------------------------------------------

    def __enter__(self) -> DesktopEngine:
        toolkit = self._toolkit
        if self._stage is not Stage.NEW:
            raise RuntimeError(f"this engine had its block; for another one write `with {self._line} as engine:` anew")
        if trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "trio runs in this thread already, and only one of it can: open a second engine in a function for the "
                "first one's call_soon, with `async with open_engine(…)`; and no window inside trio.run"
            )
        self._thread_id = threading.get_ident()
        self._host = toolkit.make_host()
        with ExitStack() as undo:
            self._take_ctrl_c(undo)
            self._driver = Driver(self._host)
            self._driver.start(self._main, self._ended)
            undo.callback(toolkit.take_closing(self.close))
            self._undo = undo.pop_all()
        self._stage = Stage.OPEN
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_left = True
        has_run = self._has_run
        with self._undo:
            if self._stage is Stage.OPEN:
                self.close()
            self._toolkit.run_until(lambda: self._outcome is not None)
        outcome, self._outcome = self._outcome, None  # no circle with a traceback
        assert outcome is not None
        if error is None and not has_run:
            raise RuntimeError(
                f"the loop has not run inside of the block, and so has nothing else: write {self._toolkit.run} as its "
                f"last line, inside `with {self._line} as engine:`"
            )
        if isinstance(outcome, Error):
            raise outcome.error
        if self._interrupted_count and error is None:
            raise KeyboardInterrupt

    @property
    def _line(self) -> str:
        return f"host({self._toolkit.name}, open_engine(…))"

    @property
    def _is_over(self) -> bool:
        """Whether the engine is closed, or will be, or was never opened."""
        return self._stage is not Stage.OPEN or self._engine is None or self._engine._client.is_closed

    def _check(self) -> None:
        """Refuse a call from anywhere but the toolkit's thread, inside the block."""
        self._check_thread("engine.call_soon(fn)")
        if self._stage is Stage.NEW:
            raise RuntimeError(f"the engine is not there yet: write `with {self._line} as engine:` around it")
        if self._stage is Stage.CLOSED:
            raise trio.ClosedResourceError(
                f"the engine has ended: use it inside `with {self._line} as engine:`, before {self._toolkit.run} has "
                "returned"
            )
        if trio.lowlevel.in_trio_task():
            raise RuntimeError(
                "this engine is for callbacks of the window, and was called from trio: use ctx in a body, "
                "current_step().engine in a step, and in a function for call_soon the engine that it is given; if this "
                "is a callback, of a dialog that one of these has opened, have `then=` open it"
            )

    def _check_thread(self, call: str) -> None:
        """Refuse what is called in another thread than the toolkit's."""
        if threading.get_ident() != self._thread_id:
            raise RuntimeError(
                "the engine belongs to the thread of the window, and was called in another one: write "
                + self._toolkit.from_thread.format(f"lambda: {call}")
            )

    # ---- between the toolkit and trio --------------------------------------------------------------------------

    def _spawn(self, call: DesktopCall, work: Callable[[Engine], Awaitable[None]], fn: Any) -> None:
        name = f"call_soon: {getattr(fn, '__qualname__', repr(fn))}"
        context = contextvars.copy_context()
        self._to_trio(lambda: trio.lowlevel.spawn_system_task(call._run, work, name=name, context=context))

    def _to_trio(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` where trio is; nothing if it has ended."""
        if self._stage is not Stage.CLOSED:
            self._driver.wake()
            fn()

    def _call_back(self, fn: Callable[[], object]) -> None:
        """Call something of the program's in the toolkit's loop, outside of trio's turn."""

        def guarded() -> None:
            try:
                fn()
            except Exception as error:
                self._toolkit.report(error)

        self._host.call_soon(lambda: self._toolkit.call(guarded))

    # ---- in trio -----------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._has_run = True
        if self._stop.is_set():
            return
        async with self._manager as engine:
            self._engine = engine
            self._opened.set()
            await self._stop.wait()
            # What was asked for just before the end begins before it, in whatever order trio has its tasks go on.
            await trio.lowlevel.checkpoint()

    async def _opened_engine(self) -> Engine:
        await self._opened.wait()
        assert self._engine is not None
        return self._engine

    # ---- the end -----------------------------------------------------------------------------------------------

    def _ended(self, outcome: Outcome[Any]) -> None:
        """trio has ended. In the toolkit's loop."""
        self._stage = Stage.CLOSED
        self._outcome = outcome
        if not self._is_left:
            self._toolkit.leave(isinstance(outcome, Error))

    def _take_ctrl_c(self, undo: ExitStack) -> None:
        """Take Ctrl-C, unless the program has."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        self._notice_signals(undo)
        signal.signal(signal.SIGINT, self._interrupted)
        undo.callback(signal.signal, signal.SIGINT, signal.default_int_handler)

    def _notice_signals(self, undo: ExitStack) -> None:
        """Have handlers of signals called while the toolkit is in C code and waits: that needs a line of Python."""
        mine, others = socket.socketpair()
        undo.callback(mine.close)
        undo.callback(others.close)
        mine.setblocking(False)
        others.setblocking(False)
        try:
            self._host.add_reader(mine.fileno(), lambda: mine.recv(4096))
        except NotImplementedError:  # such a host has lines of Python all the time
            return
        undo.callback(self._host.remove_reader, mine.fileno())
        before = signal.set_wakeup_fd(others.fileno(), warn_on_full_buffer=False)
        undo.callback(signal.set_wakeup_fd, before)

    def _interrupted(self, os_signal: int, frame: FrameType | None) -> None:
        self._interrupted_count += 1
        if self._interrupted_count >= _ENDS_PROCESS:
            end_by(os_signal)
        self._host.call_soon(self._close_interrupted)

    def _close_interrupted(self) -> None:
        if self._stage is not Stage.CLOSED:
            self.close()
