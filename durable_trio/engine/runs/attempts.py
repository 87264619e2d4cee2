"""The attempts of one resident run that are under way: what observers are told of them, and which take long.

Each opens with one event and closes with one; see ``durable_trio.events``. A run has this only where somebody wants to
know: nothing of it is on the way of a step else.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, Final, Protocol, cast

import attrs
import trio

from durable_trio.calls.current_step import CURRENT
from durable_trio.clock import MICROSECONDS, Clock, due_after
from durable_trio.events import AttemptInterrupted, Failure, StepEnded, StepSlow, StepStarted
from durable_trio.failures.one_line import innermost
from durable_trio.looks import look, qualified_name
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key

__all__ = ["Attempts", "SlowSteps"]

_NOWHERE: Final = "unknown place"


class Attempted(Protocol):
    """What is known of the call that an attempt is one of."""

    key: Key
    kind: StepKind

    @property
    def function(self) -> Any:
        """What it calls."""

    def is_told(self) -> None:
        """What has come of the attempt is told."""


@attrs.define(eq=False)
class _Attempt:
    """One that is under way."""

    call: Attempted
    number: int
    began_at: int  # by the engine's clock
    is_slow: bool = False
    ended_at: int | None = None

    def seconds(self, now: int) -> float:
        return (now - self.began_at) / MICROSECONDS


class Attempts:
    """Those of one resident run, by the keys of their steps.

    Args:
        tell: makes an event of a class and its fields, and tells the observers.
        slow: told of those that take long; ``None`` if nobody wants to know.
        say_slow: logs one.
        died: attempts that were under way in the process that had the run before, and has died: by key, its number.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        tell: Callable[..., None],
        error_of: Callable[[str], Failure],
        slow: SlowSteps | None,
        say_slow: Callable[..., None],
        died: Mapping[str, int],
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._error_of = error_of
        self._slow = slow
        self._say_slow = say_slow
        self._died = dict(died)
        self._open: dict[Key, _Attempt] = {}

    # ---- what the calls tell -----------------------------------------------------------------------------------

    def began(self, call: Attempted, number: int) -> None:
        """An attempt begins."""
        attempt = self._open[call.key] = _Attempt(call, number, self._clock.now())
        if self._slow is not None:
            self._slow.add(self, attempt)
        self._tell(StepStarted, key=str(call.key), kind=call.kind, attempt=number)

    def came_out(self, call: Attempted) -> None:
        """The function of an attempt has come out; what that means is still to be committed."""
        attempt = self._open.get(call.key)
        if attempt is not None:
            self._over(attempt)

    def retried(self, key: Key) -> float | None:
        """An attempt has failed, and there will be another; return how long it took."""
        attempt = self._open.get(key)
        duration = self._close(key)
        if attempt is not None:
            attempt.call.is_told()
        return duration

    def ended(self, row: HistoryRow, *, is_replay: bool) -> None:
        """The outcome of a step is given to the body."""
        attempt = self._open.get(row.key)
        duration = self._close(row.key)
        if is_replay:
            is_replay = self._died.pop(str(row.key), None) is None
            duration = max(0, row.finished_at - row.started_at) / MICROSECONDS
        error = None if row.error is None else self._error_of(row.error)
        fields = {"status": row.status, "attempt": row.attempt, "error": error, "duration": duration}
        self._tell(StepEnded, key=str(row.key), kind=row.kind, is_replay=is_replay, **fields)
        if attempt is not None:
            attempt.call.is_told()

    def dropped(self, key: Key) -> None:
        """A call is cancelled without an outcome."""
        self._interrupt(key, "cancelled")

    # ---- what the run tells ------------------------------------------------------------------------------------

    def went_live(self, goes_on: Callable[[str], bool]) -> None:
        """All that is recorded was given to the body: of what was under way before, nothing more will be known.

        Args:
            goes_on: whether the step of that key has still to tell how the attempt came out (``at_most_once``).
        """
        for key, number in self._died.items():
            if not goes_on(key):
                kind = StepKind.COMPENSATION if key.startswith("compensate/") else StepKind.STEP
                self._tell(AttemptInterrupted, key=key, kind=kind, attempt=number, reason="died")
        self._died.clear()

    def left(self) -> None:
        """The run leaves this process."""
        self.went_live(lambda _: False)
        for key in list(self._open):
            self._interrupt(key, "left")

    # ---- inside ------------------------------------------------------------------------------------------------

    def _interrupt(self, key: Key, reason: str) -> None:
        attempt = self._open.get(key)
        if attempt is not None:
            duration = self._close(key)
            fields = {"attempt": attempt.number, "reason": reason, "duration": duration}
            self._tell(AttemptInterrupted, key=str(key), kind=attempt.call.kind, **fields)
            attempt.call.is_told()

    def _close(self, key: Key) -> float | None:
        attempt = self._open.pop(key, None)
        if attempt is None:
            return None
        self._over(attempt)
        return attempt.seconds(attempt.ended_at or self._clock.now())

    def _over(self, attempt: _Attempt) -> None:
        if attempt.ended_at is None:
            attempt.ended_at = self._clock.now()
            if self._slow is not None:
                self._slow.remove(attempt)
                if attempt.seconds(attempt.ended_at) > self._slow.seconds:
                    self.say_slow(attempt, goes_on=False)

    def say_slow(self, attempt: _Attempt, *, goes_on: bool) -> None:
        """An attempt takes long: say it, once."""
        if attempt.is_slow:
            return
        attempt.is_slow = True
        call, seconds = attempt.call, attempt.seconds(attempt.ended_at or self._clock.now())
        place = _place_of(call) if goes_on else _definition_of(call)
        self._say_slow(call.key, attempt.number, seconds, place, goes_on=goes_on)
        fields = {"attempt": attempt.number, "duration": seconds, "place": place}
        self._tell(StepSlow, key=str(call.key), kind=call.kind, **fields)


