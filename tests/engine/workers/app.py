"""The application that these tests serve, in the parent as in its workers: the crash tests' workflows on one store.

The environment says how: a JSON object in ``WORKERS_SPEC``. A worker takes one of its *ends*, if any is left: where in
its life it kills or stops itself. So each of them happens once, in whatever worker comes to it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from durable_trio import Context, Engine, workflow
from durable_trio.engine.services import dispatcher, recovery
from durable_trio.testing.probes import ProbedStore
from tests.crash import workflows
from tests.crash.logs import Logs
from tests.crash.worker import end_with_parent
from tests.engine.harness import executor_of
from tests.kit.stores import store_at

SPEC_VARIABLE: Final = "WORKERS_SPEC"
_OPTIONS: Final = ("workers", "concurrency", "lease_seconds", "heartbeat_seconds", "grace_seconds", "durability")


@workflow
async def blocking(ctx: Context, seconds: float) -> str:
    """A step in a thread that nothing can interrupt."""
    return await ctx.step("block", block, seconds)


def block(seconds: float) -> str:
    """Sleep as code does that knows nothing of trio."""
    workflows.note()
    time.sleep(seconds)
    return "slept"


ALL: Final = (*workflows.ALL, blocking)


def engine() -> Engine:
    """Return the engine of a worker process: it may have an end of its own."""
    spec = json.loads(os.environ[SPEC_VARIABLE])
    time.sleep(spec.get("start_seconds", 0))  # as an application with much to import
    for number, end in enumerate(spec.get("ends", ())):
        if _is_first(Path(spec["directory"]) / f"end-{number}"):
            return _make(spec, end)
    return _make(spec, {})


def _make(spec: Mapping[str, Any], end: Mapping[str, Any]) -> Engine:
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s")
    recovery._LOOK_SECONDS = spec.get("look_seconds", recovery._LOOK_SECONDS)
    dispatcher._EXPECTED_SECONDS = spec.get("expected_seconds", dispatcher._EXPECTED_SECONDS)
    directory = Path(spec["directory"])
    workflows.use(Logs(directory, kill_in_effect=end.get("in_effect")))
    options = {name: spec[name] for name in _OPTIONS if name in spec}

    def end_here() -> None:
        # To this thread, so that it goes no further; a stop that another thread takes comes a moment later.
        signal.pthread_kill(threading.get_ident(), end.get("os_signal", signal.SIGKILL))

    inner = store_at(spec["address"], durability=spec.get("durability", "full"))
    store = ProbedStore(inner, kill_at=end.get("probe"), count=end.get("count", 1), kill=end_here)
    return Engine(store, workflows=ALL, app="tests.engine.workers.app:engine", **options)


def _is_first(taken: Path) -> bool:
    try:
        with taken.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


async def _serve_beside(engine: Engine, spec: Mapping[str, Any]) -> None:
    """Serve; say when so many others are known, whom an executor leaves their part; and start runs then."""
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(engine.serve, signals=True))
        while executor_of(engine).recovery.reaper.others_count < spec["others"]:  # noqa: ASYNC110
            await trio.sleep(0.01)
        (Path(spec["directory"]) / f"acquainted-{os.getpid()}").touch()
        starts = spec.get("starts", {"count": 0})
        for number in range(starts["count"]):
            await engine.start(starts["workflow"], *starts["args"], id=f"{starts['name']}-{number}")


def main() -> None:
    """Serve as the parent, or as a single engine, until told to stop."""
    spec = json.loads(os.environ[SPEC_VARIABLE])
    end_with_parent(spec["parent"])
    server = _make(spec, spec.get("end", {}))
    if "others" in spec:
        trio.run(_serve_beside, server, spec)
    else:
        trio.run(server.serve)


if __name__ == "__main__":
    main()
