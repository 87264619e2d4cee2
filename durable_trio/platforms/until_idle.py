"""Serving until there is nothing to do: for a program that is started again and again, and stays for no run that waits.

*Idle* is asked of the store, not of memory: nothing of what this engine knows is due or in hand, nothing will be within
a second, for which it is not worth to leave, and nobody has died whose runs would have to be taken over first. Waits
for signals do not count: whoever sends one has the program started.

Executors are equals, so several such programs may run at once, beside one that stays. What one has in hand the others
do not wait for.
"""

from __future__ import annotations

import enum
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import attrs
import trio

from durable_trio.clock import MICROSECONDS, from_datetime, seconds_of, to_datetime
from durable_trio.engine.engine import Engine
from durable_trio.engine.versions import served_by
from durable_trio.engine.wiring import Services
from durable_trio.engine.workers.parent import Workers
from durable_trio.errors import PASSING
from durable_trio.logger import Logger
from durable_trio.records import StepInHand
from durable_trio.rows import ExecutorRow, ServedCode
from durable_trio.rules.residency import SOON
from durable_trio.stores.due_questions import FindNextDue, NextDue
from durable_trio.stores.questions import Answer_co, CountBacklog, ListExecutors, Question
from durable_trio.unseen import visible

__all__ = ["Served", "WhyEnded", "serve_until_idle"]

_LOGGER: Final = Logger("durable_trio.processes")

# How often it is looked whether there is anything left; where other processes execute, each look is two questions.
_LOOK_SECONDS: Final = 0.05
_LOOK_AT_WORKERS_SECONDS: Final = 0.2
# What closing takes, after steps in hand have had their grace: of the time that is left of the slot, at most this.
_CLOSING_SECONDS: Final = 1.0
# An interrupted step that had so much of the time has no use for another slot.
_NEARLY_ALL: Final = 0.8
# Runs that are left to whoever comes next are counted up to this number.
_UNFINISHED_MAX: Final = 1000


class WhyEnded(enum.StrEnum):
    """Why an engine that serves until it is idle has ended."""

    IDLE = "idle"  # there was nothing left to do
    TIME = "time"  # its time was up
    ANOTHER = "another"  # with ``alone``: another executor lives
    STOPPED = "stopped"  # by a signal of the operating system


@attrs.frozen(kw_only=True)
class Served:
    """What came of it.

    ``next_due``: when the next run is due that this engine may execute, in UTC; past, if some were left that are due;
    ``None``: none by itself. ``steps``: how many outcomes of calls were recorded; ``None`` where worker processes did
    it. ``unfinished``: how many runs (of at most 1000) are due already, and left to whoever serves next.
    ``too_long``: the steps that were interrupted at the end though they had nearly all of the time: they begin again
    the next time, and will not finish then either. Not told where worker processes execute.
    """

    reason: WhyEnded
    next_due: datetime | None
    steps: int | None
    unfinished: int
    too_long: tuple[StepInHand, ...] = ()


async def serve_until_idle(
    engine: Engine,
    *,
    max_seconds: float | None = None,
    alone: bool = False,
    workers: int | None = None,
    app: str | None = None,
    signals: Sequence[int] | bool | None = None,
    overdue: Callable[[Served], object] | None = None,
) -> Served:
    """Serve as ``engine.serve`` does, until nothing is due or in hand; then return when the next run is due.

    Args:
        engine: a new one.
        max_seconds: for how long at most. No run is claimed in the last ``grace_seconds`` of them, in which steps in
            hand may finish; what does not is begun again by whoever comes next.
        alone: return at once if another executor of this store lives, also one that has only begun a moment earlier.
        workers, app, signals: as for ``engine.serve``.
        overdue: called from another thread if it has not ended after ``max_seconds``, because a step does not let
            itself be interrupted, say; a program ends the process there, which is no more than a crash for its runs.

    *Cancellation:* drains, as ``engine.serve`` does.
    *Durability:* whatever was acknowledged goes on in the next process that serves.

    Raises:
        ValueError: ``max_seconds`` is not more than the engine's ``grace_seconds``; or as ``engine.serve``.
        StoreError, WorkerFailed, ExceptionGroup: as ``engine.serve``.
    """
    until = _UntilIdle(engine, max_seconds=max_seconds, alone=alone)
    serving = engine._serving
    with _called_after(max_seconds, lambda: None if overdue is None else overdue(until.overdue())):
        await serving.serve(serving.workers(workers, app), executors=1, signals=signals, started=_nothing, until=until)
    return until.served


