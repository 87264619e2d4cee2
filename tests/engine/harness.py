"""What tests of the engine share: an engine in a block, waits with a deadline, a look at what is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from durable_trio import Clock, Engine, Run, RunRecord, RunStatus, Workflow, open_engine
from durable_trio.engine.wiring import Executor
from durable_trio.rows import RunRow
from durable_trio.stores.questions import FindRun, Question
from tests.kit import forks

R = TypeVar("R")

#: Seconds after which a wait of a test is a failure; far above anything a healthy machine needs.
PATIENCE_SECONDS = 60.0


@asynccontextmanager
async def serving(store: str, *workflows: Workflow[..., Any], **options: Any) -> AsyncIterator[Engine]:
    """Serve the workflows in the background of a block; fail if a task outlives it."""
    before = set(_system_tasks())
    async with open_engine(store, workflows=workflows, **options) as engine:
        yield engine
    left = [task.name for task in _system_tasks() if task not in before]
    assert not left, f"tasks outlive the engine: {left}"


async def start_in_scope(nursery: trio.Nursery, engine: Engine) -> trio.CancelScope:
    """Serve in a cancel scope of its own, and return that once the engine is ready."""
    scope = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[Engine]) -> None:
        with scope:
            await engine.serve(task_status=task_status)

    await nursery.start(serve)
    return scope


def executor_of(engine: Engine) -> Executor:
    """Return what an engine that executes runs has inside."""
    executor = engine._client.services_in_use().executor
    assert executor is not None
    return executor


def ask(engine: Engine, question: Question[R]) -> R:
    """Return what the store of an open engine answers."""
    return engine._client.store.ask(question)


def row_of(engine: Engine, run_id: str) -> RunRow:
    """Return a run as it is stored."""
    row = ask(engine, FindRun(run_id))
    assert row is not None, f"no run has the id {run_id!r}"
    return row


async def wait_status(run: Run[Any], *statuses: RunStatus) -> RunRecord:
    """Return the run's record once it has one of the statuses."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with run.watch() as changes:
            async for record in changes:
                if record.status in statuses:
                    return record
    raise AssertionError(f"run {run.id!r} ended without being {' or '.join(statuses)}")


async def stored(engine: Engine, run_id: str) -> None:
    """Return once there is a run of that id."""
    with trio.fail_after(PATIENCE_SECONDS):
        while run_id not in {record.id for record in (await engine.list_runs()).runs}:  # noqa: ASYNC110
            await trio.sleep(0.002)


async def wait_parked(run: Run[Any]) -> RunRecord:
    """Return the run's record once it is parked."""
    with trio.fail_after(PATIENCE_SECONDS):
        async with run.watch() as changes:
            async for record in changes:
                if record.problem is not None:
                    return record
    raise AssertionError(f"run {run.id!r} ended instead of being parked")


async def wait_until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; for what a run's functions do, which no event tells of."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


def noted(log: list[Any], entry: object, result: R) -> R:
    """Append an entry to the log and return the result; for lambdas as step functions."""
    log.append(entry)
    return result


async def wait_passivated(engine: Engine) -> None:
    """Return once no run is resident: all have ended, are parked or have left memory to wait."""
    with trio.fail_after(PATIENCE_SECONDS):
        while (await engine.status()).resident_runs:  # noqa: ASYNC110  # leaving memory is no event of the public API
            await trio.sleep(0.002)


class SettableClock(Clock):
    """A wall clock that moves only when a test says so; for engines on a file, where virtual time cannot serve."""

    nap_seconds_max = 0.01

    def __init__(self) -> None:
        self._now_ns = 1_900_000_000_000_000_000
        self._set_ns = 0
        super().__init__(wall=self._read_wall, monotonic=self._read)

    def advance(self, seconds: float) -> None:
        """Let some seconds pass at once."""
        self._now_ns += round(seconds * 1_000_000_000)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; no time passes."""
        self._set_ns += round(seconds * 1_000_000_000)

    def follow(self, instant: int, *, between: tuple[int, int]) -> None:
        """That of a database goes as this one does."""

    def _read(self) -> int:
        return self._now_ns

    def _read_wall(self) -> int:
        return self._now_ns + self._set_ns


async def killed_when_ready(module: str, function: str, *args: str) -> str:
    """Call ``module.function(*args)`` in a process of its own, kill -9 it at its first line, and return that line."""
    line, _, _ = await stopped_when_ready(module, function, *args, os_signal=signal.SIGKILL)
    return line


async def stopped_when_ready(module: str, function: str, *args: str, os_signal: int) -> tuple[str, str, int]:
    """Call ``module.function(*args)`` in a process of its own and send it a signal at its first line.

    Returns that line, what it has written since, and its exit code.
    """
    code = f"import sys, {module}; from tests.kit import stores; stores.offer(); {module}.{function}(*sys.argv[1:])"
    path = os.pathsep.join(item for item in sys.path if item)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", code, *args], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    output = b""
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            async for received in process.stdout:
                if b"\n" not in output and b"\n" in received:
                    process.send_signal(os_signal)
                output += received
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await process.stdout.aclose()
    line, _, rest = output.decode().partition("\n")
    return line, rest, process.returncode or 0


@attrs.frozen
class Leftovers:
    """Threads, child processes and open files of this process at one moment."""

    threads: Counter[str]
    processes: frozenset[int]
    files: Counter[str]

    @classmethod
    def now(cls) -> Leftovers:
        """Look now. Idle threads of trio's cache are nobody's, and the server of forks is there before and after."""
        forks.server()
        threads = (thread.name for thread in threading.enumerate())
        return cls(
            threads=Counter(name for name in threads if not name.startswith("Trio thread")),
            processes=frozenset(_children()),
            files=Counter(_open_files()),
        )

    def assert_nothing_new(self) -> None:
        """Fail unless all that is new goes soon."""
        deadline = time.monotonic() + PATIENCE_SECONDS / 2
        while True:
            after = Leftovers.now()
            new = (after.threads - self.threads, after.processes - self.processes, after.files - self.files)
            if not any(new):
                return
            if time.monotonic() >= deadline:
                raise AssertionError(f"left behind: threads {new[0]}, processes {set(new[1])}, files {new[2]}")
            gc.collect()  # a failed test's traceback may hold a file
            time.sleep(0.02)


def _children() -> Iterator[int]:
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                yield from map(int, file.read().split())
        except OSError:  # the thread has ended meanwhile
            continue


def _open_files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of the listing itself
            continue
        # A pipe or socket counts by its kind: its number tells nothing.
        yield target if target.startswith("/") else target.partition(":")[0]


def _system_tasks() -> Iterator[trio.lowlevel.Task]:
    """Yield the tasks directly under trio's root: the only place where a service could be forgotten."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    for nursery in root.child_nurseries:
        yield from nursery.child_tasks
