"""The timers service: one task that wakes up others at their due times.

Runs in memory ask for alarms that are hours or days away, and most of them have ended or left long before. Such alarms
are dropped from time to time: whenever there are twice as many as were of use the last time.

The task naps until the first alarm. One that comes before all others ends the nap earlier, and wakes nobody by itself.
So does the kernel when the wall clock is set, or the machine has slept (``clock_watch``); where it does not, naps are
short.

After a sleep others may have taken over the runs that this process had: nothing goes off before it is known what is
still its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
import weakref
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, Protocol

import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.services.clock_watch import ClockWatch, open_clock_watch
from durable_trio.engine.services.service import Service
from durable_trio.logger import Logger
from durable_trio.processes import suspended_for

# So many alarms are not worth a look.
_ALARMS_MIN: Final = 1024
# A machine that has slept for less has not slept.
_SLEPT_SECONDS_MIN: Final = 0.5
# When it wakes up, clocks are set and networks come back, one after the other: that is looked at once.
_GATHER_SECONDS: Final = 0.25
# By so much at least a clock is set that people are told of; what is less the system corrects.
_SET_SECONDS_MIN: Final = 1.0

_LOGGER: Final = Logger("durable_trio.processes")


class Sleeper(Protocol):
    """Who is woken by an alarm."""

    @property
    def has_left(self) -> bool:
        """Whether no alarm means anything to it any more."""

    def wake(self) -> None:
        """Its time has come."""


# What is called back; or who is woken, if it is still there: an alarm keeps nobody alive.
_Alarm = Callable[[], None] | weakref.ref[Sleeper]


class Timers(Service):
    """Calls back at instants of the engine's clock, never early; once each, perhaps for nothing.

    Args:
        clock_was_set: told that the wall clock was set: what is stored may come at another time than was thought.
        woke_up: told that the machine has slept, and for how many seconds; what is due waits until it returns.
    """

    def __init__(
        self, clock: Clock, *, clock_was_set: Callable[[], None], woke_up: Callable[[float], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, _Alarm]] = []
        self._heap_max = _ALARMS_MIN
        self._order = itertools.count()
        self._nap = trio.CancelScope()
        self._era = clock.era
        self._clock_was_set = clock_was_set
        self._woke_up = woke_up
        self._watch: ClockWatch | None = None
        self._suspended_for = suspended_for()
        self._stepped = clock.stepped

    def call_at(self, due_at: int, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when ``Clock.now`` says ``due_at``.

        If it raises, this service crashes, and its successor calls it again.
        """
        heapq.heappush(self._heap, (due_at, next(self._order), callback))
        if self._heap[0][0] == due_at:
            self._nap_until_first(self._clock.now())

    def wake_at(self, due_at: int, sleeper: Sleeper, now: int) -> None:
        """Have ``sleeper.wake`` called when ``Clock.now`` says ``due_at``, unless it has left; it says ``now``."""
        if len(self._heap) >= self._heap_max:
            self._heap = [entry for entry in self._heap if not _is_void(entry[2])]
            heapq.heapify(self._heap)
            self._heap_max = max(_ALARMS_MIN, 2 * len(self._heap))
        # As ``call_at`` does: each wait passes here.
        heapq.heappush(self._heap, (due_at, next(self._order), weakref.ref(sleeper)))
        if self._heap[0][0] == due_at:
            self._nap_until_first(now)

    def look(self) -> None:
        """The clock may be another one: look at once what is due."""
        self._nap.cancel()

    def _nap_until_first(self, now: int) -> None:
        """Have the nap end in time for the first alarm. One that is over is followed by another look."""
        # The wall clock may be set forward while we nap, so naps are bounded where nobody tells.
        seconds = (self._heap[0][0] - now) / MICROSECONDS
        if self._watch is None:
            seconds = min(seconds, self._clock.nap_seconds_max)
        self._nap.deadline = min(self._nap.deadline, trio.current_time() + seconds)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        with open_clock_watch(self._clock) as self._watch:
            task_status.started()
            while True:
                slept_seconds = await self._look_at_sleep()
                now = self._clock.now()
                if self._era != self._clock.era:
                    self._era = self._clock.era
                    self._say_set(slept_seconds)
                    self._clock_was_set()
                self._go_off_until(now)
                await self._wait()

    async def _look_at_sleep(self) -> float:
        """Have everybody look for themselves, if the machine has slept; return for how many seconds it has."""
        if suspended_for() - self._suspended_for < _SLEPT_SECONDS_MIN:
            return 0.0
        await trio.sleep(_GATHER_SECONDS)
        before, self._suspended_for = self._suspended_for, suspended_for()
        seconds = self._suspended_for - before
        _LOGGER.info(
            "the machine has slept for %.0f s", seconds, extra={"event": "slept", "seconds": round(seconds, 1)}
        )
        await self._woke_up(seconds)
        return seconds

    def _say_set(self, slept_seconds: float) -> None:
        """Say it if the wall clock was set, beside what it has gone on while the machine slept."""
        seconds = (self._clock.stepped - self._stepped) / MICROSECONDS - slept_seconds
        self._stepped = self._clock.stepped
        if abs(seconds) >= _SET_SECONDS_MIN:
            where = "forward" if seconds > 0 else "back"
            extra = {"event": "clock_set", "seconds": round(seconds, 1)}
            _LOGGER.info("the clock was set %s by %.1f s", where, abs(seconds), extra=extra)

    def _go_off_until(self, now: int) -> None:
        failed: list[tuple[int, int, _Alarm]] = []
        faults: list[BaseException] = []
        while self._heap and self._heap[0][0] <= now:
            alarm = heapq.heappop(self._heap)
            try:
                _go_off(alarm[2])
            except BaseException as error:
                failed.append(alarm)
                faults.append(error)
        for alarm in failed:  # whoever serves next must not miss it, and the others were not held up
            heapq.heappush(self._heap, alarm)
        if faults:
            raise faults[0]

    async def _wait(self) -> None:
        """Nap until the first alarm, or until there is another reason to look."""
        self._nap = trio.CancelScope()
        seconds = math.inf
        if self._heap:
            now = self._clock.now()  # what has gone off may have taken its time
            self._nap_until_first(now)
            seconds = (self._heap[0][0] - now) / MICROSECONDS
        with self._nap:
            if self._watch is None:
                await trio.sleep_forever()
            else:
                self._watch.arm(seconds)
                await self._watch.wait()


def _is_void(alarm: _Alarm) -> bool:
    """Return whether nobody is there any more to be woken."""
    if not isinstance(alarm, weakref.ref):
        return False
    sleeper = alarm()
    return sleeper is None or sleeper.has_left


def _go_off(alarm: _Alarm) -> None:
    if not isinstance(alarm, weakref.ref):
        alarm()
        return
    sleeper = alarm()
    if sleeper is not None and not sleeper.has_left:
        sleeper.wake()
