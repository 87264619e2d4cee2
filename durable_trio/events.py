"""What observers are told: one class for each thing that can happen to a run or to an attempt of a step.

An event is made by the process in which it happens, and kept nowhere: what a run has done is in its history.

*Attempts.* Each attempt of a step, a transaction, an item of a map or a compensation that begins in a process is told
there by one ``StepStarted``, and closed by one of ``StepRetried`` (it has failed, and there will be another),
``StepEnded`` (it was the last) and ``AttemptInterrupted`` (nobody here knows what came of it). So in one process there
are as many of the first as of the other three together, once its engine is closed. What is closed is over: a
``StepEnded`` that is not ``is_replay`` comes once for each recorded outcome of a step in all processes together, but
where its process has left the run, or has died, between the commit and the body's next turn.

*After a death.* What a process was about to tell when it was killed, nobody tells in its stead, but for what it had
begun: whoever takes the run over tells for each attempt that was under way there ``AttemptInterrupted`` with the
reason ``"died"``, before it begins the attempt again, or, if its outcome was stored, one ``StepEnded`` which is no
replay. What was under way is known from what the store keeps of it (``Store.note_steps``); of a store in memory nothing
is left to be told, and on a server only what had taken so long that its process had reported it. A process that dies in
the very instant in which it tells something may leave it to be told twice.

*Replay.* An outcome that is given to a body that repeats itself is told with ``is_replay``, and was told before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import attrs

from durable_trio.records import FailureRecord, Problem, RunStatus, StepKind, StepStatus

__all__ = [
    "EVENTS",
    "AttemptInterrupted",
    "Event",
    "RunCompensating",
    "RunEnded",
    "RunParked",
    "RunResumed",
    "RunStarted",
    "RunSuspended",
    "StepEnded",
    "StepRetried",
    "StepSlow",
    "StepStarted",
]

Failure = BaseException | FailureRecord


@attrs.frozen(kw_only=True)
class Event:
    """Something that has happened to a run in this process.

    ``at`` is when, in UTC. With ``is_replay`` it is told of what has happened before, as a body repeats itself.
    Durations are in seconds. An ``error`` is a copy of what was raised, or a ``FailureRecord`` where it cannot be
    rebuilt.
    """

    name: ClassVar[str] = ""  # of the observer's hook that is told

    at: datetime
    run_id: str
    workflow: str
    is_replay: bool = False

    @property
    def fields(self) -> Mapping[str, Any]:
        """What this event tells beside what every event does, by name."""
        return {name: getattr(self, name) for name in attrs.fields_dict(type(self)) if name not in _OF_ALL}


_OF_ALL: Final = frozenset(attrs.fields_dict(Event))


@attrs.frozen(kw_only=True)
class RunStarted(Event):
    """A run begins for the first time."""

    name = "run_started"


@attrs.frozen(kw_only=True)
class RunResumed(Event):
    """A run goes on in this process, after a wait, a crash or a restart.

    ``recoveries`` are those of its record: how often its process has died without progress of the run.
    """

    name = "run_resumed"

    recoveries: int = 0


@attrs.frozen(kw_only=True)
class RunSuspended(Event):
    """A run only waits now and has left the memory."""

    name = "run_suspended"


@attrs.frozen(kw_only=True)
class RunParked(Event):
    """A run was parked with a problem; ``error`` is a ``NonDeterminismError`` if its code has diverged."""

    name = "run_parked"

    problem: Problem
    error: Failure | None = None


@attrs.frozen(kw_only=True)
class RunCompensating(Event):
    """A run has failed or was cancelled (``error``), and begins to undo its steps."""

    name = "run_compensating"

    error: Failure | None = None


@attrs.frozen(kw_only=True)
class RunEnded(Event):
    """A run's final status is committed.

    ``duration`` is since its body began; ``error`` why it has no result. ``key`` and ``attempt`` are those of the step
    whose failure has ended it, if one has.
    """

    name = "run_ended"

    status: RunStatus
    duration: float | None = None
    error: Failure | None = None
    key: str | None = None
    attempt: int | None = None


@attrs.frozen(kw_only=True)
class StepStarted(Event):
    """An attempt of a step, transaction or compensation begins."""

    name = "step_started"

    key: str
    kind: StepKind
    attempt: int


@attrs.frozen(kw_only=True)
class StepRetried(Event):
    """An attempt has failed after ``duration``, and will be repeated in ``delay`` seconds; that is committed."""

    name = "step_retried"

    key: str
    kind: StepKind
    attempt: int
    error: Failure
    delay: float
    duration: float | None = None


@attrs.frozen(kw_only=True)
class StepEnded(Event):
    """A step's outcome is committed, and given to the body: for the first time, or with ``is_replay``.

    ``duration`` is that of the last attempt; at replay, from the begin of the first to the end of the last.
    """

    name = "step_ended"

    key: str
    kind: StepKind
    status: StepStatus
    attempt: int
    error: Failure | None = None
    duration: float | None = None


@attrs.frozen(kw_only=True)
class AttemptInterrupted(Event):
    """An attempt is over without an outcome that this process knows of.

    ``reason``: ``"cancelled"`` (the body has cancelled the call), ``"left"`` (the run leaves this process, which may
    still be committing what has come of it), ``"died"`` (it was under way in a process that has died).
    """

    name = "attempt_interrupted"

    key: str
    kind: StepKind
    attempt: int
    reason: str
    duration: float | None = None


@attrs.frozen(kw_only=True)
class StepSlow(Event):
    """An attempt has taken longer than the engine's ``slow_step_seconds``; told once, and as a rule while it runs.

    ``place`` is where it is, as ``file:line in function``.
    """

    name = "step_slow"

    key: str
    kind: StepKind
    attempt: int
    duration: float
    place: str


#: All of them, in the order of a run's life.
EVENTS: Final = (
    RunStarted,
    RunResumed,
    RunSuspended,
    RunParked,
    RunCompensating,
    RunEnded,
    StepStarted,
    StepRetried,
    StepEnded,
    AttemptInterrupted,
    StepSlow,
)
