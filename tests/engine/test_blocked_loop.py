"""What blocks the event loop is told, costs the runs nothing if it is short, and all runs if it never ends."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.asyncio import from_asyncio
from durable_trio.asyncio import open_engine as open_in_asyncio
from durable_trio.engine.loop_watch import _LoopWatch
from durable_trio.stores.questions import ListExecutors
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until
from tests.kit import forks

_ROOT = Path(__file__).resolve().parents[2]


class Told(logging.Handler):
    """The records of a logger, as a thread waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[Any]:
        return [record for record in self.records if getattr(record, "event", None) == event]


told = Told()
until: Callable[[], bool] = bool


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    global told
    told = Told()
    logger = logging.getLogger("durable_trio.processes")
    logger.addHandler(told)
    yield
    logger.removeHandler(told)


def block() -> None:
    """Block the calling thread until the test has seen what it looks for."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not until():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


async def block_in_step() -> None:
    block()


@workflow
async def steps(ctx: Context) -> None:
    await ctx.step("block", block_in_step)


@workflow
async def bodies(ctx: Context) -> None:
    await ctx.step("before", int)
    block()


@workflow
async def branches(ctx: Context) -> None:
    async def beside(branch: Context) -> None:
        await branch.step("before", int)
        block()

    async with ctx.open_nursery() as nursery:
        nursery.start_soon(beside)


async def test_what_blocks_the_loop_is_told_once_and_its_length_when_it_is_over(store_path: str) -> None:
    global until
    until = lambda: bool(told.of("loop_blocked"))  # noqa: E731
    async with serving(store_path, steps) as engine:
        run = await engine.start(steps, id="r")
        await run.result()
        await wait_until(lambda: bool(told.of("loop_unblocked")))
    (begin,), (end,) = told.of("loop_blocked"), told.of("loop_unblocked")
    assert begin.levelno == logging.WARNING
    assert (begin.run_id, begin.workflow, begin.step, begin.attempt) == ("r", "steps", "block#0", 1)
    assert begin.stack.rstrip().splitlines()[-2].endswith("in block")
    assert "in block_in_step" in begin.getMessage()
    assert (end.run_id, end.step) == ("r", "block#0")
    assert end.seconds >= begin.seconds >= 1


def test_a_function_of_asyncio_that_blocks_the_loop_of_a_guest_is_told_with_its_step(store_path: str) -> None:
    @workflow
    async def of_asyncio(ctx: Context) -> None:
        await ctx.step("block", from_asyncio(block_in_step))

    async def main() -> None:
        async with open_in_asyncio(store_path, workflows=[of_asyncio]) as engine:
            await engine.run(of_asyncio, id="r")

    global until
    until = lambda: bool(told.of("loop_blocked"))  # noqa: E731
    asyncio.run(main())
    (begin,) = told.of("loop_blocked")
    assert (begin.run_id, begin.workflow, begin.step, begin.attempt) == ("r", "of_asyncio", "block#0", 1)


@pytest.mark.parametrize("of", [bodies, branches])
async def test_a_body_that_blocks_is_told_with_its_run(store_path: str, of: Any) -> None:
    global until
    until = lambda: bool(told.of("loop_blocked"))  # noqa: E731
    async with serving(store_path, of) as engine:
        run = await engine.start(of, id="r")
        await run.result()
    (begin,) = told.of("loop_blocked")
    assert (begin.run_id, begin.workflow) == ("r", of.name)
    assert not hasattr(begin, "step")


async def test_what_is_no_runs_is_told_without_one(store_path: str) -> None:
    global until
    until = lambda: bool(told.of("loop_blocked"))  # noqa: E731
    async with serving(store_path, steps):
        block()
    (begin,) = told.of("loop_blocked")
    assert not hasattr(begin, "run_id")
    assert "in block" in begin.stack


class Blocking(logging.Handler):
    """Takes its time, with its lock, which whoever tells a line wants."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "block":
            block()


async def log_in_step() -> None:
    logging.getLogger("durable_trio.processes").warning("block")


@workflow
async def logs(ctx: Context) -> None:
    await ctx.step("block", log_in_step)


@pytest.mark.parametrize("of", [steps, logs], ids=["a step", "a handler of log lines"])
async def test_the_lease_is_renewed_while_the_loop_is_blocked(file_path: str, of: Any) -> None:
    global until
    seen: list[int] = []

    def has_been_renewed() -> bool:
        """Twice, in what would have been a lease's time: in between it would have passed."""
        (executor,) = engine._client.store.ask(ListExecutors())
        seen.append(executor.renewals)
        return len(set(seen)) > 3

    until = has_been_renewed
    handler = Blocking()
    logging.getLogger("durable_trio.processes").addHandler(handler)
    try:
        async with serving(file_path, of, lease_seconds=1.5, loop_stall_seconds_max=600) as engine:
            run = await engine.start(of, id="r")
            await run.result()
    finally:
        logging.getLogger("durable_trio.processes").removeHandler(handler)
    assert seen == sorted(seen)
    assert not told.of("loop_hung")


