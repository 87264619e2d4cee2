"""Waiting for the end of a run; and a warning if nobody is there who would execute it.

To start a run and to wait for it needs nobody who serves, so a server that was forgotten shows nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import trio

from durable_trio.engine.versions import living_executors, served_by
from durable_trio.engine.wiring import Services
from durable_trio.errors import StoreAway
from durable_trio.logger import Logger
from durable_trio.rows import NO_VERSION, ExecutorRow, RunEnd, RunRow
from durable_trio.stores.questions import FindRun
from durable_trio.workflows import Registry

__all__ = ["Waiting"]

_LOGGER: Final = Logger("durable_trio.processes")
# A server that was started along with who waits is there by then.
_PATIENCE_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 60.0


class Waiting:
    """Waits for ends of runs, for one engine; warns once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        # On trio's clock; so many may wait that not each of them is to look.
        self._looks_at = -math.inf

    async def wait_ended(self, services: Services, run_id: str, *, is_new: bool = False) -> RunEnd:
        """Return how a run has ended, once it has; see ``Feed.wait_ended``."""
        feed = services.feed
        if trio.current_time() < self._looks_at or not services.writer.store.is_shared or not _is_real_time():
            return await feed.wait_ended(run_id, is_new=is_new)
        waits = trio.Event()
        with trio.move_on_after(_PATIENCE_SECONDS):
            return await feed.wait_ended(run_id, is_new=is_new, waits=waits)
        if not waits.is_set():  # whether there is such a run is still asked: the store is slow, or away
            return await feed.wait_ended(run_id, is_new=is_new)
        with suppress(StoreAway):  # only a warning is not given then
            await self._look(services, run_id)
        return await feed.wait_ended(run_id, has_waited=True)

    async def _look(self, services: Services, run_id: str) -> None:
        """Say it if nobody will execute the run, as far as is known."""
        if trio.current_time() < self._looks_at:
            return
        self._looks_at = trio.current_time() + _LOOK_SECONDS
        row = await services.writer.ask(FindRun(run_id))
        if row is None or row.status.is_final or row.workflow.startswith("("):  # an inline run, whose block is entered
            return
        if not (living := await living_executors(services)):
            self._warn(row, "nobody serves its database: do it with `durable-trio serve module:engine`")
        elif not await self._is_known(services, row, living):
            which = f" in version {row.version}" if row.version > 0 else ""
            who = f"nobody who serves its database knows that workflow{which}"
            self._warn(row, f"{who}. Give it to the engine that serves")

    async def _is_known(self, services: Services, row: RunRow, living: Iterable[ExecutorRow]) -> bool:
        if services.executor is not None and self._registry.at((row.workflow, row.version)) is not None:
            return True
        served = [code for codes in (await served_by(services, living)).values() for code in codes]
        return any(code.workflow == row.workflow and row.version in (code.version, NO_VERSION) for code in served)

    def _warn(self, row: RunRow, why: str) -> None:
        self._looks_at = math.inf
        extra = {"event": "nobody_serves", "run_id": row.id, "workflow": row.workflow}
        _LOGGER.warning("run %r of workflow %r is waited for, but %s", row.id, row.workflow, why, extra=extra)


def _is_real_time() -> bool:
    """Whether seconds take their time; a test with trio's mock clock has no patience that could be measured."""
    return type(trio.lowlevel.current_clock()).__name__ == "SystemClock"  # trio does not export it
