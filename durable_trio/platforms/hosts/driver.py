"""Drives a trio run as the guest of another loop, in that loop's thread, without a thread to wait in.

trio's own guest mode waits for I/O in a thread. Beside a busy loop that thread gets the interpreter's lock late, and so
does each thread that commits or reads for the engine: a step that takes half a millisecond takes seconds then. So:

1. An epoll or kqueue descriptor can itself be watched. The host watches trio's, and keeps its next deadline.
2. A *turn* is what trio has to do now, as many of its passes as fit into ``TURN_SECONDS``; then the host has its own.
3. While a commit or a read is in flight and the host has work, the driver stays in the host's queue and waits a moment
   in each pass for that thread, with the lock released (``stores.threads.Linger``). Beside an idle host it does not:
   the thread wakes the host by itself, and waiting for it would only cost.

It knows the inside of trio's guest state (``GuestParts``), because no public name leads there: the one file beside
``turns.lane`` that does. A test guards what it assumes. Where a part is missing, or the host cannot watch descriptors,
trio's own ticks do the work, more slowly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Final

import attrs
import trio
from outcome import Error, Outcome, capture
from sniffio import thread_local as sniffed

from durable_trio.platforms.hosts.ctrl_c import CtrlC
from durable_trio.platforms.hosts.host import Host, Timer
from durable_trio.platforms.hosts.load import HostLoad
from durable_trio.stores.threads import HOSTED, Linger

__all__ = ["TURN_SECONDS", "Driver", "GuestParts"]

#: So long trio goes on before the host has its own again; one pass of trio's may take longer.
TURN_SECONDS: Final = 0.001


@attrs.frozen
class GuestParts:
    """The parts of trio's guest state that are used here."""

    state: Any
    runner: Any
    get_events: Callable[[float], Any]
    descriptor: int

    @classmethod
    def of(cls, tick: Callable[[], object]) -> GuestParts | None:
        """Return the parts of the state whose tick this is; ``None`` if one of them is not where it was."""
        try:
            state = tick.__self__  # type: ignore[attr-defined]  # a bound method
            runner, _, _ = state.runner, state.unrolled_run_gen.send, state.unrolled_run_next_send.send
            manager, _, _ = runner.io_manager, runner.guest_tick_scheduled, runner.main_task_outcome
            polled = manager._epoll if hasattr(manager, "_epoll") else manager._kqueue
            return cls(state, runner, manager.get_events, polled.fileno())
        except AttributeError:
            return None


