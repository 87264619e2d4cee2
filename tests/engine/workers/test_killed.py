"""What the parent tells of workers that it kills because they do not end."""

from __future__ import annotations

import logging
import signal
import sys
from functools import partial

import pytest
import trio

from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.parent import WORKERS, WorkerWatch
from supervisors import Child, ChildStatus, DynamicSupervisorSpec, Process, Supervisor, SupervisorSpec, open_supervisor
from tests.engine.workers.kit import PATIENCE_SECONDS, until

# A worker as far as the parent can see: ready, and deaf.
_DEAF = """
import faulthandler, os, signal, time
faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(int(os.environ["SUPERVISORS_LINK"].partition(":")[0]), b"ready null\\n")
def sleep_on():
    while True: time.sleep(1)
sleep_on()
"""


def are_running(root: Supervisor) -> bool:
    workers = root.child(WORKERS).value.children()
    return all(child.status is ChildStatus.RUNNING for child in workers)


async def test_each_is_told_of_with_its_stack_also_as_the_whole_tree_ends(caplog: pytest.LogCaptureFixture) -> None:
    """The watch is told to end when the last of them has, and may be busy with the first one then."""
    opened = trio.Event()

    async def reap(begun: list[None]) -> None:
        begun.append(None)
        if len(begun) > 1:  # of the first worker that has ended
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async def tree() -> Supervisor:
        await opened.wait()
        return root

    watch = WorkerWatch(Family(), tree, partial(reap, []), lambda _: None)
    workers = DynamicSupervisorSpec(
        children=[
            Process(
                f"worker-{number}",
                [sys.executable, "-S", "-c", _DEAF],
                ready_within=PATIENCE_SECONDS,
                stack_signal=signal.SIGUSR2,
                shutdown=0.2,
                is_stderr_forwarded=False,
            )
            for number in (1, 2, 3)
        ]
    )
    spec = SupervisorSpec(children=[Child("watch", watch.run), Child(WORKERS, workers)])
    with trio.fail_after(PATIENCE_SECONDS), caplog.at_level(logging.ERROR, logger="durable_trio.processes"):
        async with open_supervisor(spec, name="engine") as root:
            opened.set()
            await until(lambda: are_running(root))
    told = [vars(record) for record in caplog.records if vars(record).get("event") == "worker_killed"]
    assert {each["worker"] for each in told} == {"worker-1", "worker-2", "worker-3"}
    assert len(told) == 3
    for each in told:
        assert "in sleep_on" in each["stack"]
        assert each["message"].startswith(f"{each['worker']} did not end in its time, though it was told to, and was")
