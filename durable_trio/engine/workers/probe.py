"""A process that imports the application as a worker does, and only says which code it has."""

from __future__ import annotations

import sys
from typing import Final

from durable_trio.engine.codes import FamilyCode
from durable_trio.engine.workers.family import decode
from durable_trio.engine.workers.parent import PROBE, Workers, reason_of
from durable_trio.engine.workers.reloads import ReloadFailed
from durable_trio.limits import WORKER_READY_SECONDS
from supervisors import Process, ProcessError, Restart, open_dynamic_supervisor
from supervisors.groups import sole

__all__ = ["probe"]

_NAME: Final = "probe"


async def probe(workers: Workers) -> FamilyCode | None:
    """Return the code that a worker would have now; ``None`` if it knows none.

    *Cancellation:* kills the process.

    Raises:
        ReloadFailed: the application cannot be imported.
    """
    told: list[object] = []

    def hear(pid: int, value: object) -> None:
        told.append(value)

    process = Process(
        _NAME,
        [sys.executable, "-m", "durable_trio.engine.workers", PROBE, workers.app],
        env=workers.environment(),
        answer=hear,
        ready_within=WORKER_READY_SECONDS,
        restart=Restart.TEMPORARY,
        shutdown=0,
    )
    failure: BaseException | None = None
    try:
        async with open_dynamic_supervisor(name="reload") as probes:
            try:
                await probes.start_child(process)
            except Exception as error:
                failure = error
    except ExceptionGroup as group:
        failure = sole(group)
    if failure is not None:
        reason = reason_of(failure) if isinstance(failure, ProcessError) else str(failure)
        raise ReloadFailed(f"the new code cannot be served: {reason}") from failure
    return decode(told[0])
