"""The client's part: it starts the runs, sends the signals, looks all the time how far things are, and draws it.

Towards the engine it is a client only: it executes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import attrs
import trio

from demo_parts.findings import counted
from demo_parts.ledger import Ledger, LedgerAway
from demo_parts.plan import Plan, PlannedOrder, mirror_id
from demo_parts.screen import Screen
from demo_parts.workflows import SourceFile, checkout, mirror_file
from durable_trio import Engine, RunRecord, StepKind, StepRecord

LOOK_SECONDS: Final = 0.05
_STARTED_AT_ONCE: Final = 64
# If nothing at all changes for so long, something is wrong.
_STALL_SECONDS_MAX: Final = 30.0
# Runs whose histories are read to find the one to show.
_CANDIDATES: Final = 50


class DemoFailed(Exception):
    """Something did not go as it must."""


@attrs.frozen
class Remembered:
    """One run and its history."""

    record: RunRecord
    steps: tuple[StepRecord, ...]


@attrs.frozen(kw_only=True)
class Sample:
    """How far things are."""

    chunk_count: int = 0
    row_count: int = 0
    mirrored: int = 0
    checked_out: int = 0
    owned: int = 0  # runs that are in the hands of an executor, living or not
    serving_pids: frozenset[int] = frozenset()  # those that are not known to be dead


class Show:
    """What happens while the runs go on.

    Args:
        portions: into so many parts the files are divided; each but the first is begun when one more trouble is over,
            so that none comes when all is done.
    """

    def __init__(self, client: Engine, plan: Plan, ledger: Ledger, screen: Screen, *, portions: int = 1) -> None:
        #: When something was killed or cut.
        self.troubles: list[datetime] = []
        #: How many of them are over.
        self.over_count = 0
        self.sample = Sample()
        self._client = client
        self._plan = plan
        self._ledger = ledger
        self._screen = screen
        self._portions = portions
        self._changed = trio.Event()

    async def run(self, make_trouble: Callable[[], Awaitable[None]]) -> None:
        """Start everything, have trouble made meanwhile, and return when every run has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_all_the_time)
            nursery.start_soon(self._start_mirrors)
            for order in self._plan.orders:
                nursery.start_soon(self._handle_order, order)
            await make_trouble()
            await self.until(self._is_all_done)
            nursery.cancel_scope.cancel()
        self._screen.end_progress()
        self._screen.event("■", f"all {len(self._plan.files) + len(self._plan.orders):,} runs have ended")

    def note_trouble(self) -> None:
        """Remember that something was done now which no process can prevent."""
        self.troubles.append(datetime.now(UTC))

    def note_end(self) -> None:
        """The last trouble is over."""
        self.over_count += 1

    # ---- the client's part -------------------------------------------------------------------------------------

    async def _start_mirrors(self) -> None:
        for number in range(self._portions):
            await self.until(lambda _, number=number: self.over_count >= number)  # type: ignore[misc]
            for files in batched(self._plan.files[number :: self._portions], _STARTED_AT_ONCE):
                async with trio.open_nursery() as nursery:  # what is started at once shares a commit
                    for file in files:
                        nursery.start_soon(self._start_mirror, file)

    async def _start_mirror(self, file: SourceFile) -> None:
        await self._client.start(mirror_file, file, id=mirror_id(file))

    async def _handle_order(self, planned: PlannedOrder) -> None:
        order = planned.order
        await self.until(lambda sample: self.part(sample) >= planned.starts)
        run = await self._client.start(checkout, order, id=order.id, priority=1)  # before all files that wait
        # The last one is answered after the last trouble, so that the last process has something to do.
        is_last = planned is self._plan.orders[-1]
        await self.until(lambda sample: self.part(sample) >= planned.answered and not (is_last and self._has_more()))
        answer = "sold out" if planned.is_declined else "in stock"
        for _ in range(2 if planned.is_sent_twice else 1):
            await run.signal("warehouse", answer, id=f"warehouse answers {order.id}")

    # ---- looking -----------------------------------------------------------------------------------------------

    def part(self, sample: Sample) -> float:
        """Return which part of the mirroring is done."""
        return sample.chunk_count / self._plan.chunk_count if self._plan.chunk_count else 1.0

    def is_idle(self, sample: Sample) -> bool:
        """Return whether only the last order has not ended, which waits for the last trouble."""
        return sample.mirrored + sample.checked_out >= len(self._plan.files) + len(self._plan.orders) - 1

    def has_gone_on(self, sample: Sample, since: Sample) -> bool:
        """Return whether a step or a run has ended since, or nothing is left that could."""
        ended_count, ended_before = (each.mirrored + each.checked_out for each in (sample, since))
        return sample.row_count > since.row_count or ended_count > ended_before or not sample.owned

    def _is_all_done(self, sample: Sample) -> bool:
        return sample.mirrored + sample.checked_out == len(self._plan.files) + len(self._plan.orders)

    def _has_more(self) -> bool:
        return len(self.troubles) < len(self._plan.kills)

    async def until(self, condition: Callable[[Sample], bool]) -> None:
        """Wait until what is seen fulfils a condition."""
        while not condition(self.sample):
            await self._changed.wait()

    async def _look_all_the_time(self) -> None:
        changed_at = trio.current_time()
        while True:
            sample = self.look()
            if sample != self.sample:
                changed_at = trio.current_time()
            elif trio.current_time() > changed_at + _STALL_SECONDS_MAX:
                raise DemoFailed(f"nothing has changed for {_STALL_SECONDS_MAX:g} s, at {sample}")
            self.sample = sample
            self._changed.set()
            self._changed = trio.Event()
            self._screen.progress(
                self.part(sample),
                f"{sample.chunk_count:,}/{self._plan.chunk_count:,} chunks  "
                f"{sample.checked_out}/{len(self._plan.orders)} orders  "
                f"{counted(len(self.troubles), self._plan.noun)}  {self._screen.seconds:.0f} s",
            )
            await trio.sleep(LOOK_SECONDS)

    def look(self) -> Sample:
        """Return how far things are; as they were last seen, if the database cannot be asked now."""
        ask = self._ledger.ask
        try:
            ((rows, chunks),) = ask("SELECT count(*), count(*) FILTER (WHERE name = 'chunk') FROM history")
            ended = dict(ask("SELECT workflow, count(*) FROM runs WHERE finished_at IS NOT NULL GROUP BY workflow"))
            ((owned,),) = ask("SELECT count(*) FROM runs WHERE owner IS NOT NULL")
            pids = ask("SELECT pid FROM executors WHERE ended_at IS NULL")
        except LedgerAway:
            return self.sample
        return Sample(
            chunk_count=chunks,
            row_count=rows,
            mirrored=ended.get(mirror_file.name, 0),
            checked_out=ended.get(checkout.name, 0),
            owned=owned,
            serving_pids=frozenset(pid for (pid,) in pids),
        )

    async def choose_timeline(self) -> Remembered | None:
        """Return an order that has seen something: troubles within its steps, attempts that failed, a refund."""
        page = await self._client.list_runs(workflow=checkout, limit=1000)
        hit = [record for record in page.runs if self._troubles_between(record.started_at, record.finished_at)]
        candidates = (hit or list(page.runs))[:_CANDIDATES]
        found = [Remembered(record, await self._client.get(record.id).steps()) for record in candidates]
        return max(found, key=self._eventfulness, default=None)

    def _eventfulness(self, one: Remembered) -> float:
        score = 0.0
        before = one.record.created_at
        for step in one.steps:
            is_wait = step.kind is StepKind.SIGNAL
            score += self._troubles_between(before, step.finished_at) * (0.2 if is_wait else 3)
            score += step.attempt > 1
            score += step.kind is StepKind.COMPENSATION
            before = step.finished_at
        return score

    def _troubles_between(self, start: datetime | None, end: datetime | None) -> int:
        return sum(start < trouble < end for trouble in self.troubles) if start is not None and end is not None else 0


def batched(files: Sequence[SourceFile], size: int) -> Iterator[Sequence[SourceFile]]:
    """Yield some at a time."""
    for start in range(0, len(files), size):
        yield files[start : start + size]
