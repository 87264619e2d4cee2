"""Processes that are stopped, not dead: outside their write turn for longer than their lease, and inside it."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import StoreInUse
from durable_trio.stores.address import is_url
from durable_trio.stores.sqlite import write_turn as turn
from tests.crash.plans import wave
from tests.engine.workers.kit import PATIENCE_SECONDS, Scene, is_alive, kill, state_of, until

_REFUSED = "a write of a run was refused"
_SILENT = "showed no sign of life"
# A lease, or a time without heartbeat, that is over soon; a busy machine gives everybody a turn within it.
_SHORT_SECONDS = 2.5


async def stop_outside_its_turn(scene: Scene, pid: int) -> None:
    """Stop a process while it does not hold the file: one that does would keep everybody waiting.

    A server takes from a stopped one what it holds.
    """
    while True:
        kill(pid, signal.SIGSTOP)
        await until(lambda: state_of(pid) == "T")
        if is_url(scene.address):
            return
        descriptor = os.open(f"{scene.address}-turn", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            kill(pid, signal.SIGCONT)
            await trio.sleep(0.005)
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("kind", ["two workers", "two engines"])
async def test_one_that_wakes_up_after_its_lease_writes_nothing(scene: Scene, kind: str) -> None:
    """Others have gone on with its runs: their histories are unbroken, and what it still wants to write is refused."""
    options = {"lease_seconds": 1.5, "heartbeat_seconds": 60}
    servers = [await scene.serving(workers=2, **options)] if kind == "two workers" else []
    while kind == "two engines" and len(servers) < 2:
        servers.append(await scene.serving(**options))
    async with scene.client() as client:
        runs = [await client.start("contested", 6, 0.2, id=f"run-{number}") for number in range(6)]
        await until(lambda: len(scene.ledger()) >= 12)
        late = scene.ledger()[0]["pid"]
        await stop_outside_its_turn(scene, late)
        done = {(name, row["id"]) for name, rows in scene.snapshot().history.items() for row in rows}
        its_own = {line["run"] for line in scene.ledger() if line["pid"] == late}
        known = len(scene.ledger())
        await until(lambda: its_own <= {line["run"] for line in scene.ledger()[known:]})  # all are taken over
        before = scene.snapshot()
        kill(late, signal.SIGCONT)
        await until(lambda: _REFUSED in scene.output())
        results = [await run.result() for run in runs]

    assert its_own
    tokens = {name: run["token"] for name, run in scene.snapshot().runs.items()}
    assert all(tokens[name] >= 2 for name in its_own)
    stale = [
        (name, row["text"])
        for name in its_own
        for row in before.history[name]
        if (name, row["id"]) not in done and row["result"] == str(late)
    ]
    assert stale == []
    taken_over = [result for name, result in zip(tokens, results, strict=True) if name in its_own]
    assert all(any(pid != late for pid in result) for result in taken_over)
    refusals = scene.output().count(_REFUSED)
    print(f"{kind}: {len(its_own)} runs were taken over, {refusals} writes refused")
    assert refusals > 0
    assert is_alive(late)  # it goes on as a new executor
    assert late in scene.executors().values()
    for server in servers:
        await server.leave()
    scene.assert_sound()


@pytest.mark.on_sqlite("of a file a stopped process keeps what it holds")
async def test_a_worker_that_is_stopped_inside_its_write_turn_is_killed_and_the_others_go_on(
    tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    for heartbeat_seconds in (1, 5, 25):
        directory = tmp_path / str(heartbeat_seconds)
        directory.mkdir()
        scene = Scene(directory, str(directory / "app.db"))
        try:
            if await stopped_one_is_killed_alone(scene, heartbeat_seconds):
                scene.assert_sound(reference=undisturbed)
                return
        finally:
            scene.clear()
    pytest.fail("others were killed, too")


async def stopped_one_is_killed_alone(scene: Scene, heartbeat_seconds: float) -> bool:
    """Stop a worker inside its turn. Where others are killed the machine is too busy for such a heartbeat: false."""
    stop = {"probe": "commit:transaction", "os_signal": signal.SIGSTOP}
    spec = {"workers": 3, "heartbeat_seconds": heartbeat_seconds, "lease_seconds": 30, "ends": [stop]}
    async with trio.open_nursery() as nursery:
        server = scene.serve(**spec)

        async def give_up_if_others_are_killed() -> None:
            while scene.output().count(_SILENT) < 2:  # noqa: ASYNC110  # other processes bring it about
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up_if_others_are_killed)
        await until(lambda: len(scene.ready(server)) == 3)
        async with scene.client() as client:
            asker = scene.asker(client)
            async with trio.open_nursery() as asking:
                for number in (1, 2, 3):
                    for planned in wave(number):
                        asking.start_soon(asker.carry_out, planned)
        assert scene.ended(0)
        assert scene.output().count(_SILENT) == 1
        await until(lambda: len(scene.ready(server)) == 3)  # it was replaced
        await server.leave()
        nursery.cancel_scope.cancel()
        return True
    return False


@pytest.mark.on_sqlite("one who writes keeps the others waiting")
async def test_an_unrelated_process_that_is_stopped_inside_its_turn_is_named_to_callers(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get an error with pid and state; once the process goes on, so do they."""
    stop = {"probe": "commit:transaction", "os_signal": signal.SIGSTOP}
    server = await scene.serving(end=stop, lease_seconds=30)
    async with scene.client() as client:
        run = await client.start("order", 5, id="order")
        await until(lambda: state_of(server.pid) == "T")
        with monkeypatch.context() as patch:
            patch.setattr(turn, "PATIENCE_SECONDS", 0.3)
            with pytest.raises(StoreInUse, match=rf"process {server.pid}\b.*stopped"):
                await client.start("order", 5, id="other")
        kill(server.pid, signal.SIGCONT)
        other = await client.start("order", 5, id="other")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == await other.result()
    await server.leave()
    scene.assert_sound()


@pytest.mark.parametrize(
    ("who", "lease_seconds", "heartbeat_seconds"),
    [("the parent", 60, _SHORT_SECONDS), ("everybody", 60, _SHORT_SECONDS), ("everybody", _SHORT_SECONDS, 60)],
)
async def test_who_was_stopped_himself_takes_nobody_for_dead_when_he_goes_on(
    scene: Scene, who: str, lease_seconds: float, heartbeat_seconds: float
) -> None:
    """As after Ctrl-Z, or when a container or the machine was suspended: no worker is killed, no step interrupted."""
    options = {"lease_seconds": lease_seconds, "heartbeat_seconds": heartbeat_seconds}
    server = await scene.serving(workers=3, **options)
    workers = server.workers()
    async with scene.client() as client:
        runs = [await client.start("sequence", 1, 4.0, id=f"run-{number}") for number in range(6)]
        await until(lambda: len(scene.ledger()) == 6)
        stopped = [server.pid, *(workers if who == "everybody" else [])]
        for pid in stopped:
            kill(pid, signal.SIGSTOP)
        await trio.sleep(1.5 * _SHORT_SECONDS)
        for pid in stopped:
            kill(pid, signal.SIGCONT)
        with trio.fail_after(PATIENCE_SECONDS):
            for run in runs:
                assert await run.result() == 0
    assert len(scene.ledger()) == 6
    assert server.workers() == workers
    await server.leave()
    scene.assert_sound()
