"""Workers and their parent at awkward moments: a full file, an import that serves, an end before the beginning."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from durable_trio.engine.tree import ENGINE_RESTARTS, SOON
from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.parent import WORKERS, WorkerWatch
from durable_trio.errors import StoreFull, WorkerFailed
from supervisors import Child, DynamicSupervisorSpec, Intensity, Process, Supervisor, SupervisorSpec, open_supervisor
from tests.engine.workers.kit import PATIENCE_SECONDS, Scene, children_of, kill, until
from tests.kit import forks

pytestmark = pytest.mark.on_sqlite("worker processes open a file")


async def test_a_parent_whose_worker_dies_while_the_file_has_no_room_lives_on() -> None:
    """Setting the runs free needs room; nobody could, and a fault of the parent it is not."""
    tries: list[float] = []

    async def reap() -> None:
        tries.append(trio.current_time())
        raise StoreFull("no room")

    opened = trio.Event()

    async def tree() -> Supervisor:
        await opened.wait()
        return root

    failures: list[WorkerFailed] = []
    watch = WorkerWatch(Family(), tree, reap, failures.append)
    workers = DynamicSupervisorSpec(
        intensity=Intensity(20, per=10), children=[Process("worker-1", ["sleep", "1000"], shutdown=1)]
    )
    spec = SupervisorSpec(
        intensity=ENGINE_RESTARTS, children=[Child("watch", watch.run, backoff=SOON), Child(WORKERS, workers)]
    )
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_supervisor(spec, name="engine") as root:
            opened.set()
            for _ in range(5):
                pid, count = root.child(WORKERS, "worker-1").pid, len(tries)
                assert pid is not None
                kill(pid)
                await until(lambda: root.child(WORKERS, "worker-1").pid not in (None, pid) and len(tries) > count)  # noqa: B023
            assert root.child("watch").restart_count == 0
    assert not failures


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that were started; none is left at the end, nor what they have started."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for program in started:
        if program.poll() is None:
            program.kill()  # its workers go along
        program.communicate()


def start(folder: Path, text: str) -> subprocess.Popen[str]:
    """Start a program that is its own workers' application."""
    (folder / "shop.py").write_text(text)
    return forks.ForkedParent(
        [sys.executable, "shop.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_program_that_serves_when_it_is_imported_is_refused(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    """Its workers would start workers, and those others, until the machine has no room for more."""
    program = start(
        tmp_path,
        "import trio\n"
        "from durable_trio import Engine\n"
        "trio.run(Engine('shop.db', workers=1, app='shop:engine').serve)\n",
    )
    programs.append(program)
    _, output = program.communicate(timeout=PATIENCE_SECONDS)
    last = output.strip().splitlines()[-1]
    assert program.returncode not in (0, None)
    assert "WorkerFailed" in last
    assert 'if __name__ == "__main__"' in last


_SLOW = """
import os, sys, trio
from durable_trio import Engine
from durable_trio.engine.services.recovery import Recovery

if __name__ != "__main__":
    async def register(self):
        print("opening", flush=True)
        await trio.sleep(1000)
    Recovery.register = register

engine = Engine("shop.db", workers=2, app="shop:engine")
if __name__ == "__main__":
    trio.run(engine.serve)
"""


def test_workers_that_are_told_to_stop_before_they_are_ready_go_quietly(
    tmp_path: Path, programs: list[subprocess.Popen[str]]
) -> None:
    program = start(tmp_path, _SLOW)
    programs.append(program)
    assert program.stdout is not None
    assert [program.stdout.readline() for _ in range(2)] == ["opening\n"] * 2
    program.send_signal(signal.SIGTERM)
    _, output = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == 0
    assert output == ""


async def test_a_parent_that_was_drained_slowly_leaves_no_report_behind(scene: Scene) -> None:
    """Its tree goes on changing until the last worker has gone; what it has taken back stays so."""
    server = await scene.serving(workers=2)
    async with scene.client() as client:
        await client.start("sequence", 1, 1.0, id="run")
        await until(lambda: scene.snapshot().runs["run"]["status"] == "running")
        await until(lambda: len(list(children_of(server.pid))) == 2)
        await server.leave()
        with contextlib.closing(client.connect()) as connection:
            assert connection.execute("SELECT process FROM reports").fetchall() == []
