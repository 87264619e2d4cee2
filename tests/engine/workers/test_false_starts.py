"""When a parent gives up: if workers do not come up, or their engine fails. Runs that kill workers are no reason."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.parent import (
    CODE_CHANGED,
    ENGINE_FAILED,
    LOADING_FAILED,
    WORKERS,
    Workers,
    WorkerWatch,
)
from durable_trio.errors import WorkerFailed
from supervisors import Child, DynamicSupervisorSpec, Intensity, Process, Supervisor, SupervisorSpec, open_supervisor
from supervisors.rules import count_restart, delay_seconds
from tests.engine.workers.kit import PATIENCE_SECONDS, until
from tests.kit import forks

pytestmark = pytest.mark.on_sqlite("worker processes open a file")

# A worker as far as the parent can see: the first one is ready and is killed, those after it are not even ready.
_KILLED_EARLY = """
import os, pathlib, signal, sys
seen = pathlib.Path(sys.argv[1])
if not seen.exists():
    seen.touch()
    os.write(int(os.environ["SUPERVISORS_LINK"].partition(":")[0]), b"ready null\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""


async def watched(
    argv: Sequence[str],
    is_enough: Callable[[Supervisor, list[WorkerFailed]], object],
    *,
    ready_within: float | None = None,
    others: Sequence[Process] = (),
    family: Family | None = None,
) -> list[WorkerFailed]:
    """Watch a worker that is this program until it is enough; return with what the parent gave up."""
    opened = trio.Event()
    failures: list[WorkerFailed] = []

    async def reap() -> None:
        await trio.lowlevel.checkpoint()

    async def tree() -> Supervisor:
        await opened.wait()
        return root

    watch = WorkerWatch(family or Family(), tree, reap, failures.append)
    worker = Process("worker-1", argv, is_stderr_forwarded=False, ready_within=ready_within)
    workers = DynamicSupervisorSpec(intensity=Intensity(100, per=10), children=[worker, *others])
    spec = SupervisorSpec(children=[Child("watch", watch.run), Child(WORKERS, workers)])
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_supervisor(spec, name="engine") as root:
            opened.set()
            await until(lambda: is_enough(root, failures))
    return failures


def has_failed(_root: Supervisor, failures: list[WorkerFailed]) -> bool:
    """Whether the parent has given up."""
    return bool(failures)


@pytest.mark.parametrize("end", ["exit 1", "exit 9", "kill -ABRT $$", "kill -KILL $$"])
async def test_a_worker_that_was_ready_may_die_again_and_again_however_it_does(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A run may have done it, which is set aside by its own count of crashes. Its first life counts as any other."""

    def is_enough(root: Supervisor, failures: list[WorkerFailed]) -> bool:
        return bool(failures) or root.child(WORKERS, "worker-1").restart_count >= 12

    assert await watched(["sh", "-c", end], is_enough) == []
    assert [record.message for record in caplog.records if "worker-1" in record.message] == []


async def test_a_worker_whose_engine_fails_again_and_again_ends_serve_with_the_reason() -> None:
    script = f"echo a traceback >&2; echo the engine has failed: no disk >&2; exit {ENGINE_FAILED}"
    (failure,) = await watched(["sh", "-c", script], has_failed)
    assert str(failure) == "worker-1 ended 5 times in a row as soon as it was started: the engine has failed: no disk"


# As above, but those after the first one say why they end, with an exit code.
_FAILS_LATER = """
import os, pathlib, signal, sys
seen = pathlib.Path(sys.argv[1])
if not seen.exists():
    seen.touch()
    os.write(int(os.environ["SUPERVISORS_LINK"].partition(":")[0]), b"ready null\\n")
    os.kill(os.getpid(), signal.SIGKILL)
sys.stderr.write("no module named prices\\n")
os._exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [LOADING_FAILED, CODE_CHANGED, 3])
async def test_a_worker_that_cannot_come_back_ends_nobody_while_others_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Half of a deploy, and a worker that dies: that is no end of those that serve. It is told once."""
    family = Family()

    def is_enough(root: Supervisor, failures: list[WorkerFailed]) -> bool:
        return bool(failures) or root.child(WORKERS, "worker-1").restart_count >= 9

    argv = [sys.executable, "-I", "-S", "-c", _FAILS_LATER, str(tmp_path / "seen"), str(code)]
    other = Process("worker-2", ["sleep", "60"])
    with caplog.at_level(logging.WARNING, "durable_trio.processes"):
        failures = await watched(argv, is_enough, ready_within=PATIENCE_SECONDS, others=[other], family=family)
    assert failures == []
    (why,) = family.held_back.values()
    assert why.endswith("no module named prices")
    lines = [record.message for record in caplog.records if "worker-1" in record.message]
    assert lines == [f"worker-1 could not be started again: {why}"]


@pytest.mark.parametrize("code", [LOADING_FAILED, 3])
async def test_where_nobody_serves_a_worker_that_cannot_come_back_ends_serve(tmp_path: Path, code: int) -> None:
    argv = [sys.executable, "-I", "-S", "-c", _FAILS_LATER, str(tmp_path / "seen"), str(code)]
    (failure,) = await watched(argv, has_failed, ready_within=PATIENCE_SECONDS)
    assert "worker-1 ended 5 times in a row" in str(failure)
    assert str(failure).endswith("no module named prices")


async def test_a_worker_that_is_killed_before_it_is_ready_is_not_restarted_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time is told in the log, and the error says by what, and what to do."""
    argv = [sys.executable, "-I", "-S", "-c", _KILLED_EARLY, str(tmp_path / "seen")]
    with caplog.at_level(logging.WARNING, "durable_trio.processes"):
        failures = await watched(argv, has_failed, ready_within=PATIENCE_SECONDS)
    assert "worker-1 was killed 10 times in a row" in str(failures[0])
    assert "before it was ready: signal SIGKILL" in str(failures[0])
    assert "start fewer workers" in str(failures[0])
    lines = [record.message for record in caplog.records if "was killed before it was ready" in record.message]
    records = [vars(record) for record in caplog.records if "was killed before it was ready" in record.message]
    assert {(found["event"], found["worker"]) for found in records} == {("worker_exited", "worker-1")}
    assert len(lines) >= 10
    assert "worker-1" in lines[0]
    assert "SIGKILL" in lines[0]


def test_the_supervisor_of_workers_lives_through_any_number_of_deaths_after_each_other() -> None:
    """Even if a worker took no time to start, and chance made all waits short."""
    spec = Workers(app="shop:engine", count=1, grace_seconds=1, heartbeat_seconds=1).spec()
    (worker,) = spec.children
    now = 0.0
    restarted_at: tuple[float, ...] = ()
    for attempt in range(1, 100):
        counted = count_restart(spec.intensity, restarted_at, now)
        assert counted is not None, f"{attempt} restarts were too many"
        restarted_at = counted
        now += delay_seconds(worker.backoff, attempt, 0.999)


# ---- as programs ---------------------------------------------------------------------------------------------------

_SHOP = """
import os, trio
from durable_trio import Engine, workflow
from durable_trio.stores.questions import CountBacklog
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.probes import ProbedStore

class Broken(ProbedStore):
    def ask(self, question):
        if isinstance(question, CountBacklog):
            raise OSError("disk on fire")
        return super().ask(question)

def die():
    {death}

@workflow(max_recoveries={max_recoveries})
async def poison(ctx):
    await ctx.step("die", die)

@workflow
async def sound(ctx):
    return await ctx.step("one", lambda: 1)

store = SqliteStore("shop.db", durability="normal")
engine = Engine({store}, workflows=[poison, sound], workers={workers}, app="shop:engine")

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        bad = await engine.start(poison, id="bad")
        good = await engine.start(sound, id="good")
        print(await good.result(), flush=True)
        try:
            await bad.result()
        except Exception as error:
            print(error, flush=True)
        nursery.cancel_scope.cancel()

if __name__ == "__main__":
    trio.run(main)
"""


@pytest.fixture
def run_shop(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program that serves with workers to its end; it is its workers' application."""

    def run(
        *, store: str = "store", death: str = "pass", workers: int = 1, max_recoveries: int = 10
    ) -> subprocess.CompletedProcess[str]:
        text = _SHOP.format(store=store, death=death, workers=workers, max_recoveries=max_recoveries)
        (tmp_path / "shop.py").write_text(text)
        paths = os.pathsep.join(item for item in sys.path if item)
        return forks.run(
            [sys.executable, "shop.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
            popen=forks.ForkedParent,
        )

    return run


@pytest.mark.parametrize(
    ("death", "workers", "max_recoveries"),
    # The first one dies more often than a worker may end as soon as it was started.
    [("os._exit(1)", 1, 5), ("os.abort()", 2, 1), ("os._exit(70)", 1, 1), ("raise SystemExit(1)", 1, 1)],
)
def test_a_run_that_kills_its_process_is_set_aside_while_serve_goes_on(
    run_shop: Callable[..., subprocess.CompletedProcess[str]], death: str, workers: int, max_recoveries: int
) -> None:
    program = run_shop(death=death, workers=workers, max_recoveries=max_recoveries)
    assert program.returncode == 0, program.stderr
    result, error = program.stdout.splitlines()
    assert result == "1"
    assert f"was set aside: its process has died {max_recoveries + 1} times" in error


def test_an_engine_that_fails_in_the_workers_is_named_with_the_child_that_has_crashed(
    run_shop: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    program = run_shop(store="Broken(store)", workers=1)
    assert program.returncode != 0
    last = [line for line in program.stderr.splitlines() if "WorkerFailed" in line][-1]
    assert "the engine has failed: engine/services/dispatcher crashed too often: OSError: disk on fire" in last
