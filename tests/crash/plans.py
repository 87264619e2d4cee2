"""What is asked of the engine: a wave of runs, and what becomes of each. All of it may be asked again after a crash.

Every start and every signal has an id of its own, so that whoever was killed before it knew simply asks again. In trio
or asyncio, as the engine is.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import anyio
import attrs

from durable_trio import RunCancelled, RunConflict, RunExpired, RunFailed, RunFinished, RunNotFound, RunStatus
from tests.crash.hosts import AnyEngine
from tests.crash.logs import Logs

_POLL_SECONDS = 0.02
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@attrs.frozen
class Planned:
    """One run: what it is started with, and what happens to it. ``sends``: name, payload, and by whom."""

    id: str
    workflow: str
    args: tuple[Any, ...]
    sends: tuple[tuple[str, Any, str], ...] = ()
    ttl: float | None = None
    delay: float | None = None
    cancels: bool = False
    abandons: bool = False
    mends: bool = False
    deletes: bool = False


def wave(number: int, *, only: tuple[str, ...] = ()) -> list[Planned]:
    """Return the runs of one wave; with ``only``, those of some workflows."""

    def name(kind: str) -> str:
        return f"{number}-{kind}"

    letters = (("mail", "a", "worker"), ("mail", "b", "client"), ("mail", "c", "client"))
    planned = [
        Planned(name("order"), "order", (5,)),
        Planned(name("mail"), "mail", (3,), sends=letters),
        Planned(name("late-mail"), "mail", (3,), sends=letters, delay=0.15),
        Planned(name("lost-mail"), "mail", (4,), abandons=True),
        Planned(name("race"), "race", (0.1,), sends=(("answer", 1, "worker"), ("answer", 2, "client"))),
        Planned(name("saga-fail"), "saga", ("fail",)),
        Planned(name("saga-raise"), "saga", ("raise",)),
        Planned(name("saga-cancel"), "saga", ("cancel",), cancels=True),
        Planned(name("saga-expire"), "saga", ("expire",), ttl=0.3),
        Planned(name("saga-done"), "saga", ("done",)),
        Planned(name("tree"), "tree", (2,)),
        Planned(name("careful"), "careful", (4,)),
        Planned(name("drifting"), "drifting", (2,), sends=(("go", 1, "worker"),), mends=True),
        Planned(name("broken"), "broken", (3,), mends=True),
        Planned(name("scrap"), "scrap", (1,), deletes=True),
    ]  # fmt: skip
    if number % 8 == 0:
        planned.append(Planned(name("napper"), "napper", (1.05,)))
    return [item for item in planned if not only or item.workflow in only]


class Asker:
    """Carries plans out in one process, and notes what it is told."""

    def __init__(self, engine: AnyEngine, logs: Logs, *, role: str, has_client: bool) -> None:
        self._engine = engine
        self._logs = logs
        self._role = role
        self._has_client = has_client

    async def carry_out(self, planned: Planned) -> None:
        """Do what this process has to do for a run, until the run has ended."""
        if self._role == "client":
            await self._send(planned)
            return
        await self.start(planned)
        if planned.mends and planned.sends:
            await self._wait_suspended(planned.id)  # only a run that comes back meets the code that has changed
        await self._send(planned)
        if planned.cancels:
            await anyio.sleep(0.1)
            requested = await self._engine.cancel(planned.id, reason="as planned")
            self._logs.ack("cancel", planned.id, requested=requested)
        if planned.abandons:
            with contextlib.suppress(RunFinished):  # it was ended, and who asked was killed
                await self._engine.abandon(planned.id, reason="as planned")
        if planned.mends:
            await self._mend(planned)
        await self.result(planned.id)
        if planned.deletes:
            self._logs.ack("delete", planned.id)
            await self._engine.delete(planned.id)

    async def start(self, planned: Planned) -> None:
        """Start a run."""
        await self._engine.start(planned.workflow, *planned.args, id=planned.id, ttl=planned.ttl, delay=planned.delay)
        self._logs.ack("start", planned.id, workflow=planned.workflow, args=list(planned.args))

    async def _send(self, planned: Planned) -> None:
        for number, (name, payload, by) in enumerate(planned.sends):
            if self._has_client and by != self._role:
                continue
            signal_id = f"{planned.id}-{number}"
            while True:
                try:
                    await self._engine.send_signal(planned.id, name, payload, id=signal_id)
                except RunNotFound:
                    await anyio.sleep(_POLL_SECONDS)  # it is being started by the worker
                except RunFinished:
                    break
                else:
                    self._logs.ack("send", planned.id, name=name, id=signal_id, payload=payload, sender=self._role)
                    break

    async def _wait_suspended(self, run_id: str) -> None:
        """Wait until a run has left memory, or has ended."""
        run = self._engine.get(run_id)
        while True:
            record = await run.record()
            if record.status not in (RunStatus.PENDING, RunStatus.RUNNING) and record.owner is None:
                return
            await anyio.sleep(_POLL_SECONDS)

    async def _mend(self, planned: Planned) -> None:
        run = self._engine.get(planned.id)
        mended = self._logs.directory / f"mended-{planned.id}"
        while True:
            record = await run.record()
            if record.status is RunStatus.COMPLETED:
                return
            if record.problem is None and record.status is not RunStatus.FAILED:
                await anyio.sleep(_POLL_SECONDS)
                continue
            self._logs.ack("resume", planned.id)
            mended.touch()
            try:
                await self._engine.resume(planned.id)
            except RunConflict:
                continue  # it goes on already

    async def result(self, run_id: str) -> None:
        """Wait until a run has ended."""
        try:
            result = await self._engine.get(run_id).result()
        except RunCancelled:
            self._logs.ack("ended", run_id, status="cancelled", result=None)
        except (RunFailed, RunExpired):
            self._logs.ack("ended", run_id, status="failed", result=None)
        else:
            self._logs.ack("ended", run_id, status="completed", result=result)