class Driver:
    """Runs an async function as the main task of a trio run that is the guest of a host. Used once.

    Args:
        host: the loop, which runs in the calling thread.
        is_stock: leave it to trio's own ticks; they are used anyway where this driver cannot work.
    """

    def __init__(self, host: Host, *, is_stock: bool = False) -> None:
        self._host = host
        self._is_stock = is_stock
        self._parts: GuestParts | None = None
        self._ctrl_c = CtrlC()
        self._ended: Callable[[Outcome[Any]], object] | None = None
        self._lingers: set[Linger] = set()
        # It waits for its descriptor, its deadline, or a thread; else its next turn is on its way.
        self._is_waiting = False
        self._is_looking = False  # a look is in the host's queue
        self._due = math.inf
        self._timer: Timer | None = None
        self._timer_due = math.inf
        self._load = HostLoad(host)

    @property
    def is_own(self) -> bool:
        """Whether this driver does the work, and not trio's own ticks."""
        return self._parts is not None

    @property
    def _own(self) -> GuestParts:
        """The parts of trio, where this driver does the work."""
        assert self._parts is not None
        return self._parts

    def start(
        self, main: Callable[[], Awaitable[Any]], ended: Callable[[Outcome[Any]], object], **options: Any
    ) -> None:
        """Begin the run; ``ended`` is called with what comes of ``main``, as a call of the host's own.

        ``options`` are those of ``trio.start_guest_run``. On return ``trio.lowlevel.spawn_system_task`` works in this
        thread.
        """
        self._ended = ended
        self._ctrl_c.install()
        try:
            trio.lowlevel.start_guest_run(
                main,
                run_sync_soon_threadsafe=self._soon_from_thread,
                run_sync_soon_not_threadsafe=self._first,
                done_callback=self._finish_soon,
                host_uses_signal_set_wakeup_fd=True,
                **options,
            )
            HOSTED.set(self._lingers if self.is_own else None)
        except BaseException:
            self._ended = None
            self._ctrl_c.remove()
            raise

    def wake(self) -> None:
        """Have a turn soon: something was given to trio from the host's side."""
        if self._is_waiting:
            parts = self._own
            parts.state.unrolled_run_next_send = capture(parts.get_events, 0)
            self._go_on()

    def abandon(self) -> None:
        """Give the run up: its host is closed, and would never let it go on."""
        if self._parts is not None and self._ended is not None:
            self._ended = None
            self._ctrl_c.remove()
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                self._parts.state.unrolled_run_gen.close()

    # ---- trio's own ticks --------------------------------------------------------------------------------------

    def _first(self, tick: Callable[[], object]) -> None:
        """Take the place of trio's first tick, if that can be."""
        parts = None if self._is_stock else GuestParts.of(tick)
        if parts is not None:
            try:
                self._host.add_reader(parts.descriptor, self._readable)
            except (NotImplementedError, OSError, ValueError):
                parts = None
        self._is_stock, self._parts = parts is None, parts
        self._soon(tick) if parts is None else self._go_on()

    def _soon(self, tick: Callable[[], object]) -> None:
        self._host.call_soon(lambda: self._within(tick))

    def _soon_from_thread(self, tick: Callable[[], object]) -> None:
        self._host.call_soon_threadsafe(lambda: self._within(tick))

    def _within(self, tick: Callable[[], object]) -> None:
        """Call something of trio's as a turn: Ctrl-C waits for its end, and it takes itself for no code of the host."""
        self._ctrl_c.is_held = True
        began_at = perf_counter()
        try:
            self._host.outside(tick)  # type: ignore[arg-type]  # what it returns is nothing
        finally:
            self._load.was_the_guests(perf_counter() - began_at)
            self._ctrl_c.is_held = False
        self._ctrl_c.release()

    # ---- a turn ------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Have the next turn in the host's next pass."""
        self._is_waiting = False
        self._own.runner.guest_tick_scheduled = True  # else trio would wake its descriptor, too
        self._load.pass_begins()
        self._host.call_soon(self._queued_turn)

    def _queued_turn(self) -> None:
        self._load.pass_ends()
        if not self._is_waiting:  # else it was had already
            self._turn()

    def _turn(self) -> None:
        if self._ended is not None:
            self._within(self._passes)

    def _passes(self) -> None:
        """Let trio make its passes, until it waits or its time is over."""
        parts = self._own
        state, get_events = parts.state, parts.get_events
        ends_at = perf_counter() + TURN_SECONDS
        may_linger = True
        before, sniffed.name = sniffed.name, "trio"
        try:
            while True:
                try:
                    timeout = state.unrolled_run_next_send.send(state.unrolled_run_gen)
                except StopIteration:
                    outcome: Outcome[Any] = parts.runner.main_task_outcome
                    self._leave_host(outcome)
                    return
                except trio.TrioInternalError as error:
                    self._leave_host(Error(error))
                    return
                events = capture(get_events, 0)
                if not isinstance(events, Error) and not events.value:
                    # Also while trio has work itself, as in ``trio.run``.
                    if may_linger and (timeout == 0 or self._load.is_busy()) and (busy := self._busy()) is not None:
                        may_linger = False
                        busy.wait()
                        events = capture(get_events, 0)
                    if timeout > 0 and not isinstance(events, Error) and not events.value:
                        self._wait(timeout)
                        return
                state.unrolled_run_next_send = events
                if perf_counter() >= ends_at:
                    self._go_on()
                    return
        finally:
            sniffed.name = before

    def _wait(self, timeout: float) -> None:
        """Have no turn before there are events, or the time is over."""
        self._own.runner.guest_tick_scheduled = False
        self._is_waiting = True
        self._due = perf_counter() + timeout
        if self._due < self._timer_due:
            self._set_timer(timeout)
        if self._load.may_be_busy() and self._busy() is not None:
            self._look_soon()

    def _resume(self, events: Outcome[Any]) -> None:
        """Have a turn now: there are these events, or the time is over."""
        parts = self._own
        self._is_waiting = False
        parts.runner.guest_tick_scheduled = True
        parts.state.unrolled_run_next_send = events
        self._turn()

    # ---- what ends a wait --------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """The descriptor can be read; also while a turn is on its way, and just after one."""
        if self._is_waiting:
            self._resume_if_any()

    def _resume_if_any(self) -> bool:
        """Have a turn now if there are events."""
        events = capture(self._own.get_events, 0)
        if not isinstance(events, Error) and not events.value:
            return False
        self._resume(events)
        return True

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._due
        self._timer = self._host.call_later(seconds, self._timer_fires)

    def _timer_fires(self) -> None:
        """A deadline is there, or was; which one, trio knows. One timer serves several waits."""
        self._timer, self._timer_due = None, math.inf
        if not self._is_waiting:
            return
        left = self._due - perf_counter()
        if left > 0.000_5:
            self._set_timer(left)
        elif not self._resume_if_any():
            self._resume(capture(self._own.get_events, 0))

    # ---- lingering ---------------------------------------------------------------------------------------------

    def _busy(self) -> Linger | None:
        """Return whose threads have work, if any have."""
        for linger in self._lingers:
            if linger.is_busy:
                return linger
        return None

    def _look_soon(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self._load.pass_begins()
            self._host.call_soon(self._look)

    def _look(self) -> None:
        """Wait a moment for the threads, in each pass of the host, as long as they have work and it is busy."""
        self._is_looking = False
        self._load.pass_ends()
        if not self._is_waiting or self._ended is None or self._resume_if_any():
            return
        busy = self._busy()
        if busy is not None and self._load.is_busy():
            busy.wait()
            if not self._resume_if_any():
                self._look_soon()

    # ---- the end -----------------------------------------------------------------------------------------------

    def _leave_host(self, outcome: Outcome[Any]) -> None:
        """Ask the host for nothing any more: trio has ended."""
        self._is_waiting = False
        self._host.remove_reader(self._own.descriptor)
        if self._timer is not None:
            self._timer.cancel()
        self._finish_soon(outcome)

    def _finish_soon(self, outcome: Outcome[Any]) -> None:
        """End outside of the turn: who is told is code of the host's."""
        self._host.call_soon(lambda: self._finish(outcome))

    def _finish(self, outcome: Outcome[Any]) -> None:
        ended, self._ended = self._ended, None
        self._ctrl_c.remove()
        if ended is not None:
            ended(outcome)
