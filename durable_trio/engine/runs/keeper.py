"""What a resident run asks of whoever keeps it in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from durable_trio.codec import Codec
from durable_trio.engine.runs.telling import Tellings
from durable_trio.engine.served import ServedCodes
from durable_trio.engine.settings import Settings
from durable_trio.records import Problem
from durable_trio.rows import RunRow
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Registry, Workflow

__all__ = ["Keeper"]

#: The run, as its keeper knows it.
R = TypeVar("R", contravariant=True)


class Keeper(Protocol[R]):
    """What a resident run needs of the engine around it."""

    writer: Writer
    settings: Settings
    codec: Codec
    registry: Registry
    #: The user's, for functions of steps.
    engine: object
    #: Who says what happens to each run.
    tellings: Tellings
    #: Which codes it executes them with.
    served: ServedCodes
    #: Whether all runs are to leave, for this executor is to end.
    is_draining: bool

    def wake_at(self, due_at: int, resident: R, now: int) -> None:
        """Have the run's ``wake`` called when ``Clock.now`` says ``due_at``, unless it has left; it says ``now``."""

    def refuse(self, row: RunRow, workflow: Workflow[..., Any], problem: Problem, error: Exception | None) -> None:
        """A run cannot go on with this code: have it given back, and say so once that is stored."""

    def rests(self, resident: R) -> None:
        """A run only waits, as far as is known for long: its ``leave_if_idle`` is called when it has stayed enough."""

    def moved(self, resident: R) -> object:
        """A run that has only waited has something to do again."""

    def released(self, wake_at: int | None) -> None:
        """A run has left memory and wants to be claimed at that time."""

    def ended(self, resident: R) -> None:
        """A run's final status is committed: its ``end``."""

    def request_cancel(self, run_id: str, callback: Callable[[Any], None], *, why: str) -> None:
        """Ask a run to cancel; the callback gets the outcome, an error as a value."""

    def lost(self, resident: R, error: BaseException) -> None:
        """A write was refused, and the run leaves: it is ended or held by others, or this executor declared dead."""

    def came_out(self, resident: R, error: BaseException) -> None:
        """Something has come out of a run's task, which is ending: give it back, or raise what ends the executor."""

    def left(self, resident: R) -> None:
        """A run's task is ending, and the run has left memory."""

    def fell(self, resident: R, error: Exception) -> None:
        """A run has left because of a fault of ours: give it back. Must not raise."""

    def task_abandoned(self, resident: R, place: str, is_own: bool) -> None:
        """A task of a run's body did not leave, and was abandoned there. ``is_own``: the body's, which ends the run."""

    def warn_foreign_wait(self, workflow: str, place: str) -> None:
        """Say once that a workflow waits there for something that is not durable."""
