"""Says what happens to one run: to the observers of this engine, and to the log where something goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from durable_trio.clock import MICROSECONDS, Clock, to_datetime
from durable_trio.engine.failures_of import FailuresOf
from durable_trio.engine.observers import Observers
from durable_trio.engine.records_of import rebuilt_error
from durable_trio.engine.runs.attempts import Attempts, SlowSteps
from durable_trio.engine.runs.run_log import Fate, RunLog
from durable_trio.engine.runs.under_way import StepUnderWay, steps_under_way
from durable_trio.engine.runs.untold import note
from durable_trio.engine.settings import Settings
from durable_trio.events import Event, Failure, RunCompensating, RunEnded, RunParked, StepRetried
from durable_trio.failures import Failures, logged
from durable_trio.records import Problem, RunStatus, StepKind
from durable_trio.rows import HistoryRow, RunRow, WaitRow
from durable_trio.stores.questions import OpenSteps
from durable_trio.stores.step_slots import StepSlots
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Registry

__all__ = ["Telling", "Tellings"]


class Telling:
    """What is told of one run, in one stay of it.

    Args:
        slow: told of attempts that take long; ``None`` if nobody wants to know.
        died: what was under way when the process died that had the run before.
        slots: where is noted what outlives this process.
    """

    def __init__(
        self,
        row: RunRow,
        *,
        observers: Observers,
        clock: Clock,
        failures: Failures,
        slow: SlowSteps | None,
        died: Sequence[StepUnderWay],
        slots: StepSlots | None,
    ) -> None:
        self._row = row
        self._observers = observers
        self._clock = clock
        self._failures = failures
        self._slow = slow
        self._died = died
        self._slots = slots
        self.log = RunLog(row)
        #: Whether there are observers: else no event needs to be made.
        self.is_observed = observers.are_any

    def attempts(self) -> Attempts | None:
        """Return what is to be told of the run's attempts, if somebody wants to know."""
        if not self.is_observed and self._slow is None:
            return None
        return Attempts(
            self._clock,
            tell=self.tell,
            error_of=self._error_of,
            slow=self._slow,
            say_slow=self.log.slow,
            died={step.key: step.attempt for step in self._died},
        )

    def is_to_tell(self, event: str) -> Callable[[], None]:
        """That is to be told once it is committed; call what this returns when that is done."""
        return note(self._slots, self._row, event)

    def tell(self, cls: type[Event], **fields: Any) -> None:
        """Tell the observers of an event."""
        if self.is_observed:
            at = to_datetime(self._clock.stamp())
            self._observers.tell(cls(at=at, run_id=self._row.id, workflow=self._row.workflow, **fields))

    def retried(self, kind: StepKind, wait: WaitRow, delay: float, *, duration: float | None) -> None:
        """An attempt has failed, and there will be another one."""
        assert wait.error is not None
        self.log.retried(wait.key, wait.attempt, wait.error, delay)
        if self.is_observed:
            fields = {"attempt": wait.attempt, "error": self._error_of(wait.error), "duration": duration}
            self.tell(StepRetried, key=str(wait.key), kind=kind, delay=delay, **fields)

    def compensating(self, error: str) -> None:
        """The run begins to undo its steps."""
        if self.is_observed:
            self.tell(RunCompensating, error=self._error_of(error))

    def ended(self, status: RunStatus, error: str | None, *, fate: Fate | None, failed: HistoryRow | None) -> None:
        """The run's end is committed. ``failed``: of what has ended it, if a row tells: a step, or the time to live."""
        if error is not None and fate is not None:
            self.log.ended(fate, error, failed=failed)
        if self.is_observed:
            began_at = self._row.started_at
            failed = None if fate is Fate.EXPIRED else failed
            self.tell(
                RunEnded,
                status=status,
                duration=None if began_at is None else max(0, self._clock.stamp() - began_at) / MICROSECONDS,
                error=None if error is None else self._error_of(error),
                key=None if failed is None else str(failed.key),
                attempt=None if failed is None else failed.attempt,
            )

    def set_aside(self, error: str) -> None:
        """The run has killed its process too often."""
        step, attempt = self._died[0] if self._died else (None, None)
        self.log.set_aside(error, step=step, attempt=attempt)
        attempts = self.attempts()
        if attempts is not None:
            attempts.left()
        if self.is_observed:
            told = {"error": self._error_of(error), "key": step, "attempt": attempt}
            self.tell(RunEnded, status=RunStatus.FAILED, **told)

    def given_back(self, problem: Problem, fault: Exception | None) -> None:
        """The run does not fit this code, and goes to another that lives; that is committed."""
        self.log.given_back(problem, None if fault is None else logged(fault))

    def parked(self, problem: Problem, error: Exception | None, fault: Exception | None) -> None:
        """The run cannot go on, and that is committed. ``fault``: ours, if it is one."""
        self.log.parked(problem, None if fault is None else logged(fault))
        self.tell(RunParked, problem=problem, error=error)

    def _error_of(self, text: str) -> Failure:
        """Return a failure for observers, each time another one: they may do with it what they like."""
        return rebuilt_error(text, self._failures)


class Tellings:
    """Makes the ``Telling`` of each run of one executor, and knows what their processes have left when they died.

    Args:
        call_at: calls back when the clock says so.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        settings: Settings,
        registry: Registry,
        observers: Observers,
        failures_of: FailuresOf,
        call_at: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self._writer = writer
        self._clock = settings.clock
        self._registry = registry
        self._observers = observers
        self._failures_of = failures_of
        seconds = settings.slow_step_seconds
        self._slow = None if seconds is None else SlowSteps(seconds, settings.clock, call_at)
        #: Whether somebody wants to know what goes well, too.
        self.is_watched = observers.are_any or seconds is not None
        #: Where the present executor notes which of its steps are executing; ``None`` before there is one.
        self.slots: StepSlots | None = None
        self._died: dict[int, tuple[StepUnderWay, ...]] = {}

    def of(self, row: RunRow, failures: Failures | None = None) -> Telling:
        """Return who says what happens to a run; ``failures`` if its workflow is known."""
        return Telling(
            row,
            observers=self._observers,
            clock=self._clock,
            failures=failures or self._failures_of(None),
            slow=self._slow,
            died=self.died(row.run),
            slots=self.slots,
        )

    def open_steps(self, run: int | None = None) -> OpenSteps:
        """Return which steps this executor is at, of one run if it is given."""
        return OpenSteps(()) if self.slots is None else self.slots.open_steps(run)

    async def look_back(self, rows: Iterable[RunRow]) -> None:
        """Find what was under way of claimed runs when their processes died, where somebody is to be told of it."""
        for row in rows:
            workflow = self._registry.at((row.workflow, row.version))
            is_set_aside = workflow is not None and row.recoveries > workflow.max_recoveries
            if row.recoveries and (self.is_watched or is_set_aside):
                self._died[row.run] = await steps_under_way(self._writer, row)

    def died(self, run: int) -> Sequence[StepUnderWay]:
        """Return what was under way of a run when the process died that had it before."""
        return self._died.get(run, ())

    def left(self, run: int) -> None:
        """A run has left memory: what was found of it is told."""
        self._died.pop(run, None)
