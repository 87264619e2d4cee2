"""Signals of the operating system: SIGTERM and SIGINT for ``serve``, and what those have raised that others take.

An engine that serves as the main task takes them, and drains. Where it does not, Ctrl-C is what it is for trio: it is
raised in whatever code is running, for it is meant for the user's. Ours keeps it out (``enable_ki_protection``) where
it would come between two lines that belong together; then it comes to the main task. What a run's own code raises to
end the program stops the executor, and is counted against that run alone (``runs.service``).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from durable_trio.looks import look, traceback_of

DEFAULT = (signal.SIGTERM, signal.SIGINT)
# A sync step function may block the process after the second signal: it is not waited for longer.
_LAST_RESORT_SECONDS = 1.0


def is_main_task() -> bool:
    """Return whether this is the main task of ``trio.run`` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.parent_task is trio.lowlevel.current_root_task()


@contextmanager
def received(signals: Sequence[int]) -> Iterator[AsyncIterator[int] | None]:
    """Receive these signals inside the block, instead of dying of them; none: nothing is received."""
    if not signals:
        yield None
        return
    with trio.open_signal_receiver(*signals) as receiver:
        yield receiver


async def wait_for_stop(
    receiver: AsyncIterator[int], stop: Callable[[], None], stop_at_once: Callable[[], None]
) -> None:
    """Call ``stop`` at the first signal and ``stop_at_once`` at the second; runs until cancelled."""
    count = 0
    async for signum in receiver:
        count += 1
        if count == 1:
            stop()
        elif count == 2:
            stop_at_once()
            exit_soon(128 + signum)


def comes_of_signal(error: BaseException) -> bool:
    """Return whether a handler of a signal has raised it: Ctrl-C, which trio's raises in whatever code is running.

    It says nothing of the code that it has met. A ``KeyboardInterrupt`` that code raises of itself is another thing.
    """
    handlers = {id(code) for code in map(_code_of_handler, signal.valid_signals()) if code is not None}
    trace = traceback_of(error)
    while trace is not None:
        if id(trace.tb_frame.f_code) in handlers:
            return True
        trace = trace.tb_next
    return False


def _code_of_handler(os_signal: int) -> object:
    return look(lambda: getattr(signal.getsignal(os_signal), "__code__", None), instead=lambda _: None)


def exit_soon(code: int) -> None:
    """End the process in a moment, if it has not ended by then."""
    timer = threading.Timer(_LAST_RESORT_SECONDS, os._exit, args=(code,))
    timer.daemon = True
    timer.start()
