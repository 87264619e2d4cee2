"""How a process is told to stop, and how long it may take: one that hangs has less time than one that is to end."""

from __future__ import annotations

import pytest
import trio

from supervisors import ChildExited, ExitKind, open_supervisor
from tests.supervisors.test_process import PATIENCE_SECONDS, READY, nothing_leaks, python, shell, wait_for

__all__ = ["nothing_leaks"]  # a fixture, for each test here too


async def test_a_process_that_hangs_when_it_is_to_stop_is_not_given_the_time_to_close() -> None:
    spinning = READY.replace(
        "await trio.sleep_forever()", "try: await trio.sleep_forever()\n        finally:\n            while True: pass"
    )
    times = {"heartbeat_within": 2, "shutdown": PATIENCE_SECONDS, "closing": PATIENCE_SECONDS - 1.5}
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", spinning, ready_within=PATIENCE_SECONDS, **times))
        began_at = trio.current_time()
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
        assert trio.current_time() - began_at < PATIENCE_SECONDS / 2
    assert exit.process.is_killed_by_supervisor


async def test_a_process_that_is_about_to_end_is_given_the_time_to_close() -> None:
    closing = READY.replace(
        "await trio.sleep_forever()",
        "try: await trio.sleep_forever()\n        finally:\n"
        "            with trio.CancelScope(shield=True): await trio.sleep(0.5)",
    )
    times = {"heartbeat_within": 5, "shutdown": PATIENCE_SECONDS, "closing": PATIENCE_SECONDS}
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(python("worker", closing, ready_within=PATIENCE_SECONDS, **times))
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert (exit.error, exit.process.code) == (None, 0)


@pytest.mark.parametrize("waits_late", [False, True])
async def test_one_that_is_told_by_its_link_gets_no_sigterm(waits_late: bool) -> None:
    """It may be told before it waits for that."""
    code = f"""
import sys, time, trio
from supervisors import child_process
async def main():
    async with child_process(is_cancelled_by_sigterm=False) as process:
        process.ready()
        while {waits_late} and not process._is_told_to_end:
            await trio.sleep(0.01)
        await process.told_to_end()
        print("told", file=sys.stderr)
trio.run(main)
"""
    spec = python("worker", code, ready_within=PATIENCE_SECONDS, shutdown=PATIENCE_SECONDS, is_told_by_link=True)
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(spec)
        await supervisor.terminate_child("worker")
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.kind is ExitKind.STOPPED
    assert (exit.process.code, exit.process.stderr_tail) == (0, "told\n")


async def test_one_that_is_not_ready_to_be_told_by_its_link_gets_sigterm() -> None:
    async with open_supervisor() as supervisor:
        events = supervisor.events()
        await supervisor.start_child(shell("x", "sleep 1000", shutdown=PATIENCE_SECONDS, is_told_by_link=True))
        await supervisor.terminate_child("x")
        exit = (await wait_for(events, ChildExited)).exit
    assert exit.process.os_signal == "SIGTERM"
