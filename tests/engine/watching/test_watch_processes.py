"""Reactive queries across processes: a watcher here, executors elsewhere, killed in the middle."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

from durable_trio import Context, Engine, RunConflict, RunFinished, RunRecord, RunStatus, open_engine, workflow
from durable_trio.engine.watching import Changes
from durable_trio.rows import RunRow
from durable_trio.stores.news_questions import Change
from durable_trio.stores.questions import RunFilter
from durable_trio.testing.store_contract.kit import changed_runs
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
STEPS = 6


@workflow
async def counting(ctx: Context) -> int:
    """Publishes a number after each step; every second step waits for a signal."""
    for number in range(STEPS):
        await ctx.step("count", trio.sleep, 0.01)
        await ctx.publish("n", number)
        if number % 2:
            await ctx.wait_signal("go")
    return STEPS


@workflow
async def unsteady(ctx: Context, plan: list[str]) -> int:
    """Does what its plan says; fails where it says so, unless it was resumed."""
    for number, item in enumerate(plan):
        await ctx.publish("n", number)
        if item == "step":
            await ctx.step("step", lambda: None)
        elif item == "signal":
            await ctx.wait_signal("go")
        elif item == "sleep":
            await ctx.sleep(0.01)
        elif item == "fail":
            await ctx.step("fail", _fail)
    return len(plan)


def _fail() -> None:
    raise LookupError("as planned")


def serve(path: str) -> None:
    """Execute runs until the process is killed; a line tells that it has begun."""

    async def main() -> None:
        async with open_engine(path, workflows=[counting], durability="normal"):
            print("ready", flush=True)
            await trio.sleep_forever()

    trio.run(main)


@asynccontextmanager
async def executor(path: str) -> AsyncIterator[trio.Process]:
    """Execute runs in a process of its own, killed at the end of the block at the latest."""
    code = f"import sys, {__name__}; from tests.kit import stores; stores.offer(); {__name__}.serve(*sys.argv[1:])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    process = await trio.lowlevel.open_process([sys.executable, "-c", code, path], stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await process.stdout.receive_some()).startswith(b"ready")
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


@attrs.define
class Seen:
    """What one watcher was given, with the change numbers; those of a run must rise."""

    records: defaultdict[str, list[RunRecord]] = attrs.Factory(lambda: defaultdict(list))
    changed: dict[str, list[int]] = attrs.Factory(lambda: defaultdict(list))

    def listen_to(self, changes: Changes) -> None:
        """Note the change number of whatever the watch gives."""
        convert = changes._convert

        def noting(change: Change) -> RunRecord:
            self.changed[change.row.id].append(change.row.changed)
            return convert(change)

        changes._convert = noting

    def take(self, record: RunRecord) -> None:
        """Note a record."""
        self.records[record.id].append(record)

    def check(self) -> None:
        """Fail if a record came twice in a row, or one came after a later one."""
        for run_id, records in self.records.items():
            changed = self.changed[run_id]
            assert all(a < b for a, b in itertools.pairwise(changed)), run_id
            assert all(_shown(a) != _shown(b) for a, b in itertools.pairwise(records)), run_id
            assert [r.generation for r in records] == sorted(r.generation for r in records)


def _shown(record: RunRecord) -> RunRecord:
    """Return a record that can be compared: exceptions are equal only to themselves."""
    return attrs.evolve(record, error=None if record.error is None else repr(record.error))  # type: ignore[arg-type]


async def test_a_client_watches_runs_that_two_processes_execute_while_one_is_killed(file_path: str) -> None:
    """Each run is shown rising to its end, also those that the killed process had in hand."""
    count = 12
    every, ended = Seen(), set()
    one_by_one: dict[str, list[RunRecord]] = {}
    async with Engine(file_path, workflows=[counting]) as client:
        runs = [await client.start(counting, id=f"r{number}") for number in range(count)]

        async def watch_one(run_id: str) -> None:
            async with client.watch(run_id=run_id) as changes:
                one_by_one[run_id] = [record async for record in changes]

        with trio.fail_after(3 * PATIENCE_SECONDS):
            async with client.watch(workflow="counting") as changes, trio.open_nursery() as nursery:
                every.listen_to(changes)
                for run in runs:
                    nursery.start_soon(watch_one, run.id)
                async with executor(file_path) as first, executor(file_path):
                    is_killed = False
                    async for record in changes:
                        every.take(record)
                        if record.status is S.SUSPENDED and record.problem is None:
                            await _signal(client, record)
                        if not is_killed and record.values.get("n", 0) >= 2:
                            first.kill()
                            is_killed = True
                        if record.status.is_final:
                            ended.add(record.id)
                            if len(ended) == count:
                                break
    assert is_killed
    every.check()
    for run_id, records in [*every.records.items(), *one_by_one.items()]:
        assert records[-1].status is S.COMPLETED, run_id
        assert records[-1].values == {"n": STEPS - 1}
        numbers = [record.values.get("n", -1) for record in records]
        assert numbers == sorted(numbers), run_id
        assert sum(record.status.is_final for record in records) == 1
    assert set(one_by_one) == set(every.records) == {run.id for run in runs}


async def _signal(client: Engine, record: RunRecord) -> None:
    # Not twice for one wait, although a run may be seen suspended more than once in it.
    number = record.values.get("n", -1)
    if number % 2:
        await client.send_signal(record.id, "go", id=f"go {number}")


async def test_a_watched_run_of_a_killed_process_is_shown_again_once_another_goes_on_with_it(file_path: str) -> None:
    async with Engine(file_path, workflows=[counting]) as client:
        run = await client.start(counting)
        async with run.watch() as changes:
            with trio.fail_after(2 * PATIENCE_SECONDS):
                async with executor(file_path):
                    async for record in changes:
                        if record.status is S.SUSPENDED:
                            break
                assert record.values == {"n": 1}
                await run.signal("go")
                await run.signal("go")
                await run.signal("go")
                async with executor(file_path):
                    records = [record async for record in changes]
        values = [item.values["n"] for item in records]
        assert values == sorted(values)
        assert (records[-1].status, records[-1].result, await run.value("n")) == (S.COMPLETED, STEPS, STEPS - 1)


# ---- random programs -------------------------------------------------------------------------------------------------

FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"workflow": "unsteady"},
    {"tags": {"kind": "even"}},
    {"status": ["completed", "failed", "cancelled"]},
    {"status": ["suspended"]},
)


@attrs.define
class Watcher:
    """A watch that was begun at some time, and what it must have seen in the end."""

    engine: Engine
    which: dict[str, Any]
    seen: Seen = attrs.Factory(Seen)
    present: dict[str, int] = attrs.Factory(dict)  # change numbers just before the watch began
    has_ended: bool = False

    async def run(self) -> None:
        """Watch until cancelled, or until the one run has ended."""
        for row in changed_runs(self.engine._client.store, RunFilter(), limit=10_000):
            if self.wants(row):
                self.present[row.id] = row.changed
        async with self.engine.watch(**self.which) as changes:
            self.seen.listen_to(changes)
            async for record in changes:
                self.seen.take(record)
        self.has_ended = True

    def wants(self, row: RunRow) -> bool:
        """Whether the watch shows the run, in whatever status."""
        tags = self.which.get("tags", {}).items() <= json.loads(row.tags).items()
        return tags and bool(self.which.get("run_id", row.id) == row.id)

    def has_seen_all(self, rows: tuple[RunRow, ...]) -> bool:
        """Whether it has seen the present state of each of these runs, all of which have ended."""
        if "run_id" in self.which:
            return self.has_ended
        if self.which.get("status") == ["suspended"]:
            return True
        return all(self.seen.changed[row.id][-1:] == [row.changed] for row in rows if self.wants(row))

    def check(self) -> None:
        """Fail if it was shown anything wrong."""
        self.seen.check()
        if "status" not in self.which:
            for run_id, changed in self.present.items():
                assert self.seen.changed[run_id][0] >= changed, run_id  # the present, or what came after it
        for records in self.seen.records.values():
            statuses = [record.status.value for record in records]
            assert set(statuses) <= set(self.which.get("status", list(S)))
            if "run_id" in self.which:
                assert [status.is_final for status in map(S, statuses)] == [False] * (len(statuses) - 1) + [True]


async def disturb(dice: random.Random, engines: list[Engine], begin: Callable[[dict[str, Any]], None]) -> None:
    """Start runs, signal, cancel and resume them by any of the engines, and begin watches meanwhile; then end all."""
    started: list[str] = []
    for number in range(30):
        engine = dice.choice(engines)
        if dice.random() < 0.5 or not started:
            plan = dice.choices(["step", "signal", "sleep", "fail"], [4, 3, 2, 1], k=dice.randrange(6))
            tags = {"kind": "odd" if number % 2 else "even"}
            run = await engine.start("unsteady", plan, tags=tags, delay=dice.choice([None, None, 0.02]))
            started.append(run.id)
        else:
            run_id = dice.choice(started)
            with suppress(RunConflict, RunFinished):
                match dice.choice(["cancel", "signal", "signal", "resume"]):
                    case "cancel":
                        await engine.cancel(run_id)
                    case "signal":
                        await engine.send_signal(run_id, "go")
                    case "resume":
                        await engine.resume(run_id)
        if number % 3 == 0:
            begin(dice.choice(FILTERS))
        if number % 4 == 0:
            begin({"run_id": dice.choice(started)})
        await trio.sleep(dice.choice([0, 0, 0.005, 0.03]))
    for run_id in started:
        await engines[0].get(run_id).cancel(wait=True)


@pytest.mark.parametrize("seed", range(8))
async def test_watchers_of_random_programs_see_each_run_rise_to_its_end(file_path: str, seed: int) -> None:
    """Two engines execute, a client joins in, watches begin at any time: the present first, in order, no repeats."""
    dice = random.Random(seed)
    watchers: list[Watcher] = []
    async with (
        serving(file_path, unsteady, durability="normal") as first,
        serving(file_path, unsteady, durability="normal") as second,
        Engine(file_path, workflows=[unsteady], durability="normal") as client,
    ):
        engines = [first, second, client]
        async with trio.open_nursery() as nursery:

            def begin(which: dict[str, Any]) -> None:
                watchers.append(Watcher(dice.choice(engines), which))
                nursery.start_soon(watchers[-1].run)

            with trio.fail_after(3 * PATIENCE_SECONDS):
                await disturb(dice, engines, begin)
            rows = changed_runs(client._client.store, RunFilter(), limit=10_000)
            assert all(row.status.is_final for row in rows)
            await wait_until(lambda: all(watcher.has_seen_all(rows) for watcher in watchers))
            nursery.cancel_scope.cancel()
    for watcher in watchers:
        watcher.check()
    assert sum(len(each) for watcher in watchers for each in watcher.seen.changed.values()) > len(rows)
