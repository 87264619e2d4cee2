"""Runs a program under a chosen schedule, crashes it at chosen commits, and keeps what each stay of its body saw.

A *stay* is the time of a run in one engine's memory. Each stay of a body writes notes, in order, of whatever it comes
to know. What a body knows comes from committed rows only, so the notes of a stay that a crash has cut short must be the
beginning of the notes of the next one, whatever the program and whatever the schedule. Where the outcomes of a program
and their order are determined, its end must also be that of the same program without a crash.

All of it runs on virtual time and on a store in memory that outlives its engines.

With ``DURABLE_TRIO_EVERY_CRASH`` in the environment a program crashes before and after each commit (see
``crash_points``); it has more schedules, and is replayed ten times as often.
``DURABLE_TRIO_SEED`` has other schedules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from unittest.mock import patch

import attrs
import trio
from trio.testing import MockClock

from durable_trio import Context, Engine, RunFailed, RunFinished, RunStatus, StoreError, Workflow, open_engine
from durable_trio.rules import residency
from durable_trio.stores.contract import Finish, Operation
from durable_trio.testing import CrashingStore, SimulatedCrash, VirtualClock
from durable_trio.testing.schedule import Order, scheduling
from tests.kit.crash_points import EVERY_CRASH, SEED, crash_points
from tests.kit.measured import unmeasured

#: So many seeds of trio's schedule for each concurrent program, at least.
SEED_COUNT = 50 if EVERY_CRASH else 10
#: So many replays of one recorded history.
REPLAY_COUNT = 100 if EVERY_CRASH else 10
#: So many trials of a program with crashes are measured by coverage.
MEASURED_COUNT = 4
#: Virtual seconds after which a run is taken for hung; programs end within two hours.
PATIENCE_SECONDS = 3 * 3600.0

RUN_ID = "r"

#: For ``@workflow``: a run of a test crashes more often than any real one may.
OFTEN = 1_000_000

Drive = Callable[[Engine], Awaitable[None]]


class Notes(list[str]):
    """What one stay of a body saw. Nothing is added any more once the run is leaving this process."""

    #: Of all stays of the trial that runs now.
    stays: list[Notes] = []  # noqa: RUF012  # begun anew by each trial

    def __init__(self, ctx: Context) -> None:
        super().__init__()
        self._ctx = ctx
        Notes.stays.append(self)

    def add(self, text: object) -> None:
        """Note something."""
        if not self._ctx.detaching:
            self.append(str(text))


@attrs.frozen
class Program:
    """A workflow, its arguments, and what happens to its run from outside."""

    workflow: Workflow[..., Any]
    args: tuple[Any, ...] = ()
    #: Repeated in each stay, beside the run; so it does everything under ids of its own.
    drive: Drive | None = None


@attrs.define
class Trial:
    """What has come of one trial."""

    status: RunStatus
    #: The result; or the failure, as text.
    value: Any
    stays: list[list[str]]
    commit_count: int
    keys: list[str]

    @property
    def end(self) -> tuple[RunStatus, Any]:
        """How the run has ended."""
        return self.status, self.value

    def assert_repeatable(self) -> None:
        """Fail unless each stay saw what the ones before it had seen, in the same order."""
        for earlier, later in zip(self.stays, self.stays[1:], strict=False):
            if later:  # else it was cut short at once
                common = min(len(earlier), len(later))
                assert earlier[:common] == later[:common], f"replay differs:\n{earlier}\n{later}"


class Ended(Exception):
    """A run was parked, or has hung; the text tells."""


class UnfinishedStore(CrashingStore):
    """Crashes before a run's end is stored, if it is told so: its whole history is replayed in the next stay."""

    forbids_end = False

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        if self.forbids_end and any(isinstance(operation, Finish) for operation in batch):
            self.crash_after(1, loses_it=True)
            self.forbids_end = False
        return super().apply(batch, block=block)


async def stay(store: CrashingStore, program: Program, clock: VirtualClock) -> Trial | None:
    """Serve until the run has ended, or a crash; return how it has ended, or None."""
    trial: Trial | None = None
    try:
        async with open_engine(store, workflows=[program.workflow], clock=clock) as engine:
            await engine.start(program.workflow, *program.args, id=RUN_ID)
            async with trio.open_nursery() as nursery:
                if program.drive is not None:
                    nursery.start_soon(_drive, program.drive, engine)
                trial = await _end(engine, store)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        rest = group.split((SimulatedCrash, StoreError, trio.ClosedResourceError))[1]
        if rest is not None:
            raise rest from None
        return None
    except (SimulatedCrash, StoreError, trio.ClosedResourceError):
        return None
    return trial