async def test_only_the_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """What is held up again and again would hold its lease for ever, and with it its runs."""
    watch = _LoopWatch(None, 600)
    watch._has_asked, watch._passed_at, watch._asked_at = True, 50.0, 100.0
    for _ in range(3):
        watch._tell_held_up(5.0, is_ours=False)
    assert watch._asked_at == 115.0
    watch._teller.stop()


_BLOCKED = """
import logging, os, sys, time, trio
from durable_trio import Context, open_engine, workflow
from tests.kit import stores

logging.basicConfig(level=logging.INFO)
path, folder = sys.argv[1:]
stores.offer()

async def hang() -> str:
    open(f"{folder}/begun", "w").close()
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    return "of the hung one"

@workflow
async def hanging(ctx: Context) -> str:
    return await ctx.step("hang", hang)

async def main() -> None:
    async with open_engine(
        path, workflows=[hanging], lease_seconds=1, loop_stall_seconds_max=0.5
    ) as engine:
        run = await engine.start(hanging, id="r")
        print(await run.result())

trio.run(main)
"""


async def second() -> str:
    return "of the next one"


@workflow
async def hanging(ctx: Context) -> str:
    return await ctx.step("hang", second)


async def test_one_that_hangs_loses_its_runs_and_writes_nothing_when_it_goes_on(file_path: str, tmp_path: Path) -> None:
    """Nobody has to be its parent for that: its lease passes, since its thread does not renew it for ever."""
    argv = [sys.executable, "-c", _BLOCKED, file_path, str(tmp_path)]
    hung: forks.Forked[str] = forks.Forked(argv, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        await wait_until((tmp_path / "begun").exists)
        async with serving(file_path, hanging) as engine:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await engine.get("r").result() == "of the next one"
            (tmp_path / "go").touch()
            said, log = await trio.to_thread.run_sync(lambda: hung.communicate(timeout=PATIENCE_SECONDS))
            assert said.strip() == "of the next one"  # also to the one that was late
            assert "counts as hung" in log
            (row,) = await engine.get("r").steps()
            assert row.result == "of the next one"
    finally:
        hung.kill()
        hung.communicate()


_APP = """
import ctypes, hashlib, os, signal, sys, time
import trio
from durable_trio import Context, Engine, workflow

folder = os.environ["FOLDER"]

def blocking(kind: str) -> None:
    if kind == "sleep":
        time.sleep(10_000)
    while kind == "python":
        pass
    if kind == "c":
        sum(range(10**15))
    if kind == "c with the lock":
        ctypes.PyDLL(None).sleep(10_000)
    if kind == "c without the lock":
        hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)

async def block(kind: str, mark: str) -> None:
    open(f"{folder}/begun", "w").close()
    while mark and not os.path.exists(f"{folder}/{mark}"):
        await trio.sleep(0.01)
    open(f"{folder}/blocks", "w").close()
    blocking(kind)

async def block_once() -> str:
    try:
        os.close(os.open(f"{folder}/begun", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "of another worker"
    blocking("sleep")
    return "never"

def block_thread() -> None:
    open(f"{folder}/begun", "w").close()
    time.sleep(10_000)

@workflow
async def hangs(ctx: Context, kind: str, mark: str = "") -> str:
    if kind == "once":
        return await ctx.step("once", block_once)
    if kind == "sync":
        await ctx.step("hang", block_thread)
    await ctx.step("hang", block, kind, mark)
    return ""

engine = Engine(f"{folder}/app.db", workflows=[hangs], heartbeat_seconds=float(os.environ.get("HEARTBEAT", "600")))
"""


class Serve:
    """``durable-trio serve`` of the application above, with one run."""

    def __init__(self, folder: Path, workers: int, *options: str, **environment: str) -> None:
        (folder / "app.py").write_text(_APP)
        self.log = folder / "log"
        argv = [sys.executable, "-m", "durable_trio", "serve", "app:engine", "--workers", str(workers), *options]
        variables = {"PATH": "", "PYTHONPATH": str(_ROOT), "FOLDER": str(folder), **environment}
        with self.log.open("w") as log:
            self.popen: forks.Forked[bytes] = forks.Forked(
                argv, cwd=folder, env=variables, stderr=log, stdout=subprocess.DEVNULL
            )


async def start(folder: Path, kind: str, mark: str = "") -> None:
    """Start a run that blocks the loop, once there is a file of the name ``mark``."""
    async with Engine(str(folder / "app.db")) as client:
        await client.start("hangs", kind, mark, id="r")


async def ended(process: forks.Forked[bytes]) -> int:
    return await trio.to_thread.run_sync(lambda: process.wait(PATIENCE_SECONDS))


@pytest.mark.parametrize(
    ("os_signal", "kind"),
    [
        (signal.SIGTERM, "sleep"),
        (signal.SIGTERM, "python"),
        (signal.SIGTERM, "c"),
        (signal.SIGTERM, "c without the lock"),
        (signal.SIGTERM, "sync"),
        (signal.SIGINT, "c"),
    ],
)
@pytest.mark.on_sqlite("the command line opens a file")
async def test_the_second_signal_ends_a_process_whatever_its_loop_does(
    tmp_path: Path, kind: str, os_signal: signal.Signals
) -> None:
    await start(tmp_path, kind)
    process = Serve(tmp_path, 0).popen
    try:
        await wait_until((tmp_path / "begun").exists)
        process.send_signal(os_signal)
        with trio.move_on_after(0.3):
            await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        assert process.poll() is None  # it waits for what is in hand
        process.send_signal(os_signal)
        assert await ended(process) == -os_signal
    finally:
        process.kill()
        process.wait()
    async with Engine(str(tmp_path / "app.db")) as client:
        (step,) = await client.get("r").steps(open=True)
        assert (step.key, step.is_alive) == ("hang#0", False)


@pytest.mark.parametrize("kind", ["c with the lock", "c without the lock"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
)
@pytest.mark.on_sqlite("the command line opens a file")
async def test_the_second_signal_ends_a_process_that_is_stuck_in_c_since_the_first(
    tmp_path: Path, kind: str, first: signal.Signals, second: signal.Signals
) -> None:
    """Python has seen the first one, and will not see the second; whichever of both it is."""
    await start(tmp_path, kind, "go")
    served = Serve(tmp_path, 0)
    try:
        await wait_until((tmp_path / "begun").exists)
        served.popen.send_signal(first)
        await wait_until(lambda: "event=draining" in served.log.read_text())
        (tmp_path / "go").touch()
        await wait_until((tmp_path / "blocks").exists)
        served.popen.send_signal(second)
        assert await ended(served.popen) == -second
    finally:
        served.popen.kill()
        served.popen.wait()


@pytest.mark.on_sqlite("the command line opens a file")
@pytest.mark.parametrize("kind", ["sleep", "c with the lock"])
async def test_with_workers_the_second_signal_ends_a_blocked_one_too(tmp_path: Path, kind: str) -> None:
    """The parent is gone at once, and its workers with it."""
    await start(tmp_path, kind)
    served = Serve(tmp_path, 1)
    try:
        await wait_until((tmp_path / "begun").exists)
        served.popen.send_signal(signal.SIGTERM)
        await wait_until(lambda: "event=draining" in served.log.read_text())
        served.popen.send_signal(signal.SIGTERM)
        assert await ended(served.popen) == -signal.SIGTERM
    finally:
        served.popen.kill()
        served.popen.wait()
    async with Engine(str(tmp_path / "app.db")) as client:  # the lock of a process that has ended tells
        with trio.fail_after(PATIENCE_SECONDS):
            while (await client.get("r").steps(open=True))[0].is_alive:  # noqa: ASYNC110
                await trio.sleep(0.02)


def handles(pid: int, os_signal: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, as the kernel says."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(line.split()[1], 16) >> (os_signal - 1) & 1)


_PROGRAM = """
import os, sys, time, trio
from durable_trio import open_engine, workflow
from tests.kit import stores

path, folder = sys.argv[1:]

def block() -> None:
    open(f"{folder}/begun", "w").close()
    time.sleep(10_000)

@workflow
async def hangs(ctx):
    await ctx.step("hang", block)

async def main():
    async with open_engine(path, workflows=[hangs]) as engine:
        await engine.run(hangs, id="r")

stores.offer()
trio.run(main)
"""


async def test_the_second_ctrl_c_ends_a_program_that_has_an_engine_and_waits_for_its_steps(
    file_path: str, tmp_path: Path
) -> None:
    """The first is raised in the program's own code; then a step in a thread keeps its engine."""
    argv = [sys.executable, "-c", _PROGRAM, file_path, str(tmp_path)]
    variables = {"PATH": "", "PYTHONPATH": str(_ROOT)}
    process: forks.Forked[bytes] = forks.Forked(argv, env=variables, stderr=subprocess.DEVNULL)
    try:
        await wait_until((tmp_path / "begun").exists)
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: not handles(process.pid, signal.SIGINT))
        process.send_signal(signal.SIGINT)
        assert await ended(process) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()


@pytest.mark.on_sqlite("the command line opens a file")
async def test_a_parent_says_what_a_worker_hangs_at_kills_it_and_another_one_goes_on(tmp_path: Path) -> None:
    await start(tmp_path, "once")
    served = Serve(tmp_path, 2, "--log-json", HEARTBEAT="1")
    try:
        async with Engine(str(tmp_path / "app.db")) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await client.get("r").result() == "of another worker"
    finally:
        served.popen.terminate()
        served.popen.wait(PATIENCE_SECONDS)
    log = served.log.read_text()
    (hung,) = (document for document in map(json.loads, log.splitlines()) if document.get("event") == "worker_hung")
    assert hung["message"].startswith(f"{hung['worker']} showed no sign of life for 1 s, and was killed")
    assert "in blocking" in hung["stack"]
    assert "in block_once" in hung["stack"].partition("\n\n")[0]  # the event loop's thread comes first
    assert "in block_once" not in hung["message"]


def test_the_thread_ends_with_the_engine(file_path: str) -> None:
    async def main() -> None:
        async with serving(file_path, steps):
            assert any("loop-watch" in thread.name for thread in threading.enumerate())

    trio.run(main)
    assert not any("loop-watch" in thread.name for thread in threading.enumerate())
