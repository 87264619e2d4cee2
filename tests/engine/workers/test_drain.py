"""The whole tree told to stop: by a first signal, a second one, a signal to one worker, a cancelled ``serve``."""

from __future__ import annotations

import signal
from collections import Counter
from functools import partial

import pytest
import trio

from tests.engine.workers.app import SPEC_VARIABLE, engine
from tests.engine.workers.kit import PATIENCE_SECONDS, Scene, is_alive, kill, until


def executions(scene: Scene) -> Counter[tuple[str, str]]:
    """Count how often each step was executed."""
    return Counter((line["run"], line["key"]) for line in scene.ledger())


def assert_merely_interrupted(scene: Scene) -> None:
    """Nothing failed, nothing was cancelled, and nothing that is free has counted it as a crash."""
    runs = scene.snapshot().runs.values()
    assert {run["status"] for run in runs} <= {"pending", "running", "suspended", "completed"}
    assert {run["recoveries"] for run in runs} == {0}


async def finish_and_check(scene: Scene) -> None:
    """Let another family finish what is there."""
    server = await scene.serving(workers=2, lease_seconds=30)
    await until(lambda: {run["status"] for run in scene.snapshot().runs.values()} == {"completed"})
    await server.leave()
    scene.assert_sound()


@pytest.mark.parametrize("os_signal", [signal.SIGTERM, signal.SIGINT])
async def test_a_drained_family_lets_steps_finish_and_leaves_the_rest(scene: Scene, os_signal: signal.Signals) -> None:
    """One signal to the parent only: exit code 0, workers gone, no step interrupted, none begun."""
    server = await scene.serving(workers=2, lease_seconds=30)
    async with scene.client() as client:
        for number in range(8):
            await client.start("sequence", 4, 0.5, id=f"run-{number}")
    await until(lambda: len(executions(scene)) >= 8)

    server.signal(os_signal)
    assert await server.wait_dead() == 0
    server.assert_gone()

    assert_merely_interrupted(scene)
    assert {run["owner"] for run in scene.snapshot().runs.values()} == {None}
    assert not any(key == "work#3" for _, key in executions(scene))  # however late the signal came, that was later
    await finish_and_check(scene)
    assert set(executions(scene).values()) == {1}


@pytest.mark.parametrize(("workflow", "os_signal"), [("sequence", signal.SIGINT), ("blocking", signal.SIGTERM)])
async def test_a_second_signal_stops_the_family_at_once(scene: Scene, os_signal: signal.Signals, workflow: str) -> None:
    """Though a step of a minute is running, in a task or in a thread; the run can be resumed."""
    server = await scene.serving(workers=2, lease_seconds=30, grace_seconds=60)
    async with scene.client() as client:
        await client.start(workflow, *([1, 60.0] if workflow == "sequence" else [60.0]), id="long")
    await until(lambda: scene.ledger())
    server.signal(os_signal)
    await trio.sleep(0.5)
    assert server.popen.poll() is None  # it waits for the step

    server.signal(os_signal)
    assert await server.wait_dead() == -os_signal
    await until(lambda: not any(is_alive(pid) for pid in server.seen))
    assert {run["status"] for run in scene.snapshot().runs.values()} == {"running"}

    again = await scene.serving(workers=1, lease_seconds=30)
    await until(lambda: executions(scene).total() == 2)  # it goes on, from the step that was interrupted
    again.signal(signal.SIGKILL)
    await again.wait_dead()


async def test_a_worker_that_is_told_to_stop_by_hand_drains_and_is_replaced(scene: Scene) -> None:
    server = await scene.serving(workers=2, lease_seconds=30)
    async with scene.client() as client:
        runs = [await client.start("sequence", 4, 0.15, id=f"run-{number}") for number in range(12)]
        await until(lambda: len(executions(scene)) > 14)
        chosen = scene.ready(server)[0]
        kill(chosen, signal.SIGTERM)
        await until(lambda: not is_alive(chosen))
        await until(lambda: len(scene.ready(server)) == 2)
        for run in runs:
            assert await run.result() == 6
    await server.leave()
    assert set(executions(scene).values()) == {1}  # nothing was interrupted
    assert_merely_interrupted(scene)
    scene.assert_sound()


async def test_a_worker_that_is_told_twice_to_stop_by_hand_ends_at_once(scene: Scene) -> None:
    server = await scene.serving(workers=2, lease_seconds=30, grace_seconds=600)
    async with scene.client() as client:
        run = await client.start("blocking", 600.0, id="long")
        await until(lambda: scene.ledger())
        chosen = scene.ledger()[0]["pid"]
        for _ in range(2):
            kill(chosen, signal.SIGTERM)
            await trio.sleep(0.1)
        await until(lambda: not is_alive(chosen))
        await until(lambda: executions(scene).total() == 2)  # another one goes on, from the step that was interrupted
        assert (await run.record()).recoveries == 1
    server.signal(signal.SIGKILL)
    await server.wait_dead()


async def test_a_service_manager_that_tells_all_processes_to_stop_has_them_drained(scene: Scene) -> None:
    """For a worker its parent's word is not a second signal beside that of the manager."""
    server = await scene.serving(workers=2, lease_seconds=30)
    async with scene.client() as client:
        for number in range(8):
            await client.start("sequence", 4, 0.5, id=f"run-{number}")
    await until(lambda: len(executions(scene)) >= 8)

    for pid in server.workers():
        kill(pid, signal.SIGTERM)
    server.signal(signal.SIGTERM)
    assert await server.wait_dead() == 0
    server.assert_gone()

    assert_merely_interrupted(scene)
    await finish_and_check(scene)
    assert set(executions(scene).values()) == {1}


async def test_a_cancelled_serve_drains_its_workers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SPEC_VARIABLE, scene.spec(lease_seconds=30))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            server = engine()
            await nursery.start(partial(server.serve, workers=2))
            workers = list(scene.executors().values())
            for number in range(4):
                await server.start("sequence", 3, 0.4, id=f"run-{number}")
            await until(lambda: len(executions(scene)) >= 4)
            nursery.cancel_scope.cancel()
    assert len(workers) == 2
    assert not any(is_alive(pid) for pid in workers)
    assert_merely_interrupted(scene)
    assert {run["owner"] for run in scene.snapshot().runs.values()} == {None}
    await finish_and_check(scene)
    assert set(executions(scene).values()) == {1}
