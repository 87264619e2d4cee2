"""A thread beside the event loop: it tells what blocks the loop, and renews the executor's lease meanwhile.

All runs of a process share its loop, so that one function which does not give way holds up all of them, and everything
by which others see that the process lives. So somebody else has to look. The thread asks the loop four times a second
to pass by; while it does not, the loop is blocked, and the thread says so once, with the stack of what blocks, and once
more when it is over.

A short stall costs the executor nothing: its lease is renewed from here. One that is longer than
``loop_stall_seconds_max`` counts as hung: the lease is left to pass, and others take over its runs. If it goes on one
day, its writes are refused as those of any executor that was declared dead.

What blocks the loop may be a handler of log lines, which has that handler's lock then. So the lines are told by one
more thread, which begins with the first of them: who renews the lease waits for no handler.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final

import attrs
import trio

from durable_trio.calls.current_step import CURRENT
from durable_trio.engine.wiring import Executor
from durable_trio.logger import Logger
from durable_trio.unseen import visible

__all__ = ["LOOP_BLOCKED", "watching_loop"]

_LOGGER: Final = Logger("durable_trio.processes")
#: How the line begins that tells what blocks the loop.
LOOP_BLOCKED: Final = "the event loop has been blocked"
_LOOK_SECONDS: Final = 0.25
#: A pass of the loop that takes longer is worth a line.
_STALL_SECONDS: Final = 1.0
# The innermost frames tell what blocks.
_FRAMES_MAX: Final = 16
_LOOP_FILE: Final = trio.run.__code__.co_filename
# Lines that wait while a handler takes its time.
_LINES_MAX: Final = 100
# How long each of the threads is waited for at the end: it may be writing to the store, or to a log.
_LEAVE_SECONDS: Final = 5.0
_RUN_TASK: Final = "run "


@contextmanager
def watching_loop(executor: Executor | None, stall_seconds_max: float) -> Iterator[None]:
    """Watch the loop of the calling task inside the block; not where time is a test's."""
    testing = sys.modules.get("trio.testing")
    if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
        yield
        return
    watch = _LoopWatch(executor, stall_seconds_max)
    watch.start()
    try:
        yield
    finally:
        watch.stop()


@attrs.frozen
class _Blocked:
    """What blocks the loop: the stack, and the run and step if it is one's."""

    stack: str
    run_id: str | None = None
    workflow: str | None = None
    step: str | None = None
    attempt: int | None = None

    def __str__(self) -> str:
        if self.run_id is None:
            return "by code that is no run's"
        of_run = f"of run {self.run_id!r}" + ("" if self.workflow is None else f" of workflow {self.workflow!r}")
        what = "the body" if self.step is None else f"step {visible(self.step)!r}, attempt {self.attempt},"
        return f"by {what} {of_run}"

    def fields(self, event: str, seconds: float) -> dict[str, Any]:
        """Return what the line says to programs."""
        fields = {"event": event, "seconds": round(seconds, 3), **attrs.asdict(self)}
        return {name: value for name, value in fields.items() if value is not None}


