"""The timers service: one task that wakes up others at their due times.

Runs in memory ask for alarms that are hours or days away, and most of them have ended or left long before. Such alarms
are dropped from time to time: whenever there are twice as many as were of use the last time.

The task naps until the first alarm. One that comes before all others ends the nap earlier, and wakes nobody by itself.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.services.service import Service

# So many alarms are not worth a look.
_ALARMS_MIN: Final = 1024


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
    """

    def __init__(self, clock: Clock, *, clock_was_set: Callable[[], None]) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, _Alarm]] = []
        self._heap_max = _ALARMS_MIN
        self._order = itertools.count()
        self._nap = trio.CancelScope()
        self._era = clock.era
        self._clock_was_set = clock_was_set

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

    def _nap_until_first(self, now: int) -> None:
        """Have the nap end in time for the first alarm. One that is over is followed by another look."""
        # The wall clock may be set forward while we nap, so naps are bounded.
        seconds = min((self._heap[0][0] - now) / MICROSECONDS, self._clock.nap_seconds_max)
        self._nap.deadline = min(self._nap.deadline, trio.current_time() + seconds)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        task_status.started()
        while True:
            now = self._clock.now()
            if self._era != self._clock.era:
                self._era = self._clock.era
                self._clock_was_set()
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
            self._nap = trio.CancelScope()
            if self._heap:
                self._nap_until_first(self._clock.now())  # what has gone off may have taken its time
            with self._nap:
                await trio.sleep_forever()


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