class SlowSteps:
    """The attempts that are under way in this process, the oldest first; looked at when that may have become slow.

    Args:
        seconds: what is slow.
        call_at: calls back when the clock says so.
    """

    def __init__(self, seconds: float, clock: Clock, call_at: Callable[[int, Callable[[], None]], None]) -> None:
        self.seconds = seconds
        self._microseconds = due_after(0, seconds)
        self._clock = clock
        self._call_at = call_at
        self._under_way: dict[_Attempt, Attempts] = {}
        self._is_set = False

    def add(self, of: Attempts, attempt: _Attempt) -> None:
        """An attempt begins."""
        self._under_way[attempt] = of
        if not self._is_set:
            self._set(attempt)

    def remove(self, attempt: _Attempt) -> None:
        """It has come out."""
        self._under_way.pop(attempt, None)

    def look(self) -> None:
        """Have those told that have become slow."""
        self._is_set = False
        now = self._clock.now()
        for attempt, of in list(self._under_way.items()):
            if now - attempt.began_at <= self._microseconds:
                self._set(attempt)
                return
            del self._under_way[attempt]
            of.say_slow(attempt, goes_on=True)

    def _set(self, attempt: _Attempt) -> None:
        self._is_set = True
        self._call_at(attempt.began_at + self._microseconds + 1, self.look)


def _place_of(call: Attempted) -> str:
    """Return where the function of a call is now; of one that cannot be found, where it is defined."""
    return look(_found_place, call, instead=lambda _: None) or _definition_of(call)


def _found_place(call: Attempted) -> str | None:
    for task in _tasks():
        current = task.context.get(CURRENT)
        if current is not None and cast(object, current[0]) is call:
            place = innermost([_shown(frame, line) for frame, line in task.iter_await_frames()])
            if place is not None:
                return place
    found = (_frames_in_thread(frame, call) for frame in sys._current_frames().values())
    return next(filter(None, map(innermost, found)), None)


def _frames_in_thread(frame: FrameType | None, call: Attempted) -> list[tuple[str, int, str]]:
    """Return the frames of a thread, the outermost first, if it is there that the sync function of a call runs."""
    shown: list[tuple[str, int, str]] = []
    while frame is not None:
        if frame.f_code.co_name == "_call_sync" and frame.f_locals.get("self") is call:
            return shown[::-1]
        shown.append(_shown(frame, frame.f_lineno))
        frame = frame.f_back
    return []


def _tasks() -> list[trio.lowlevel.Task]:
    """Return all tasks of this ``trio.run``: a step's may have begun others, and is the one with its wait."""
    root = trio.lowlevel.current_root_task()
    found = [] if root is None else [root]
    for task in found:
        for nursery in task.child_nurseries:
            found.extend(nursery.child_tasks)
    return found


def _shown(frame: FrameType, line: int) -> tuple[str, int, str]:
    return frame.f_code.co_filename, line, frame.f_code.co_name


def _definition_of(call: Attempted) -> str:
    nowhere = f"{_NOWHERE} in {qualified_name(type(call.function))}"
    return look(_found_definition, call.function, instead=lambda _: nowhere) or nowhere


def _found_definition(function: Any) -> str | None:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}" if isinstance(code, CodeType) else None
