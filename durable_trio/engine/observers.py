"""Observers: hooks that are told what happens in this process. Telemetry only; their errors disturb nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from durable_trio.failures import logged
from durable_trio.logger import Logger
from durable_trio.looks import look, short

_LOGGER = Logger("durable_trio.observers")


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a run in this process.

    ``fields`` depend on the event: ``key``, ``kind``, ``status`` and ``attempt`` of a step, ``error`` and
    ``delay`` (seconds) of a retry, ``status`` of an ended run, ``problem`` of a parked one.
    """

    name: str
    run_id: str
    workflow: str
    fields: Mapping[str, Any]


class Observer:
    """Base class of observers: override the hooks that you want. They are called on the event loop: be quick.

    A hook that raises is logged and otherwise ignored. Nothing is told twice for one execution, but a step that
    is repeated after a crash is told again.
    """

    def run_started(self, event: Event) -> None:
        """A run begins for the first time."""

    def run_resumed(self, event: Event) -> None:
        """A run goes on in this process, after a wait, a crash or a restart."""

    def run_suspended(self, event: Event) -> None:
        """A run only waits now and has left the memory."""

    def run_parked(self, event: Event) -> None:
        """A run was set aside with a problem; ``error`` is a ``NonDeterminismError`` if its code has diverged."""

    def run_compensating(self, event: Event) -> None:
        """A run has failed or was cancelled, and begins to undo its steps."""

    def run_ended(self, event: Event) -> None:
        """A run's final status is committed."""

    def step_started(self, event: Event) -> None:
        """An attempt of a step, transaction or compensation begins."""

    def step_retried(self, event: Event) -> None:
        """An attempt has failed and will be repeated."""

    def step_ended(self, event: Event) -> None:
        """A step's outcome was given to the body, for the first time or at replay."""


HOOKS = tuple(name for name in vars(Observer) if not name.startswith("_"))


class Observers:
    """Tells all observers of one engine."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        for observer in observers:
            if not isinstance(observer, Observer):
                raise TypeError(f"observers must be instances of Observer, not {observer!r}")
        self._observers = tuple(observers)
        self.are_any = bool(observers)

    def tell(self, name: str, run_id: str, workflow: str, fields: Mapping[str, Any]) -> None:
        """Call the hook of that name on every observer."""
        event = Event(name=name, run_id=run_id, workflow=workflow, fields=dict(fields))
        for observer in self._observers:
            error = look(_tell, observer, name, event, instead=lambda error: error)
            if error is not None:  # an observer must not disturb a run
                told = (short(observer), name, run_id)
                _LOGGER.error("observer %s raised in %s for run %r", *told, exc_info=logged(error))


def _tell(observer: Observer, name: str, event: Event) -> BaseException | None:
    getattr(observer, name)(event)
    return None
