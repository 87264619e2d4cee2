"""What a supervisor tells its listeners: typed values on bounded streams.

A stream never blocks the supervisor. A listener that is too slow loses the oldest events and is told how many.
An event of a nested supervisor reaches the listeners of every supervisor above it. ``path`` leads from the root to what
the event is about; ``at`` is the time on trio's clock (``trio.current_time``), in seconds.
"""

from __future__ import annotations

import weakref
from collections import deque
from types import TracebackType
from typing import Self, TypeAlias

import attrs
import trio

from supervisors.errors import UnstoppedChild
from supervisors.exits import Exit

# Default capacity of a stream: a restart storm fits, and a forgotten listener costs little.
EVENTS_MAX = 1_000


@attrs.frozen(kw_only=True)
class SupervisorStarted:
    """The supervisor and all children of its specification are ready."""

    path: tuple[str, ...]
    at: float


@attrs.frozen(kw_only=True)
class SupervisorStopping:
    """The supervisor begins to stop its children; ``reason`` says why."""

    path: tuple[str, ...]
    at: float
    reason: str


@attrs.frozen(kw_only=True)
class SupervisorEnded:
    """The supervisor and all its children are gone. ``error`` is what it failed with, if it failed."""

    path: tuple[str, ...]
    at: float
    error: Exception | None


@attrs.frozen(kw_only=True)
class ChildStarted:
    """A child is ready. ``path`` ends with its name, ``restart_count`` is 0 the first time."""

    path: tuple[str, ...]
    at: float
    restart_count: int
    pid: int | None = None


@attrs.frozen(kw_only=True)
class ChildExited:
    """An incarnation of a child is over; ``exit`` tells how, with the tail of standard error of a process.

    ``ready_seconds`` is how long it had been ready by then, ``None`` if it never was.
    """

    path: tuple[str, ...]
    at: float
    exit: Exit
    ready_seconds: float | None = None


@attrs.frozen(kw_only=True)
class RestartScheduled:
    """A child ended and will be restarted in ``delay_seconds``, with the others in ``names``, in that order."""

    path: tuple[str, ...]
    at: float
    attempt: int
    delay_seconds: float
    names: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ChildUnstopped:
    """A child was still running when its time to stop was over: it is not replaced, its supervisor fails."""

    path: tuple[str, ...]
    at: float
    error: UnstoppedChild


@attrs.frozen(kw_only=True)
class EventsLost:
    """This listener was too slow: ``lost_count`` events between the last one and the next one are gone."""

    lost_count: int


SupervisorEvent: TypeAlias = (
    SupervisorStarted
    | SupervisorStopping
    | SupervisorEnded
    | ChildStarted
    | ChildExited
    | RestartScheduled
    | ChildUnstopped
)
Event: TypeAlias = SupervisorEvent | EventsLost


class EventStream(trio.abc.ReceiveChannel["Event"]):
    """The receiving end of a channel of events, from the call of ``events()`` to the end of the supervisor.

    ``async for`` ends when the supervisor has ended and all events were taken. Leave it, ``close()`` it or use it
    as a context manager; one that is merely dropped is forgotten too. For one listener; each takes its own stream.
    """

    def __init__(self, events_max: int) -> None:
        if events_max < 1:
            raise ValueError(f"a stream keeps at least 1 event, not {events_max}")
        self._events: deque[SupervisorEvent] = deque(maxlen=events_max)
        self._lost_count = 0
        self._is_closed = False
        self._bell = trio.Event()

    async def receive(self) -> Event:
        """Return the next event.

        *Cancellation:* none is lost.

        Raises:
            trio.EndOfChannel: there will be no more.
        """
        await trio.lowlevel.checkpoint()
        while True:
            event = self.take_nowait()
            if event is not None:
                return event
            if self._is_closed:
                raise trio.EndOfChannel
            self._bell = trio.Event()
            await self._bell.wait()

    def take_nowait(self) -> Event | None:
        """Return the next event if there is one, without waiting."""
        if self._lost_count:
            lost, self._lost_count = self._lost_count, 0
            return EventsLost(lost_count=lost)
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Take no further events; those already here can still be read."""
        self._is_closed = True
        self._bell.set()

    async def aclose(self) -> None:
        """Close it, as ``close()`` does."""
        self.close()
        await trio.lowlevel.checkpoint()

    def put(self, event: SupervisorEvent) -> None:
        """Add an event, at the cost of the oldest if the stream is full. For the supervisor."""
        if self._is_closed:
            return
        self._lost_count += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._bell.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class EventSource:
    """The streams of one supervisor, and the way up to those of the supervisors above."""

    def __init__(self, parent: EventSource | None) -> None:
        self._parent = parent
        # Weak, so that a stream whose listener went away without closing it does not stay.
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    def open_stream(self, events_max: int) -> EventStream:
        stream = EventStream(events_max)
        self._streams.add(stream)
        return stream

    def publish(self, event: SupervisorEvent) -> None:
        if self._streams:
            for stream in list(self._streams):
                stream.put(event)
        if self._parent is not None:
            self._parent.publish(event)

    def close(self) -> None:
        for stream in list(self._streams):
            stream.close()
