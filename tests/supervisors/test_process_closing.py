"""How long a process that is to stop may take: one that hangs has less time than one that is about to end."""

from __future__ import annotations

import trio

from supervisors import ChildExited, open_supervisor
from tests.supervisors.test_process import PATIENCE_SECONDS, READY, nothing_leaks, python, wait_for

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