class _LoopWatch:
    """The thread, and what it and the loop tell each other: each of these is set by one of them alone."""

    def __init__(self, executor: Executor | None, stall_seconds_max: float) -> None:
        self._executor = executor
        self._stall_seconds_max = stall_seconds_max
        self._token = trio.lowlevel.current_trio_token()
        self._root = trio.lowlevel.current_root_task()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="durable-trio-loop-watch", daemon=True)
        self._teller = _Teller()
        now = time.monotonic()
        self._passed_at = now  # by the loop
        self._asked_at = now  # by the thread, as all below
        self._has_asked = False
        self._blocked: _Blocked | None = None
        self._is_hung = False

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join(_LEAVE_SECONDS)
        self._teller.stop()

    def _pass(self) -> None:
        self._passed_at = time.monotonic()

    def _run(self) -> None:
        looked_at, used = time.monotonic(), time.process_time()
        while not self._stopped.wait(_LOOK_SECONDS):
            now, used_before, used = time.monotonic(), used, time.process_time()
            late, looked_at = now - looked_at - _LOOK_SECONDS, now
            try:
                if late >= _STALL_SECONDS and not self._has_passed():
                    self._tell_held_up(late, is_ours=used - used_before > late / 2)
                self._look(now)
            except trio.RunFinishedError:
                return
            except Exception as error:  # of ours; nothing depends on a look
                self._teller.tell(_LOGGER.warning, "a look at the event loop has failed: %r", error)

    def _has_passed(self) -> bool:
        return self._passed_at >= self._asked_at

    def _look(self, now: float) -> None:
        if not self._has_asked or self._has_passed():
            if self._blocked is not None:
                self._tell_end(self._passed_at - self._asked_at)
            self._asked_at, self._has_asked = now, True
            self._token.run_sync_soon(self._pass, idempotent=True)
            return
        seconds = now - self._asked_at
        if self._blocked is None and seconds >= _STALL_SECONDS:
            self._tell_begin(seconds)
        self._renew(seconds)

    # ---- the lease -----------------------------------------------------------------------------------------------

    def _renew(self, seconds: float) -> None:
        """Renew the lease in place of the loop, unless it has to be taken for hung."""
        if self._executor is None:
            return
        if seconds <= self._stall_seconds_max:
            error = self._executor.recovery.renew_meanwhile()
            if error is not None:
                text = "the lease could not be renewed while the event loop is blocked: %s"
                self._teller.tell(_LOGGER.info, text, error)
        elif not self._is_hung:
            self._is_hung = True
            self._teller.tell(
                _LOGGER.error,
                "the event loop has been blocked for %.3g s, and counts as hung: the lease of executor %s is not"
                " renewed any more, and others take over its runs",
                seconds,
                self._executor.id,
                extra={"event": "loop_hung", "seconds": round(seconds, 3), "executor": self._executor.id},
            )

    # ---- what is said --------------------------------------------------------------------------------------------

    def _tell_begin(self, seconds: float) -> None:
        blocked = self._blocked = self._find_blocked()
        self._teller.tell(
            _LOGGER.warning,
            f"{LOOP_BLOCKED} for %.1f s, %s; no run of this process goes on meanwhile. Make the "
            "function a sync one, which gets a thread, or let it await\n%s",
            seconds,
            blocked,
            blocked.stack,
            extra=blocked.fields("loop_blocked", seconds),
        )

    def _tell_end(self, seconds: float) -> None:
        blocked, self._blocked, self._is_hung = self._blocked, None, False
        assert blocked is not None
        extra = blocked.fields("loop_unblocked", seconds)
        del extra["stack"]
        self._teller.tell(
            _LOGGER.warning, "the event loop goes on; it was blocked for %.1f s, %s", seconds, blocked, extra=extra
        )

    def _tell_held_up(self, seconds: float, *, is_ours: bool) -> None:
        """This very thread did not run: somebody has not let it, or the whole process was stopped."""
        if not is_ours:
            self._asked_at += seconds  # nobody has blocked the loop for so long
            text = "this process did not run for %.1f s: it was stopped, or the machine was, or was too busy"
            self._teller.tell(
                _LOGGER.info, text, seconds, extra={"event": "process_held_up", "seconds": round(seconds, 3)}
            )
        elif self._blocked is None:  # code in C that keeps the interpreter's lock
            self._tell_begin(seconds)

    def _find_blocked(self) -> _Blocked:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "" if frame is None else _stack_of(frame)
        task = self._find_running()
        if task is None:
            return _Blocked(stack)
        current = task.context.get(CURRENT)
        if current is not None:
            call, attempt, _ = current
            return _Blocked(stack, call.run_id, self._workflow_of(call.run_id), str(call.key), attempt)
        run_id = _run_around(task)
        return _Blocked(stack) if run_id is None else _Blocked(stack, run_id, self._workflow_of(run_id))

    def _find_running(self) -> trio.lowlevel.Task | None:
        """Return the task that the loop is at, or that waits for what it is at. It may go on while it is looked for."""
        left = [] if self._root is None else [self._root]
        try:
            while left:
                task = left.pop()
                if _is_running(task.coro) or _is_running(task.custom_sleep_data):
                    return task
                for nursery in list(task.child_nurseries):
                    left += list(nursery.child_tasks)
        except RuntimeError:  # it has changed meanwhile
            pass
        return None

    def _workflow_of(self, run_id: str) -> str | None:
        if self._executor is None:
            return None
        try:
            rows = self._executor.runs.resident_rows()
        except RuntimeError:  # as above
            return None
        return next((row.workflow for row in rows if row.id == run_id), None)


class _Teller:
    """A thread for log lines, which may take as long as handlers take."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, say: Callable[..., object], *args: object, **fields: object) -> None:
        """Have a line told after those before; wait for nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="durable-trio-loop-watch-lines", daemon=True)
            self._thread.start()
        if self._lines.qsize() < _LINES_MAX:
            self._lines.put(partial(say, *args, **fields))

    def stop(self) -> None:
        """Tell what is left, if that does not take too long."""
        self._lines.put(None)
        if self._thread is not None:
            self._thread.join(_LEAVE_SECONDS)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            line()


def _is_running(coroutine: object) -> bool:
    return bool(getattr(coroutine, "cr_running", False))


def _stack_of(frame: FrameType) -> str:
    """Return the stack of what the loop is at: without the frames of whoever has started the loop."""
    entries = traceback.extract_stack(frame)
    loops = [number for number, entry in enumerate(entries) if entry.filename == _LOOP_FILE]
    return "".join(traceback.format_list(entries[loops[-1] + 1 if loops else 0 :][-_FRAMES_MAX:])).rstrip()


def _run_around(task: trio.lowlevel.Task) -> str | None:
    """Return the id of the run whose body's task it is, or one of its branches."""
    while not task.name.startswith(_RUN_TASK):
        if task.parent_nursery is None:
            return None
        task = task.parent_nursery.parent_task
    return task.name.removeprefix(_RUN_TASK)
