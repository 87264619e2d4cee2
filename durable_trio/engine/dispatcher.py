"""The dispatcher service: claims runs that are due while there is room for them.

Level-triggered: whenever it is nudged it asks the store what is due; a nudge carries no data, so none can be stale.
"""

from __future__ import annotations

import contextlib
import math
from typing import NoReturn

import trio

from durable_trio.clock import Clock
from durable_trio.engine.runs import Runs, load_all
from durable_trio.engine.timers import Timers
from durable_trio.errors import OwnershipLost, StoreFull, StoreInUse
from durable_trio.limits import CLAIM_RUNS_MAX
from durable_trio.stores.base import ClaimDue
from durable_trio.stores.front import StoreFront

_RETRY_SECONDS = 0.5


class Dispatcher:
    """Claims due runs for one executor."""

    def __init__(
        self, *, front: StoreFront, runs: Runs, timers: Timers, clock: Clock, workflows: tuple[str, ...]
    ) -> None:
        self.executor = 0
        self._front = front
        self._runs = runs
        self._timers = timers
        self._clock = clock
        self._workflows = workflows
        self._alarm_at = math.inf
        # One nudge waits at most: the next look sees all there is.
        self._send, self._inbox = trio.open_memory_channel[None](1)

    def nudge(self) -> None:
        """Look what is due."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(None)

    def nudge_at(self, due_at: int | None) -> None:
        """Look at that time; ``None`` means now."""
        if due_at is None:
            self.nudge()
        elif due_at < self._alarm_at or self._alarm_at <= self._clock.now():
            self._alarm_at = due_at
            self._timers.call_at(due_at, self.nudge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        task_status.started()
        while True:
            try:
                await self._claim_all()
            except OwnershipLost:
                self._runs.on_refused()
            except (StoreFull, StoreInUse):
                await trio.sleep(_RETRY_SECONDS)
                continue
            await self._inbox.receive()

    async def _claim_all(self) -> None:
        front, runs = self._front, self._runs
        while runs.free_count and self._workflows:
            due_at = await front.read(front.store.next_due, self._workflows)
            if due_at is None:
                return
            now = self._clock.now()
            if due_at > now:
                self.nudge_at(due_at)
                return
            limit = min(CLAIM_RUNS_MAX, runs.free_count)
            if limit == 0 or not runs.reserve(limit):
                return
            try:
                with trio.CancelScope(shield=True):  # what is claimed must be started
                    claim = ClaimDue(owner=self.executor, workflows=self._workflows, now=now, limit=limit)
                    rows = await front.write(claim)
                    loaded = await front.read(load_all, front, rows) if rows else []
                    for row, one in zip(rows, loaded, strict=True):
                        runs.start(row, one)
            finally:
                runs.unreserve(limit)