@contextmanager
def _called_after(seconds: float | None, fn: Callable[[], object]) -> Iterator[None]:
    """Call something from another thread, unless the block has ended by then."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds_of(seconds), fn)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _nothing() -> None:
    """Nobody waits for the tree."""


class _UntilIdle:
    """Looks whether there is anything left to do. It is the ``Until`` of the engine's serving."""

    def __init__(self, engine: Engine, *, max_seconds: float | None, alone: bool) -> None:
        self._client = engine._client
        grace = self._client.settings.grace_seconds
        seconds = math.inf if max_seconds is None else seconds_of(max_seconds, what="max_seconds")
        if seconds <= grace:
            raise ValueError(
                f"max_seconds is {seconds:g}, and of these the last {grace:g} (the engine's grace_seconds) are for "
                "steps in hand: nothing would ever be begun; allow more, or give the engine a shorter grace"
            )
        self._began_at = self._client.settings.clock.stamp()
        self._ends_at = trio.current_time() + seconds - grace - min(_CLOSING_SECONDS, (seconds - grace) / 2)
        self._is_alone = alone
        self._services: Services | None = None
        # By their numbers as soon as these are known; until then none of them is known to have refused anything.
        self._codes: Sequence[ServedCode] = [ServedCode(each.name, each.version, 0) for each in self._client.registry]
        self._reason = WhyEnded.STOPPED
        self.served = Served(reason=WhyEnded.STOPPED, next_due=None, steps=0, unfinished=0)

    def overdue(self) -> Served:
        """Return what is known though it has not ended; of the store nothing can be asked from here."""
        services = self._services
        left_count = 0 if services is None else len(services.resident_rows)
        now = to_datetime(self._client.settings.clock.stamp())
        return Served(
            reason=WhyEnded.TIME,
            next_due=now,
            steps=None,
            unfinished=max(1, left_count),
            too_long=self._too_long(),
        )

    # ---- Until ---------------------------------------------------------------------------------------------------

    async def begin(self) -> bool:
        """Return whether nobody else must live, or does not."""
        if self._is_alone and any(map(_lives, await self._ask(ListExecutors()))):
            self.served = Served(reason=WhyEnded.ANOTHER, next_due=None, steps=0, unfinished=0)
            return False
        return True

    async def wait(self, services: Services, workers: Workers | None) -> None:
        """Return when there is nothing left to do, or the time is up."""
        self._services = services
        with trio.move_on_at(self._ends_at) as slot:
            try:
                while (reason := await self._look(services, workers)) is None:  # noqa: ASYNC110  # nobody would set it
                    await trio.sleep(_LOOK_SECONDS if workers is None else _LOOK_AT_WORKERS_SECONDS)
                self._reason = reason
            except trio.ClosedResourceError:  # the tree ends with a failure of its own
                await trio.sleep_forever()
        if slot.cancelled_caught:
            self._reason = WhyEnded.TIME

    async def left(self) -> None:
        """Find out when somebody has to come again."""
        services, now = self._services, self._client.settings.clock.stamp()
        found = await self._ask(FindNextDue(codes=self._codes, executors=(), now=now))
        backlog = await self._ask(CountBacklog(self._codes, now=now, due_max=_UNFINISHED_MAX))
        executor = None if services is None else services.executor
        self.served = Served(
            reason=self._reason,
            next_due=None if found.at is None else to_datetime(found.at),
            steps=None if executor is None else executor.runs.recorded_count,
            unfinished=backlog.due_count,
            too_long=self._too_long(),
        )

    def _too_long(self) -> tuple[StepInHand, ...]:
        """Return which of the interrupted steps had nearly all of the time, and say so of each."""
        executor = None if self._services is None else self._services.executor
        if self._reason is not WhyEnded.TIME or executor is None:
            return ()
        now = self._client.settings.clock.stamp()
        least = _NEARLY_ALL * (now - self._began_at)
        found = tuple(step for step in executor.runs.interrupted if now - from_datetime(step.started_at) >= least)
        for step in found:
            _LOGGER.warning(
                "step %r of run %r was interrupted at the end, after %.0f s of the %.0f that there were: it begins "
                "again the next time, and will not finish then either; allow more time, or make several steps of it",
                visible(step.key),
                visible(step.run_id),
                (now - from_datetime(step.started_at)) / MICROSECONDS,
                (now - self._began_at) / MICROSECONDS,
                extra={"event": "step_too_long", "run_id": step.run_id, "step": step.key},
            )
        return found

    # ---- looking -------------------------------------------------------------------------------------------------

    async def _look(self, services: Services, workers: Workers | None) -> WhyEnded | None:
        """Return why this is the end; ``None`` if it is not."""
        executor = services.executor
        try:
            rows = await services.writer.ask(ListExecutors())
            if executor is not None:
                own = {executor.recovery.executor} if executor.recovery.is_registered else set()
                self._codes = executor.runs.served.all
            else:
                assert workers is not None
                host, pids = socket.gethostname(), workers.family.living()
                living = [row for row in rows if row.host == host and row.pid in pids and row.may_live]
                own = {row.id for row in living}
                served = await served_by(services, living)
                self._codes = sorted({code for codes in served.values() for code in codes}, key=attrs.astuple)
            if not own:  # it becomes another one, or a worker is started again
                return None
            # Two that begin in the same moment have seen nobody: then the first that is registered stays.
            if self._is_alone and any(row.id < min(own) for row in rows if _lives(row)):
                return WhyEnded.ANOTHER
            if executor is not None and executor.runs.busy_count:
                return None
            if any(row.id not in own and not _lives(row) for row in rows):  # it is watched, to be taken for dead
                return None
            question = FindNextDue(codes=self._codes, executors=sorted(own), now=self._client.settings.clock.stamp())
            return None if self._has_work(await services.writer.ask(question)) else WhyEnded.IDLE
        except PASSING:  # the store is away, or in other hands
            return None

    def _has_work(self, found: NextDue) -> bool:
        clock = self._client.settings.clock
        if found.in_hand_count:
            return True
        return found.at is not None and clock.comes_at(clock.due(found.at)) <= clock.now() + SOON

    async def _ask(self, question: Question[Answer_co]) -> Answer_co:
        """Ask the store while nobody else uses it."""
        store = self._client.store
        if store.may_block:
            return await trio.to_thread.run_sync(store.ask, question)
        await trio.lowlevel.checkpoint()
        return store.ask(question)


def _lives(row: ExecutorRow) -> bool:
    """Return whether an executor gives signs of life; of one that does not it will be seen whether it is dead."""
    return row.may_live and not row.is_silent
