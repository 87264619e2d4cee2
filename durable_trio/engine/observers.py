"""Observers: hooks that are told what happens in this process. Telemetry only; their errors disturb nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from durable_trio.events import (
    AttemptInterrupted,
    Event,
    RunCompensating,
    RunEnded,
    RunParked,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepEnded,
    StepRetried,
    StepSlow,
    StepStarted,
)
from durable_trio.failures import logged
from durable_trio.logger import Logger
from durable_trio.looks import is_a, look, short

_LOGGER = Logger("durable_trio.observers")
# A hook that takes so long has held up everything in this process: people are told, once.
_SLOW_SECONDS: Final = 0.5


class Observer:
    """Base class of observers: override the hooks that you want. They are called on the event loop: be quick.

    A hook that raises is logged and otherwise ignored; one that takes long holds up all runs of the process, which is
    logged once. What it is told are values of its own: nothing that it does to them reaches a run. Which events there
    are, and how often each is told over crashes, says ``Event`` and the page "Watching".
    """

    def run_started(self, event: RunStarted) -> None:
        """A run begins for the first time."""

    def run_resumed(self, event: RunResumed) -> None:
        """A run goes on in this process, after a wait, a crash or a restart."""

    def run_suspended(self, event: RunSuspended) -> None:
        """A run only waits now and has left the memory."""

    def run_parked(self, event: RunParked) -> None:
        """A run was parked with a problem, which is committed."""

    def run_compensating(self, event: RunCompensating) -> None:
        """A run has failed or was cancelled, and begins to undo its steps."""

    def run_ended(self, event: RunEnded) -> None:
        """A run's final status is committed."""

    def step_started(self, event: StepStarted) -> None:
        """An attempt of a step, transaction, item of a map or compensation begins."""

    def step_retried(self, event: StepRetried) -> None:
        """An attempt has failed and will be repeated."""

    def step_ended(self, event: StepEnded) -> None:
        """A step's outcome was given to the body, for the first time or at replay."""

    def attempt_interrupted(self, event: AttemptInterrupted) -> None:
        """An attempt is over, and what came of it is not known here."""

    def step_slow(self, event: StepSlow) -> None:
        """An attempt takes longer than ``slow_step_seconds``."""


class Observers:
    """Tells all observers of one engine."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        for observer in observers:
            if not is_a(observer, Observer):
                raise TypeError(f"observers must be instances of Observer, not {short(observer)}")
        self._observers = tuple(observers)
        self.are_any = bool(observers)
        self._slow: set[tuple[int, str]] = set()

    def tell(self, event: Event) -> None:
        """Call the event's hook on every observer."""
        for number, observer in enumerate(self._observers):
            began_at = time.monotonic()
            error = look(_tell, observer, event, instead=lambda error: error)
            if error is not None:  # an observer must not disturb a run
                told = (short(observer), event.name, event.run_id)
                _LOGGER.error("observer %s raised in %s for run %r", *told, exc_info=logged(error))
            seconds = time.monotonic() - began_at
            if seconds > _SLOW_SECONDS and (number, event.name) not in self._slow:
                self._slow.add((number, event.name))
                told_slow = (short(observer), seconds, event.name, event.run_id)
                _LOGGER.warning(
                    "observer %s took %.1f s in %s for run %r, and everything in this process waited; hand over to a "
                    "task or a thread of its own",
                    *told_slow,
                )


def _tell(observer: Observer, event: Event) -> BaseException | None:
    getattr(observer, event.name)(event)
    return None