async def _drive(drive: Drive, engine: Engine) -> None:
    with contextlib.suppress(RunFinished):  # in a stay before
        await drive(engine)


async def _end(engine: Engine, store: CrashingStore) -> Trial:
    run = engine.get(RUN_ID)
    with trio.move_on_after(PATIENCE_SECONDS):
        async with run.watch() as changes:
            async for record in changes:
                if record.problem is not None:
                    raise Ended(record.problem.text)
        value: Any
        try:
            value = await run.result()
        except RunFailed as error:
            value = repr(error.error)
        except Exception as error:
            value = repr(error)
        keys = [step.key for step in await run.steps()]
        return Trial(record.status, value, [], store.commit_count, keys)
    raise Ended(f"the run hangs: {await run.record()}, {[step.key for step in await run.steps()]}")


def attempt(
    program: Program,
    schedule: int | Order = 0,
    *,
    crashes: Iterable[tuple[int, bool]] = (),
    replays: Sequence[int | Order] = (),
    store: UnfinishedStore | None = None,
) -> Trial:
    """Run a program to its end and return what came of it.

    With a seed for a schedule that is odd, its run stays in memory while it waits.

    ``crashes``: for each stay but the last, the number of the commit at which it crashes, and whether that is lost.
    ``replays``: schedules of further stays, after a crash right before the run's end is stored.
    """
    Notes.stays = []
    if store is None:
        store = UnfinishedStore()

    async def main() -> Trial:
        clock = VirtualClock()
        for at, loses_it in crashes:
            store.crash_after(at, loses_it=loses_it)
            store.forbids_end = bool(replays)
            await stay(store, program, clock)
        for choice in replays:
            store.crash_after(None)
            store.forbids_end = True
            with scheduling(choice):
                assert await stay(store, program, clock) is None, "its end is stored"
        store.crash_after(None)
        store.forbids_end = False
        trial = await stay(store, program, clock)
        assert trial is not None
        return trial

    # A run that waits leaves memory at once, or stays as it does for users: that makes no difference to its body.
    stays = isinstance(schedule, int) and schedule % 2 == 1
    try:
        with scheduling(schedule), patch.object(residency, "IDLE_SECONDS", 1.0 if stays else 0.0):
            trial = trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        seen, Notes.stays = Notes.stays, []
        store.dispose()
    trial.stays = [list(notes) for notes in seen]
    return trial


def crash_everywhere(program: Program, *, seeds: int = SEED_COUNT, is_determined: bool = True) -> Trial:
    """Run a program under many schedules, each with a crash at another of its ``crash_points``.

    ``is_determined``: its end is the same under each schedule and after each crash. Return the trial without a crash.
    """
    reference = attempt(program)
    trials = [reference, *(attempt(program, order) for order in ("oldest first", "newest first"))]

    def check(trial: Trial) -> None:
        trial.assert_repeatable()
        if is_determined:
            assert trial.end == reference.end

    for trial in trials:
        check(trial)
    points = crash_points(max(trial.commit_count for trial in trials), program.workflow.name)
    for number in range(max(seeds, len(points))):
        with unmeasured() if number >= MEASURED_COUNT else contextlib.nullcontext():
            check(attempt(program, SEED * SEED_COUNT + number, crashes=[points[number % len(points)]]))
    return reference


def replay_often(program: Program, *, seed: int = 1, count: int = REPLAY_COUNT) -> Trial:
    """Record a program once, then replay all of it many times: in both orders of trio's queue, and under seeds."""
    choices: list[int | Order] = ["oldest first", "newest first", *range(SEED * count, (SEED + 1) * count - 2)]
    with unmeasured():
        trial = attempt(program, seed, replays=[seed, *choices])
    assert len(trial.stays) >= count + 1  # a run that has left memory comes back for a stay more
    trial.assert_repeatable()
    assert all(notes == trial.stays[-1] for notes in trial.stays[-count:]), "replay differs"
    return trial


def crash_and_replay(program: Program, *, is_determined: bool = True) -> Trial:
    """Do both: crash everywhere, and replay one recorded history often."""
    trial = crash_everywhere(program, is_determined=is_determined)
    replay_often(program)
    return trial
