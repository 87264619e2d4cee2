"""Applications that workers cannot serve: ``serve`` ends soon, with an error that names what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from durable_trio import Engine
from durable_trio.errors import WorkerFailed
from durable_trio.stores.sqlite import sqlite3
from tests.engine.workers.kit import children_of, is_alive, kill, until
from tests.kit import forks

pytestmark = pytest.mark.on_sqlite("worker processes open a file")

_SECONDS = 60.0
_SHOP = """
import os, sys, time, trio
from durable_trio import Engine

{worker}
engine = Engine("shop.db", workers={workers}, app={app!r}, lease_seconds=30)
path = "no engine"

async def make():
    return engine

if __name__ == "__main__":
    trio.run(engine.serve)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that were started; none is left at the end."""
    programs: list[subprocess.Popen[str]] = []
    yield programs
    for program in programs:
        if program.poll() is None:
            program.kill()
        program.communicate()


def write(folder: Path, *, app: str = "shop:engine", worker: str = "", workers: int) -> None:
    """Write a program whose workers are to serve ``app``; they execute ``worker`` when they import it."""
    inside = f"if __name__ != '__main__':\n    {worker}" if worker else ""
    (folder / "shop.py").write_text(_SHOP.format(app=app, worker=inside, workers=workers))


def start(folder: Path, *, app: str = "shop:engine", worker: str = "", workers: int) -> subprocess.Popen[str]:
    """Start such a program."""
    write(folder, app=app, worker=worker, workers=workers)
    return forks.ForkedParent(
        [sys.executable, "shop.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("app", "worker", "expected"),
    [
        ("shop:engin", "", "did you mean shop:engine?"),
        ("shop:path", "", "it must be an Engine"),
        ("shop:engine", "raise KeyError('no password')", "KeyError: 'no password'"),
        ("shop:engine", "import not_installed_here", "not_installed_here"),
        ("shop:make", "", "'shop:make' is async; it must be an ordinary function"),
        ("shop:engine", "sys.exit(3)", "importing 'shop' failed: SystemExit: 3"),
        ("shop:engine", "sys.exit('no config file')", "importing 'shop' failed: SystemExit: no config file"),
        ("shop:engine", "print('reading', file=sys.stderr, flush=True); os._exit(3)", "code 3; it said last: reading"),
        ("shop:engine", "os._exit(0)", "code 0"),
        ("shop:engine", "os.abort()", "SIGABRT"),
        ("shop:engine", "os.kill(os.getpid(), 9)", "signal SIGKILL; unless somebody kills it on purpose"),
        ("shop:engine", "os.kill(os.getpid(), 15)", "find out who sends SIGTERM"),
    ],
)
def test_an_app_that_cannot_be_served_ends_serve_and_is_named(
    tmp_path: Path, started: list[subprocess.Popen[str]], app: str, worker: str, expected: str
) -> None:
    program = start(tmp_path, app=app, worker=worker, workers=1)
    started.append(program)
    _, output = program.communicate(timeout=_SECONDS)
    assert program.returncode not in (0, None)
    assert output.strip().splitlines()[-1].startswith("durable_trio.errors.WorkerFailed: "), output
    assert expected in output.strip().splitlines()[-1]
    assert_nobody_works_in(tmp_path)
    assert_free(tmp_path / "shop.db")


@pytest.mark.parametrize(
    ("app", "worker", "expected"),
    [
        ("nowhere:engine", "", "there is no module 'nowhere'"),
        ("shop:engine", "os._exit(3)", "code 3"),
    ],
)
def test_of_two_workers_that_cannot_serve_the_app_one_is_named_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, worker: str, expected: str
) -> None:
    """In interpreters of their own, as users have them."""
    write(tmp_path, app=app, worker=worker, workers=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # workers get their parent's paths

    before = {forks.server().pid, *children_of(os.getpid())}  # tests of other files may have left their own servers

    async def serve() -> None:
        with trio.fail_after(_SECONDS):
            await Engine("shop.db", workers=2, app=app, lease_seconds=30).serve()

    with pytest.raises(WorkerFailed) as caught:
        trio.run(serve)
    assert expected in str(caught.value)
    assert set(children_of(os.getpid())) <= before
    assert_free(tmp_path / "shop.db")


def assert_nobody_works_in(folder: Path) -> None:
    """Fail if any process has this as its current folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            assert os.readlink(process / "cwd") != str(folder), f"{process.name} is left"


def assert_free(path: Path) -> None:
    """Fail if any process still has the file open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        assert not any(target.startswith(str(path)) for target in targets), f"{process.name} has {path} open"


@pytest.mark.parametrize(
    ("how", "count"), [("the module is gone", 2), ("it exits at once", 1), ("it crashes at once", 1)]
)
async def test_an_app_that_fails_after_it_has_worked_ends_serve_too(
    tmp_path: Path, started: list[subprocess.Popen[str]], how: str, count: int
) -> None:
    """As a deployment over a running program can do; workers that are killed by somebody do not count."""
    program = start(tmp_path, workers=count)
    started.append(program)
    await until(lambda: len(registered(tmp_path / "shop.db")) == count)
    workers = registered(tmp_path / "shop.db")
    if how == "the module is gone":
        (tmp_path / "shop.py").unlink()
    else:
        (tmp_path / "shop.py").write_text(
            "import os\n" + ("os._exit(3)" if how == "it exits at once" else "os.abort()")
        )
    began = time.monotonic()
    for pid in workers:
        kill(pid, signal.SIGKILL)
    _, output = await trio.to_thread.run_sync(lambda: program.communicate(timeout=_SECONDS))
    print(f"{how}: {time.monotonic() - began:.1f} s, exit code {program.returncode}")
    assert program.returncode not in (0, None)
    assert "WorkerFailed: worker-" in output  # in a group, unless it was not ready yet when it was killed
    assert not any(is_alive(pid) for pid in [*workers, *children_of(program.pid)])
    assert_free(tmp_path / "shop.db")


def registered(path: Path) -> list[int]:
    """Return the pids of executors that have not ended."""
    if not path.exists():
        return []
    connection = sqlite3.connect(path, timeout=10)
    try:
        return [pid for (pid,) in connection.execute("SELECT pid FROM executors WHERE ended_at IS NULL")]
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


async def test_workers_need_an_app_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"workers=2 needs app='module:engine'"):
        await Engine(str(tmp_path / "app.db"), workers=2).serve()
    with pytest.raises(ValueError, match="memory"):
        await Engine(":memory:", workers=2, app="shop:engine").serve()
    assert os.listdir(tmp_path) == []
