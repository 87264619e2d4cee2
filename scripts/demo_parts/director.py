"""The process that you start: it starts the others, kills one of them again and again, and shows what happens.

Towards the engine it is a client only: it starts runs, sends signals and reads; it executes nothing.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import trio

from demo_parts.children import open_child, read_line
from demo_parts.findings import counted
from demo_parts.places import Places, source_tree
from demo_parts.plan import Plan, PlannedOrder, make_plan, mirror_id
from demo_parts.screen import Screen
from demo_parts.timeline import draw
from demo_parts.workflows import SourceFile, checkout, mirror_file
from durable_trio import Engine, RunRecord, StepKind, StepRecord

_LOOK_SECONDS: Final = 0.05
_STARTED_AT_ONCE: Final = 64
_DRAIN_SECONDS_MAX: Final = 30.0
# If nothing at all changes for so long, something is wrong.
_STALL_SECONDS_MAX: Final = 30.0
# Runs whose histories are read to find the one to show.
_CANDIDATES: Final = 50


class DemoFailed(Exception):
    """Something did not go as it must."""


@attrs.frozen(kw_only=True)
class Options:
    """How much of everything."""

    files: int
    orders: int
    kills: int
    seed: int

    def arguments(self) -> tuple[int, int, int, int]:
        """Return what the checker needs to make the same plan."""
        return self.files, self.orders, self.kills, self.seed


async def perform(options: Options, places: Places, screen: Screen) -> bool:
    """Perform it all; return whether the checker is content."""
    plan = make_plan(source_tree(), files=options.files, orders=options.orders, kills=options.kills, seed=options.seed)
    _introduce(plan, options, screen)
    with places.open_serving_log() as errors:
        async with open_child("services", places.folder, options.seed, stdout=subprocess.PIPE) as services:
            assert services.stdout is not None
            ports = (await read_line(services.stdout)).split()
            if len(ports) != 2:
                raise DemoFailed("the services did not start")
            async with trio.open_nursery() as nursery:
                serving = Serving(nursery, places, ports, errors)
                async with Engine(places.database) as client:
                    show = Show(client, plan, serving, screen, random.Random(f"kills {options.seed}"))
                    await show.run()
                    remembered = await show.choose_timeline()
                code = await serving.stop()
                screen.event("■", f"SIGTERM to the serving process: it drained, exit code {code}")
                if code != 0:
                    raise DemoFailed("the serving process did not end well")
        is_content = await _check(options, places, screen)
    if remembered is not None:
        _tell_timeline(remembered, show.kills, screen)
    screen.line()
    text = "All of it holds." if is_content else "It does not hold: see above."
    screen.line(f"  {text} {screen.seconds:.1f} s, seed {options.seed}.", "green" if is_content else "red")
    return is_content


def _introduce(plan: Plan, options: Options, screen: Screen) -> None:
    size = f"{plan.size_bytes / 1e6:.1f} MB"
    screen.line("durable_trio: kill it, start it, and nothing is lost", "bold")
    screen.line()
    screen.line(f"  {len(plan.files):,} files of Python's standard library ({size}) go to an object")
    screen.line(f"  store over HTTP, a run per file, a committed step per chunk: {plan.chunk_count:,} of them.")
    screen.line(
        f"  Meanwhile {counted(len(plan.orders), 'order')} are paid, wait for a signal, and are shipped or refunded."
    )
    screen.line(f"  The process that executes all this is killed with SIGKILL, {counted(len(plan.kills), 'time')}.")
    screen.line(f"  The plan is that of --seed {options.seed}.", "dim")
    screen.line()


async def _check(options: Options, places: Places, screen: Screen) -> bool:
    screen.heading("The checker: a process of its own, with plain SQL and the services' own logs")
    async with open_child("checker", places.folder, *options.arguments()) as checker:
        return await checker.wait() == 0


def _tell_timeline(remembered: Remembered, kills: Sequence[datetime], screen: Screen) -> None:
    record = remembered.record
    error = "" if record.error is None else f": {getattr(record.error, 'message', record.error)}"
    screen.heading(f"The history of run {record.id!r}, {record.status}{error}")
    for line in draw(remembered.steps, kills, record.created_at):
        screen.line(line)


@attrs.frozen
class Remembered:
    """One run and its history."""

    record: RunRecord
    steps: tuple[StepRecord, ...]


class Serving:
    """The serving process, one after the other."""

    def __init__(self, nursery: trio.Nursery, places: Places, ports: Sequence[str], errors: Any) -> None:
        self.incarnation = 0
        self.process: trio.Process
        self._nursery = nursery
        self._places = places
        self._ports = ports
        self._errors = errors
        self._may_end = False

    async def start(self) -> None:
        """Start the next one; it does not serve yet when this returns."""
        self.incarnation += 1
        self._may_end = False
        self.process = await self._nursery.start(self._run)

    async def kill(self) -> None:
        """Send SIGKILL and wait until it is dead."""
        self._may_end = True
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Have it drain, and return its exit code."""
        self._may_end = True
        self.process.terminate()
        with trio.move_on_after(_DRAIN_SECONDS_MAX):
            return await self.process.wait()
        raise DemoFailed(f"the serving process did not drain within {_DRAIN_SECONDS_MAX:g} s")

    async def _run(self, *, task_status: trio.TaskStatus[trio.Process]) -> None:
        arguments = (self._places.folder, *self._ports, self.incarnation)
        async with open_child("serving", *arguments, stderr=self._errors) as process:
            task_status.started(process)
            code = await process.wait()
            if not self._may_end:
                tail = self._places.serving_log.read_text(errors="replace")[-2000:]
                raise DemoFailed(f"the serving process has ended by itself, with code {code}\n{tail}")


