"""How several executors share the work of one file, and how soon others go on with the runs of a dead one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from tests.engine.workers.kit import Scene, kill, until

_START_SECONDS = 1.5  # that a worker takes at least to be there: until then a dead one has no successor

_FOR_EVER_SECONDS = 600.0  # of a step that is interrupted: nobody has room for more because its runs have ended


def shares(scene: Scene) -> Counter[int]:
    """Count the runs that each process has executed; a run that two have executed counts for both."""
    return Counter(pid for _, pid in {(line["run"], line["pid"]) for line in scene.ledger()})


@pytest.mark.parametrize("starter", ["a client", "one of them"])
async def test_two_unrelated_engines_share_the_work(scene: Scene, starter: str) -> None:
    """Each run is executed by one of them, each step once, and both have a fair part of the runs."""
    second = await scene.serving(concurrency=32, others=1)
    starts = {"workflow": "sequence", "args": [3, 0.1], "count": 40, "name": "run"}
    first = await scene.serving(concurrency=32, others=1, **({"starts": starts} if starter == "one of them" else {}))
    await until(lambda: len(list(scene.directory.glob("acquainted-*"))) == 2)
    if starter == "a client":
        async with scene.client() as client:
            for number in range(40):
                await client.start("sequence", 3, 0.1, id=f"run-{number}")
    await until(lambda: Counter(run["status"] for run in scene.snapshot().runs.values()) == {"completed": 40})

    found = shares(scene)
    print(f"started by {starter}: {dict(found)}")
    assert set(found) == {first.pid, second.pid}
    assert found.total() == 40  # no run was executed by both
    assert min(found.values()) >= 10
    executions = Counter((line["run"], line["key"]) for line in scene.ledger())
    assert set(executions.values()) == {1}
    for server in (first, second):
        await server.leave()
    scene.assert_sound()


async def test_four_workers_have_equal_parts_of_long_runs(scene: Scene) -> None:
    server = await scene.serving(workers=4, grace_seconds=0)
    async with scene.client() as client:
        for number in range(40):
            await client.start("sequence", 1, _FOR_EVER_SECONDS, id=f"run-{number}")
    await until(lambda: len(scene.ledger()) == 40)
    found = shares(scene)
    print(f"runs per worker: {sorted(found.values())}")
    assert len(found) == 4
    assert max(found.values()) <= 20  # 10 each, but for one that is slow for want of a processor
    await server.leave()


async def test_the_first_of_several_workers_leaves_the_others_their_parts_of_what_waits(scene: Scene) -> None:
    """As at every deployment: runs have come while nobody served, and workers do not come up at the same instant."""
    async with scene.client() as client:
        for number in range(40):
            await client.start("sequence", 1, _FOR_EVER_SECONDS, id=f"run-{number}")
    server = await scene.serving(workers=4, grace_seconds=0, expected_seconds=30)
    await until(lambda: len(scene.ledger()) == 40)
    found = shares(scene)
    print(f"runs per worker: {sorted(found.values())}")
    assert sorted(found.values()) == [10, 10, 10, 10]
    await server.leave()


async def test_no_worker_has_more_runs_than_its_concurrency_and_the_rest_wait_in_the_store(scene: Scene) -> None:
    server = await scene.serving(workers=4, concurrency=3)
    most: Counter[int] = Counter()
    async with scene.client() as client:
        for number in range(40):
            await client.start("sequence", 1, 0.25, id=f"run-{number}")

        def is_over() -> bool:
            runs = scene.snapshot().runs.values()
            rows = [(run["owner"], run["status"]) for run in runs if run["finished_at"] is None]
            for owner, count in Counter(owner for owner, _ in rows if owner is not None).items():
                most[owner] = max(most[owner], count)
            assert {status for owner, status in rows if owner is None} <= {"pending"}
            return not rows

        await until(is_over)
    assert max(most.values()) <= 3
    assert len(most) == 4
    at_once = max(max(_overlaps(scene, pid, 0.25)) for pid in shares(scene))
    print(f"at most {at_once} at once in one worker, {max(most.values())} owned by one")
    assert at_once <= 3
    await server.leave()
    scene.assert_sound()


def _overlaps(scene: Scene, pid: int, seconds: float) -> Iterator[int]:
    """Yield how many steps of a process were running when each of its steps began."""
    begun = [line["at"] for line in scene.ledger() if line["pid"] == pid]
    for at in begun:
        yield sum(at - round(seconds * 1_000_000) < other <= at for other in begun)


@pytest.mark.on_sqlite("of a server, a lock that is free is looked at twice before its executor is taken for dead")
async def test_the_runs_of_a_dead_worker_go_on_at_once(scene: Scene) -> None:
    """The parent says that it is dead: nobody waits for its lease, for a look at its lock, or for its successor."""
    server = await scene.serving(workers=3, lease_seconds=600, look_seconds=60, start_seconds=_START_SECONDS)
    async with scene.client() as client:
        for number in range(9):
            await client.start("sequence", 10_000, 0.1, id=f"run-{number}")
        went_on_with_others = []
        for _ in range(2):
            await until(lambda: len(scene.ready(server)) == 3 and _holders(scene).total() == 9)
            victim = _holders(scene).most_common(1)[0][0]
            others = set(scene.ready(server)) - {victim}
            killed_at = time.time_ns() // 1000
            kill(victim)
            known = len(scene.ledger())
            await until(partial(_first_after, scene, known, victim))
            first = _first_after(scene, known, victim)
            assert first is not None
            print(f"a run of a killed worker goes on after {(first['at'] - killed_at) / 1000:.0f} ms")
            went_on_with_others.append(first["pid"] in others)
    assert any(went_on_with_others)
    server.signal(15)
    server.signal(15)
    await server.wait_dead()


def _holders(scene: Scene) -> Counter[int]:
    """Count the runs by the living process that executes them now."""
    living = set(scene.executors().values())
    return Counter(pid for pid in _last(scene.ledger()).values() if pid in living)


def _first_after(scene: Scene, known: int, victim: int) -> Mapping[str, Any] | None:
    """Return the first step that others have begun since of a run that a process had."""
    lines = scene.ledger()
    runs = {run for run, pid in _last(lines[:known]).items() if pid == victim}
    since = (line for line in lines[known:] if line["run"] in runs and line["pid"] != victim)
    return min(since, key=lambda line: int(line["at"]), default=None)


def _last(lines: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the process that has executed each run's last step."""
    return {line["run"]: line["pid"] for line in lines}
