"""The child's side of a ``Process``: what a program calls to tell its supervisor that it is ready, and alive.

A program that is not run by a supervisor can call all of this too; then it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import trio

from supervisors.exec_shim import die_with_parent
from supervisors.frames import BEAT, LINK_VARIABLE, Answer, End, FrameReader, Link, encode_ask, encode_ready


def child_process(*, is_cancelled_by_sigterm: bool = True) -> ChildProcess:
    """Connect this process with the supervisor that started it. Call it once, early, in the main thread.

    From then on the process is killed when its parent dies. What it has started itself is killed with it only where
    its parent stops it in order; a process that is to die with this one in any case should be its supervised child.

    A trio program uses it as ``async with child_process() as process:``, and calls ``process.ready(value)`` inside.
    While the block runs, heartbeats are sent from the event loop: a loop that spins or hangs is found by the
    supervisor, and so is a program that goes on for long after the block. The block has a nursery, so its errors come
    in an ``ExceptionGroup``.

    Any other program calls ``process.ready(value)``, and ``process.beat()`` some four times per ``heartbeat_within``.

    Args:
        is_cancelled_by_sigterm: whether SIGTERM cancels the block, which then ends quietly.
    """
    text = os.environ.pop(LINK_VARIABLE, None)  # the children of this process are not the supervisor's
    if text is None:
        return ChildProcess(None, 0.0, is_cancelled_by_sigterm)
    link = Link.from_text(text)
    connection = socket.socket(fileno=link.descriptor)
    connection.set_inheritable(False)
    # Started through a wrapper (a shell, a launcher), it is not the supervisor's own child: then the link alone tells.
    if os.getppid() == link.parent_pid:
        die_with_parent(link.parent_pid)
    process = ChildProcess(connection, link.beat_seconds, is_cancelled_by_sigterm)
    listen = (connection, process._answers.put, process._end)
    threading.Thread(target=_die_with_link, args=listen, name="supervisors-parent-watch", daemon=True).start()
    return process


class ChildProcess:
    """This process as a child of a supervisor; made by ``child_process``."""

    def __init__(self, connection: socket.socket | None, beat_seconds: float, is_cancelled_by_sigterm: bool) -> None:
        self._connection = connection
        self._beat_seconds = beat_seconds
        self._is_cancelled_by_sigterm = is_cancelled_by_sigterm
        self._is_ready = False
        self._answers = queue.SimpleQueue[object]()
        self._is_told_to_end = False
        self._on_end: Callable[[], object] | None = None
        self._block: AbstractAsyncContextManager[None] | None = None

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor started this process."""
        return self._connection is not None

    def ready(self, value: object = None) -> None:
        """Tell the supervisor that the process is ready; ``start_child`` there returns ``value``.

        Args:
            value: anything JSON carries, up to 64 KiB.

        Raises:
            TypeError: JSON cannot carry the value.
            ValueError: it is too large.
            RuntimeError: it was told before.
        """
        if self._is_ready:
            raise RuntimeError("ready() was called twice")
        frame = encode_ready(value)
        self._is_ready = True
        if self._connection is not None:
            # All of it or nothing: half a frame would make one of it with the next beat.
            self._connection.sendall(frame)

    def ask(self, value: object = None) -> object:
        """Ask the supervisor something, and return what ``Process(answer=…)`` says to it; ``None`` if there is nobody.

        It blocks until the answer is there: for before an event loop runs, or in a thread, one at a time.

        Args:
            value: anything JSON carries, up to 64 KiB.

        Raises:
            TypeError: JSON cannot carry the value.
            ValueError: it is too large.
        """
        frame = encode_ask(value)
        if self._connection is None:
            return None
        self._connection.sendall(frame)
        return self._answers.get()  # where the supervisor is gone, the thread that listens ends this process

    def beat(self) -> None:
        """Send a heartbeat. Never waits: if the parent does not read, it has beats enough to read."""
        if self._connection is None:
            return
        # A parent that is gone ends this process by other means.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._connection.send(BEAT, socket.MSG_DONTWAIT)

    async def told_to_end(self) -> None:
        """Wait until the supervisor tells this process to end, if it does so by the link; else for ever.

        See ``Process(is_told_by_link=…)``. One task may wait at a time.
        """
        event = trio.Event()
        self._on_end = partial(trio.lowlevel.current_trio_token().run_sync_soon, event.set)
        if self._is_told_to_end:  # looked at once the other thread would call
            event.set()
        await event.wait()

    def _end(self) -> None:
        """Note, in the thread that listens, that this process is to end."""
        self._is_told_to_end = True
        if (tell := self._on_end) is not None:
            with contextlib.suppress(trio.RunFinishedError):
                tell()

    async def __aenter__(self) -> Self:
        self._block = self._run()
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._block is not None
        return await self._block.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            if self._connection is not None and self._beat_seconds > 0:
                nursery.start_soon(self._send_beats)
            if self._is_cancelled_by_sigterm and threading.current_thread() is threading.main_thread():
                await nursery.start(self._cancel_on_sigterm, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()

    async def _send_beats(self) -> None:
        while True:
            self.beat()
            await trio.sleep(self._beat_seconds)

    async def _cancel_on_sigterm(
        self, block_scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as arrivals:
            task_status.started()
            async for _ in arrivals:
                block_scope.cancel()


def _die_with_link(
    connection: socket.socket, answered: Callable[[object], None], told_to_end: Callable[[], None]
) -> None:
    """Pass on what the parent says; end this process and its group when its end of the link is closed."""
    reader = FrameReader()
    try:
        while data := connection.recv(4096):
            for frame in reader.feed(data):
                if isinstance(frame, Answer):
                    answered(frame.value)
                elif isinstance(frame, End):
                    told_to_end()
    except OSError:
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
