"""Who keeps rehearsed runs in memory: nothing that they ask for is done, and what goes wrong is theirs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs

from durable_trio.codec import Codec
from durable_trio.engine.failures_of import FailuresOf
from durable_trio.engine.observers import Observers
from durable_trio.engine.os_signals import comes_of_signal
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.runs.telling import Tellings
from durable_trio.engine.served import ServedCodes
from durable_trio.engine.settings import Settings
from durable_trio.failures import exits_of, is_cancelled, trace
from durable_trio.limits import TRACEBACK_CHARACTERS_MAX
from durable_trio.looks import said
from durable_trio.records import Problem
from durable_trio.rows import RunRow
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Registry, Workflow

__all__ = ["Code", "RehearsalKeeper"]


@attrs.frozen(kw_only=True)
class Code:
    """What an engine knows that runs are rehearsed with, and where they are read."""

    writer: Writer
    settings: Settings
    codec: Codec
    registry: Registry
    failures_of: FailuresOf
    served: ServedCodes


class Keeps(Protocol):
    """Whom the keeper tells."""

    def raised(self, resident: ResidentRun, cause: str, text: str) -> None:
        """A run's body has ended the program, or something of ours has failed."""

    def has_left(self, resident: ResidentRun) -> None:
        """A run's task is ending."""


class RehearsalKeeper:
    """The keeper of rehearsed runs; see ``engine.runs.keeper``."""

    def __init__(self, code: Code, told: Keeps) -> None:
        self.writer = code.writer
        self.settings = attrs.evolve(code.settings, slow_step_seconds=None)
        self.codec = code.codec
        self.registry = code.registry
        self.served = code.served
        self.engine: object = None
        self.is_draining = False
        self.tellings = Tellings(
            writer=code.writer,
            settings=self.settings,
            registry=code.registry,
            observers=Observers(()),
            failures_of=code.failures_of,
            call_at=_ignore,
        )
        self._told = told

    # ---- what never comes to anything --------------------------------------------------------------------------

    def wake_at(self, due_at: int, resident: ResidentRun, now: int) -> None:
        """Nothing becomes due."""

    def refuse(self, row: RunRow, workflow: Workflow[..., Any], problem: Problem, error: Exception | None) -> None:
        """A run notes that by itself."""

    def rests(self, resident: ResidentRun) -> None:
        """No run stays."""

    def moved(self, resident: ResidentRun) -> None:
        """No run rests."""

    def released(self, wake_at: int | None) -> None:
        """Nothing is claimed again."""

    def ended(self, resident: ResidentRun) -> None:
        """No run ends."""

    def request_cancel(self, run_id: str, callback: Callable[[Any], None], *, why: str) -> None:
        """Nobody is asked for anything."""

    def lost(self, resident: ResidentRun, error: BaseException) -> None:
        """Nothing is owned."""

    def task_abandoned(self, resident: ResidentRun, place: str, is_own: bool) -> None:
        """A task of the body does not leave; its verdict is known. The own one has ended with that."""
        if is_own:
            self._told.has_left(resident)

    def warn_foreign_wait(self, workflow: str, place: str) -> None:
        """No run waits."""

    # ---- what does ---------------------------------------------------------------------------------------------

    def came_out(self, resident: ResidentRun, error: BaseException) -> None:
        """Take what ends a body, as ``SystemExit`` does; not what somebody ends all of us with."""
        if isinstance(error, Exception):
            self.fell(resident, error)
            return
        exits = exits_of(error)
        if any(map(comes_of_signal, exits)) or (not exits and is_cancelled()):
            raise error
        what = ", ".join(map(said, exits)) or repr(error)
        self._told.raised(resident, what, f"the body ends the program: {what}")

    def fell(self, resident: ResidentRun, error: Exception) -> None:
        """Take a fault of ours in one run."""
        text = trace(error, TRACEBACK_CHARACTERS_MAX, is_ours=True)
        self._told.raised(
            resident, f"internal error: {type(error).__name__}", f"this library has failed, please report it:\n{text}"
        )

    def left(self, resident: ResidentRun) -> None:
        """A run's task is ending."""
        self._told.has_left(resident)


def _ignore(*_: object) -> None:
    """Nothing is called back."""
