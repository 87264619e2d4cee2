"""A process that was stopped holds the time against nobody: the others may have been stopped together with it."""

# ruff: noqa: ASYNC240  (nothing tells when another process has come so far)

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisors import ChildExited, open_supervisor
from supervisors.patience import PARTS, Patience
from tests.supervisors.test_process import READY, nothing_leaks, python, wait_for

__all__ = ["nothing_leaks"]  # a fixture, for each test here too

SECONDS = 3.0
# Longer than the time that the other one is given, and not by so much that it could be told by that.
STOPPED_SECONDS = 3.5

Body = Callable[[MockClock, Path], Coroutine[Any, Any, None]]


def at_a_standstill(body: Body, folder: Path) -> None:
    """Run a body whose clock goes on only where it says so: as that of a process that was stopped."""
    clock = MockClock()
    trio.run(body, clock, folder, clock=clock)


def test_only_the_time_in_which_this_process_ran_counts(tmp_path: Path) -> None:
    async def main(clock: MockClock, _: Path) -> None:
        answers: list[bool] = []

        async def wait() -> None:
            answers.append(await patience.lasts_until(trio.sleep_forever))

        patience = Patience(SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for parts_over in range(1, PARTS + 1):
                await wait_all_tasks_blocked()
                assert not answers
                clock.jump(100 * SECONDS if parts_over % 2 else SECONDS / PARTS)
        assert answers == [False]
        assert not await patience.lasts_until(trio.sleep_forever), "it is at its end"

    at_a_standstill(main, tmp_path)


def test_what_has_come_while_it_was_stopped_has_come_in_time(tmp_path: Path) -> None:
    async def main(clock: MockClock, _: Path) -> None:
        come = trio.Event()

        async def stopped() -> None:
            await wait_all_tasks_blocked()
            clock.jump(STOPPED_SECONDS)
            await wait_all_tasks_blocked()
            come.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stopped)
            assert await Patience(SECONDS).lasts_until(come.wait)

    at_a_standstill(main, tmp_path)


async def a_heartbeat_is_missing(clock: MockClock, folder: Path) -> None:
    """Everybody is stopped, and goes on."""
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", READY, ready_within=SECONDS, heartbeat_within=SECONDS))
        pid = supervisor.child("worker").pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        clock.jump(STOPPED_SECONDS)
        await wait_all_tasks_blocked()
        os.kill(pid, signal.SIGCONT)
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.error, exit.process.code) == (None, 0)


async def it_is_not_ready_yet(clock: MockClock, folder: Path) -> None:
    code = "import os, time\nwhile not os.path.exists('go on'): time.sleep(0.01)\n" + READY

    async def stopped() -> None:
        await wait_all_tasks_blocked()
        clock.jump(STOPPED_SECONDS)
        await wait_all_tasks_blocked()
        (folder / "go on").touch()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(stopped)
        await supervisor.start_child(python("worker", code, ready_within=SECONDS, cwd=str(folder)))
        assert supervisor.child("worker").value == {"answer": 42}


async def it_is_about_to_end(clock: MockClock, folder: Path) -> None:
    code = READY + "import os, time\nopen('ending', 'w')\nwhile not os.path.exists('go on'): time.sleep(0.01)"

    async def stopped() -> None:
        while not (folder / "ending").exists():
            await wait_all_tasks_blocked()
        clock.jump(STOPPED_SECONDS)
        await wait_all_tasks_blocked()
        (folder / "go on").touch()

    async with open_supervisor() as supervisor, trio.open_nursery() as nursery:
        events = supervisor.events()
        times = {"ready_within": SECONDS, "shutdown": SECONDS, "closing": SECONDS / 2}
        await supervisor.start_child(python("worker", code, cwd=str(folder), heartbeat_within=2 * SECONDS, **times))
        nursery.start_soon(stopped)
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.error, exit.process.code) == (None, 0)


@pytest.mark.parametrize("body", [a_heartbeat_is_missing, it_is_not_ready_yet, it_is_about_to_end])
def test_who_was_stopped_together_with_the_others_kills_none_of_them(body: Body, tmp_path: Path) -> None:
    at_a_standstill(body, tmp_path)