@attrs.frozen(kw_only=True)
class Sample:
    """How far things are."""

    chunk_count: int = 0
    row_count: int = 0
    mirrored: int = 0
    checked_out: int = 0
    owned: int = 0  # runs that are in the hands of an executor, living or not
    serving_pids: frozenset[int] = frozenset()


class Show:
    """What happens while the runs go on."""

    def __init__(self, client: Engine, plan: Plan, serving: Serving, screen: Screen, chance: random.Random) -> None:
        self.kills: list[datetime] = []
        self._client = client
        self._plan = plan
        self._serving = serving
        self._screen = screen
        self._chance = chance
        self._sample = Sample()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Start everything, kill and restart the serving process, and return when every run has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_all_the_time)
            await self._serving.start()
            nursery.start_soon(self._start_mirrors)
            for order in self._plan.orders:
                nursery.start_soon(self._handle_order, order)
            for number, part in enumerate(self._plan.kills, 1):
                await self._kill_at(part, number)
            await self._until(self._is_all_done)
            nursery.cancel_scope.cancel()
        self._screen.end_progress()
        self._screen.event("■", f"all {len(self._plan.files) + len(self._plan.orders):,} runs have ended")

    # ---- the client's part -------------------------------------------------------------------------------------

    async def _start_mirrors(self) -> None:
        for files in _batches(self._plan.files, _STARTED_AT_ONCE):
            async with trio.open_nursery() as nursery:  # what is started at once shares a commit
                for file in files:
                    nursery.start_soon(self._start_mirror, file)

    async def _start_mirror(self, file: SourceFile) -> None:
        await self._client.start(mirror_file, file, id=mirror_id(file))

    async def _handle_order(self, planned: PlannedOrder) -> None:
        order = planned.order
        await self._until(lambda sample: self._part(sample) >= planned.starts)
        run = await self._client.start(checkout, order, id=order.id, priority=1)  # before all files that wait
        # The last one is answered after the last kill, so that the last process has something to do.
        is_last = planned is self._plan.orders[-1]
        await self._until(
            lambda sample: self._part(sample) >= planned.answered and not (is_last and self._is_to_be_killed())
        )
        answer = "sold out" if planned.is_declined else "in stock"
        for _ in range(2 if planned.is_sent_twice else 1):
            await run.signal("warehouse", answer, id=f"warehouse answers {order.id}")

    # ---- the killer's part -------------------------------------------------------------------------------------

    async def _kill_at(self, part: float, number: int) -> None:
        serving, screen = self._serving, self._screen
        await self._until(lambda sample: self._part(sample) >= part and self._is_served(sample))
        await trio.sleep(self._chance.uniform(0, 2 * _LOOK_SECONDS))
        pid = serving.process.pid
        await serving.kill()
        self.kills.append(datetime.now(UTC))
        died = trio.current_time()
        at_death = self._look()
        where = f"{at_death.row_count:,} rows, {counted(at_death.owned, 'run')} under way"
        screen.event("✗", f"SIGKILL no. {number} to pid {pid}: {where}", "red")
        await serving.start()
        await self._until(
            lambda sample: sample.row_count > at_death.row_count or (self._is_served(sample) and self._is_idle(sample))
        )
        what = "has gone on" if self._sample.row_count > at_death.row_count else "serves, with nothing to do,"
        screen.event("✓", f"pid {serving.process.pid} {what} after {trio.current_time() - died:.2f} s", "green")

    # ---- looking -----------------------------------------------------------------------------------------------

    def _part(self, sample: Sample) -> float:
        return sample.chunk_count / self._plan.chunk_count if self._plan.chunk_count else 1.0

    def _is_served(self, sample: Sample) -> bool:
        return self._serving.process.pid in sample.serving_pids

    def _is_to_be_killed(self) -> bool:
        return len(self.kills) < len(self._plan.kills)

    def _is_all_done(self, sample: Sample) -> bool:
        return sample.mirrored + sample.checked_out == len(self._plan.files) + len(self._plan.orders)

    def _is_idle(self, sample: Sample) -> bool:
        """Whether only the last order has not ended, which waits for the last kill."""
        return sample.mirrored + sample.checked_out >= len(self._plan.files) + len(self._plan.orders) - 1

    async def _until(self, condition: Callable[[Sample], bool]) -> None:
        while not condition(self._sample):
            await self._changed.wait()

    async def _look_all_the_time(self) -> None:
        changed_at = trio.current_time()
        with closing(self._client.connect()) as self._connection:
            while True:
                sample = self._look()
                if sample != self._sample:
                    changed_at = trio.current_time()
                elif trio.current_time() > changed_at + _STALL_SECONDS_MAX:
                    raise DemoFailed(f"nothing has changed for {_STALL_SECONDS_MAX:g} s, at {sample}")
                self._sample = sample
                self._changed.set()
                self._changed = trio.Event()
                self._screen.progress(
                    self._part(sample),
                    f"{sample.chunk_count:,}/{self._plan.chunk_count:,} chunks  "
                    f"{sample.checked_out}/{len(self._plan.orders)} orders  "
                    f"{counted(len(self.kills), 'kill')}  {self._screen.seconds:.0f} s",
                )
                await trio.sleep(_LOOK_SECONDS)

    def _look(self) -> Sample:
        # The file is for people too: plain SQL, through the connection that the engine gives out.
        rows, chunks = self._connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE name = 'chunk') FROM history"
        ).fetchone()
        ended = dict(
            self._connection.execute(
                "SELECT workflow, count(*) FROM runs WHERE finished_at IS NOT NULL GROUP BY workflow"
            ).fetchall()
        )
        (owned,) = self._connection.execute("SELECT count(*) FROM runs WHERE owner IS NOT NULL").fetchone()
        pids = self._connection.execute("SELECT pid FROM executors WHERE ended_at IS NULL").fetchall()
        return Sample(
            chunk_count=chunks,
            row_count=rows,
            mirrored=ended.get(mirror_file.name, 0),
            checked_out=ended.get(checkout.name, 0),
            owned=owned,
            serving_pids=frozenset(pid for (pid,) in pids),
        )

    async def choose_timeline(self) -> Remembered | None:
        """Return an order that has seen something: kills within its steps, attempts that failed, a refund."""
        page = await self._client.list_runs(workflow=checkout, limit=1000)
        hit = [record for record in page.runs if self._kills_between(record.started_at, record.finished_at)]
        candidates = (hit or list(page.runs))[:_CANDIDATES]
        found = [Remembered(record, await self._client.get(record.id).steps()) for record in candidates]
        return max(found, key=self._eventfulness, default=None)

    def _eventfulness(self, one: Remembered) -> float:
        score = 0.0
        before = one.record.created_at
        for step in one.steps:
            is_wait = step.kind is StepKind.SIGNAL
            score += self._kills_between(before, step.finished_at) * (0.2 if is_wait else 3)
            score += step.attempt > 1
            score += step.kind is StepKind.COMPENSATION
            before = step.finished_at
        return score

    def _kills_between(self, start: datetime | None, end: datetime | None) -> int:
        return sum(start < kill < end for kill in self.kills) if start is not None and end is not None else 0


def _batches(files: Sequence[SourceFile], size: int) -> Iterator[Sequence[SourceFile]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]
