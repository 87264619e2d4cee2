"""The threads of a store's writer: each calls one function after the other, and a busy event loop waits for them.

A thread that needs the GIL back after its work starves beside a busy event loop. So while it has work and the loop has
work too, each pass of the loop waits for it, with the GIL released, for at most ``LINGER_MS``. Where trio is the guest
of another loop, that one knows whether it has work, and does the waiting (``HOSTED``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import attrs
import trio
from outcome import Error, Outcome, Value, capture

from durable_trio.limits import LINGER_MS

__all__ = ["HOSTED", "Linger", "StoreThread", "Waiter"]

T = TypeVar("T")

# So many passes of the event loop without work for a thread, and the next ones are not told of. Whoever commits by a
# thread needs some for each batch.
_IDLE_PASSES_MAX: Final = 32


class StoreThread:
    """Calls functions for tasks, in the order in which they ask. It is started by the first of them.

    Args:
        linger: lets a busy event loop wait for this thread, too; ``None`` if nothing there is in a hurry.
    """

    def __init__(self, name: str, linger: Linger | None = None) -> None:
        self._name = name
        self._linger = linger
        if linger is not None:
            linger.threads.append(self)
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Each is changed by one thread only: this one's, and that of the event loop.
        self._asked_count = 0
        self._done_count = 0

    @property
    def is_busy(self) -> bool:
        """Whether it has work."""
        return self._asked_count != self._done_count

    # Ctrl-C must not come between handing something over and waiting for it: the answer would then reschedule a task
    # that is gone, which trio does not survive.
    @trio.lowlevel.enable_ki_protection
    async def call(self, fn: Callable[[], T]) -> T:
        """Call ``fn`` in the thread; the wait cannot be cancelled."""
        outcomes: list[Outcome[T]] = []
        go_on = partial(trio.lowlevel.reschedule, trio.lowlevel.current_task())
        self.hand_over(lambda: outcomes.append(capture(fn)), go_on)
        await trio.lowlevel.wait_task_rescheduled(_no_abort)
        return outcomes[0].unwrap()

    def hand_over(self, fn: Callable[[], None], done: Callable[[], object]) -> None:
        """Call ``fn``, which raises nothing, in the thread, and then ``done`` on the event loop."""
        token = trio.lowlevel.current_trio_token()

        def make_call() -> None:
            fn()
            self._done_count += 1
            with suppress(trio.RunFinishedError):  # nobody waits for it any more
                token.run_sync_soon(done)
            if self._linger is not None:
                self._linger.done.set()

        if self._linger is not None:
            self._linger.begin()
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True)
            self._thread.start()
        self._asked_count += 1
        self._calls.put(make_call)

    def stop(self) -> None:
        """End the thread; what it has in hand is still done, and its task learns of it."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        calls, self._calls = self._calls, queue.SimpleQueue()
        calls.put(None)
        if not self.is_busy:
            thread.join()


@attrs.define(eq=False)
class Waiter:
    """A task that waits for an outcome, as a callback: whatever happens on the way to it, it goes on."""

    _task: trio.lowlevel.Task = attrs.field(init=False, factory=trio.lowlevel.current_task)
    result: Outcome[Any] | None = None
    # Else it is not there yet, or has gone: trio does not survive that it is woken elsewhere.
    is_waiting: bool = False
    #: Whether its task is cancelled, and waits on only because what it waits for may have happened.
    is_cancelled: bool = False

    def __call__(self, outcome: Any) -> None:
        self.result = Value(outcome)
        if self.is_waiting:
            self.is_waiting = False
            trio.lowlevel.reschedule(self._task)

    def failed(self, error: BaseException) -> None:
        """Raise a fault on the way in the task."""
        self.result = Error(error)
        if self.is_waiting:
            self.is_waiting = False
            trio.lowlevel.reschedule(self._task)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Take note that the task is cancelled; it waits on."""
        self.is_cancelled = True
        return trio.lowlevel.Abort.FAILED

    async def outcome(self) -> Any:
        """Wait for it; the wait cannot be cancelled."""
        if self.result is None:
            self.is_waiting = True
            await trio.lowlevel.wait_task_rescheduled(_no_abort)
        assert self.result is not None
        return self.result.unwrap()


def _no_abort(_: object) -> trio.lowlevel.Abort:
    """Say of a wait that it cannot be cancelled."""
    return trio.lowlevel.Abort.FAILED


class Linger(trio.abc.Instrument):
    """Lets a busy event loop wait a moment for threads that have work.

    Trio calls it in each of its passes, of which a commit on the event loop takes three: so it is installed only while
    these threads are in use.
    """

    def __init__(self) -> None:
        #: Which they are, and what each of them sets whenever it has done something.
        self.threads: list[StoreThread] = []
        self.done = threading.Event()
        self._is_installed = False
        self._hosted: set[Linger] | None = None
        self._idle_count = 0

    def __dir__(self) -> tuple[str, ...]:
        """Name all that there is for trio, which looks at each name whenever this is installed."""
        return ("before_io_wait",)

    def begin(self) -> None:
        """One of the threads gets work."""
        self._idle_count = 0
        if not self._is_installed:
            self._is_installed = True
            self._hosted = HOSTED.get()
            if self._hosted is None:
                trio.lowlevel.add_instrument(self)
            else:
                self._hosted.add(self)

    def end(self) -> None:
        """None of them will get any, for a while at least."""
        if self._is_installed:
            self._is_installed = False
            if self._hosted is None:
                trio.lowlevel.remove_instrument(self)
            else:
                self._hosted.discard(self)

    @property
    def is_busy(self) -> bool:
        """Whether one of them has work."""
        return any(thread.is_busy for thread in self.threads)

    def wait(self) -> None:
        """Wait a moment for the first of them that has work."""
        for thread in self.threads:
            if thread.is_busy:
                self.done.clear()
                if thread.is_busy:  # else it has set this before
                    self.done.wait(LINGER_MS / 1000)
                return

    def before_io_wait(self, timeout: float) -> None:
        if self.is_busy:
            self._idle_count = 0
            if timeout == 0:
                self.wait()
            return
        self._idle_count += 1
        if self._idle_count >= _IDLE_PASSES_MAX:
            self.end()


#: Of a trio run that is the guest of another loop: those that are in use, and that this loop waits for.
HOSTED: Final[trio.lowlevel.RunVar[set[Linger] | None]] = trio.lowlevel.RunVar("durable_trio_hosted", default=None)


def _work(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (make_call := calls.get()) is not None:
        make_call()
