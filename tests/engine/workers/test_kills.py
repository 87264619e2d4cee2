"""SIGKILL of workers, of several at once and of the parent, at every instant that makes a difference."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio.testing.checker import compare
from tests.crash.plans import Asker, wave
from tests.engine.workers.kit import PATIENCE_SECONDS, Scene, Server, is_alive, kill, until

# Where workers die: each in another one, while all of them work on the same waves.
_ENDS: tuple[dict[str, Any], ...] = (
    {"probe": "after:claim"},
    {"probe": "before:step", "count": 3},
    {"probe": "after:compensation"},
    {"in_effect": "add#1"},
    {"probe": "commit:transaction"},
    {"probe": "before:finish"},
    {"probe": "before:claim"},
    {"in_effect": "compensate"},
    {"probe": "after:register"},
    {"probe": "after:release"},
)


@asynccontextmanager
async def waves(scene: Scene, *numbers: int) -> AsyncIterator[None]:
    """Have waves of runs asked for; at the end of the block wait until all have ended."""
    async with scene.client() as client:
        asker = Asker(client, scene.logs, role="worker", has_client=False)
        with trio.fail_after(2 * PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for number in numbers:
                    for planned in wave(number):
                        nursery.start_soon(asker.carry_out, planned)
                yield


async def test_workers_may_die_anywhere(scene: Scene, undisturbed: dict[str, Any]) -> None:
    """During claim, step, transaction, compensation, registration: every run ends as it would have without."""
    server = await scene.serving(workers=3, lease_seconds=30, ends=_ENDS)
    number = 1
    while left := [end for place, end in enumerate(_ENDS) if not scene.ended(place)]:
        assert number < 20, f"never reached: {left}"
        async with waves(scene, number, number + 1):
            pass
        number += 2
    print(f"{len(_ENDS)} workers have died in {number - 1} waves")
    await server.leave()
    scene.assert_sound(reference=undisturbed)


async def test_all_workers_may_die_at_once(scene: Scene, undisturbed: dict[str, Any]) -> None:
    server = await scene.serving(workers=3, lease_seconds=30)
    async with waves(scene, 1, 2):
        for _ in range(2):
            await until(lambda: len(scene.ready(server)) == 3)
            await trio.sleep(0.1)
            before = scene.snapshot()
            for pid in scene.ready(server):
                kill(pid)
            assert compare(before, scene.snapshot(), excused=_excused(scene)) == []
    await server.leave()
    scene.assert_sound(reference=undisturbed)


def _excused(scene: Scene) -> set[str]:
    return {f"{number}-{kind}" for number in (1, 2) for kind in ("drifting", "broken", "scrap")}


async def test_workers_die_with_their_parent_and_all_goes_on_with_the_next(
    scene: Scene, undisturbed: dict[str, Any]
) -> None:
    """Whatever they do; nothing is left that would disturb the next family."""
    slowest = 0.0
    async with waves(scene, 1, 2):
        for _ in range(2):
            server = await scene.serving(workers=2, lease_seconds=30)
            await trio.sleep(0.15)
            await _kill_parent(server)
            slowest = max(slowest, await _seconds_until_gone(server))
        server = await scene.serving(workers=2, lease_seconds=30)
    print(f"the slowest worker was gone {slowest * 1000:.0f} ms after its parent")
    await server.leave()
    scene.assert_sound(reference=undisturbed)


async def _kill_parent(server: Server) -> None:
    assert server.workers()
    server.signal(signal.SIGKILL)
    assert await server.wait_dead() == -signal.SIGKILL


async def _seconds_until_gone(server: Server) -> float:
    began = time.monotonic()
    await until(lambda: not any(is_alive(pid) for pid in server.seen))
    return time.monotonic() - began


@pytest.mark.parametrize("whom", ["a worker", "the parent"])
async def test_a_kill_during_the_drain_loses_nothing(scene: Scene, undisturbed: dict[str, Any], whom: str) -> None:
    server = await scene.serving(workers=2, lease_seconds=30, grace_seconds=20)
    async with waves(scene, 1):
        async with scene.client() as client:
            for number in range(2):
                await client.start("sequence", 1, 1.5, id=f"long-{number}")
        await until(lambda: sum(line["run"].startswith("long") for line in scene.ledger()) == 2)
        (busy,) = [line["pid"] for line in scene.ledger() if line["run"] == "long-0"]
        server.signal(signal.SIGTERM)
        await trio.sleep(0.2)
        assert is_alive(busy)  # it waits for its step
        if whom == "a worker":
            kill(busy)
            assert await server.wait_dead() == 0
        else:
            await _kill_parent(server)
        await _seconds_until_gone(server)
        server = await scene.serving(workers=2, lease_seconds=30)
    await until(
        lambda: {run["status"] for run in scene.snapshot().runs.values()} <= {"completed", "failed", "cancelled"}
    )
    assert scene.snapshot().runs["long-0"]["status"] == scene.snapshot().runs["long-1"]["status"] == "completed"
    await server.leave()
    _assert_no_file_left(scene.directory)
    scene.assert_sound(reference=undisturbed)


def _assert_no_file_left(directory: Path) -> None:
    endings = {path.name.removeprefix("app.db") for path in directory.iterdir() if path.name.startswith("app.db")}
    assert endings <= {"", "-wal", "-shm", "-turn", "-turn-queue", "-owners", "-steps"}
