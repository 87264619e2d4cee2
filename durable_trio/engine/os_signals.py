"""Signals of the operating system: SIGTERM and SIGINT for ``serve``, and what those have raised that others take.

An engine that serves as the main task takes them, and drains. Where it does not, Ctrl-C is what it is for trio: it is
raised in whatever code is running, for it is meant for the user's. Ours keeps it out (``enable_ki_protection``) where
it would come between two lines that belong together; then it comes to the main task. What a run's own code raises to
end the program stops the executor, and is counted against that run alone (``runs.service``).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

import trio

from durable_trio.looks import look, traceback_of

DEFAULT = (signal.SIGTERM, signal.SIGINT)
# What does not end although it must: it is not waited for longer.
_LAST_RESORT_SECONDS: Final = 1.0
# struct sigaction of 64-bit Linux, of glibc and of musl: the handler, 128 bytes of mask, the flags, the restorer.
_SIGACTION_BYTES: Final = 152
_SA_FLAGS_AT: Final = 136
_SA_RESETHAND: Final = 0x80000000
_SA_KNOWN: Final = 0xDC000007  # all that there are


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal, whose end SIGHUP tells it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def is_main_task() -> bool:
    """Return whether this is the main task of ``trio.run`` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    nursery = trio.lowlevel.current_task().parent_nursery
    return nursery is not None and nursery.parent_task is trio.lowlevel.current_root_task()


@contextmanager
def received(signals: Sequence[int]) -> Iterator[AsyncIterator[int] | None]:
    """Receive the first of these signals inside the block, instead of dying of it; none: nothing is received.

    The second one, whichever it is, ends the process.
    """
    if not signals:
        yield None
        return
    with trio.open_signal_receiver(*signals) as receiver, _ended_by_second(signals):
        yield receiver


@contextmanager
def _ended_by_second(signals: Sequence[int]) -> Iterator[None]:
    """Have the kernel end the process with the second of these signals, whatever its threads do.

    Nothing else can: a handler in Python runs between two lines of Python of the main thread, which may be in C code
    that never returns, and whatever watches from another thread needs the interpreter's lock, which that may hold. So
    with the first one the kernel's default takes the handlers' place: as soon as it comes (``reset_after_first``) for
    that signal, and for the others once Python has seen it.
    """
    inner: dict[int, Any] = {os_signal: signal.getsignal(os_signal) for os_signal in signals}
    has_come = False

    def arrived(os_signal: int, frame: FrameType | None) -> None:
        nonlocal has_come
        if has_come:  # both came while Python was away: this one was on its way already
            end_by(os_signal)
        has_come = True
        _leave_to_kernel(signals)
        inner[os_signal](os_signal, frame)

    try:
        for os_signal in signals:
            signal.signal(os_signal, arrived)
            reset_after_first(os_signal)
        yield
    finally:
        for os_signal, handler in inner.items():
            signal.signal(os_signal, handler)


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Have the kernel end the process with a Ctrl-C inside the block, where a program has heard one already."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # which is not Python's
        yield
        return
    _leave_to_kernel([signal.SIGINT])
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def ended_by_second_ctrl_c() -> Iterator[None]:
    """Have the kernel end the process with the second Ctrl-C inside the block, where the first one is Python's own."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is not signal.default_int_handler:
        yield
        return
    reset_after_first(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _leave_to_kernel(signals: Sequence[int]) -> None:
    # The first process of a container has no default: the kernel would drop what has no handler.
    action = end_by if os.getpid() == 1 else signal.SIG_DFL
    for os_signal in signals:
        signal.signal(os_signal, action)


def end_by(os_signal: int, frame: FrameType | None = None) -> NoReturn:
    """End this process by a signal, as a handler of it: at once, whatever anybody waits for."""
    signal.signal(os_signal, signal.SIG_DFL)
    signal.raise_signal(os_signal)
    os._exit(128 + os_signal)  # where its default is to do nothing


def reset_after_first(os_signal: int) -> None:
    """Have the kernel put the default in place of the handler as soon as it was called (SA_RESETHAND).

    Python can set no flags, and drops this one with each ``signal.signal``. Where the layout is not the known one
    nothing is done.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return
    import ctypes

    action = ctypes.create_string_buffer(_SIGACTION_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaction(os_signal, None, action) != 0:
        return
    flags = ctypes.c_uint32.from_buffer(action, _SA_FLAGS_AT)
    if flags.value & ~_SA_KNOWN == 0:
        flags.value |= _SA_RESETHAND
        libc.sigaction(os_signal, action, None)


async def wait_for_stop(receiver: AsyncIterator[int], stop: Callable[[], None]) -> None:
    """Call ``stop`` at the first signal; runs until cancelled."""
    async for _ in receiver:
        stop()


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
