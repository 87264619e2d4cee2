"""The runs in memory that only wait, in the order in which they began to.

``rules.residency`` says when one leaves, and ``ResidentRun.leave_if_idle`` is how.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NoReturn

import trio

from durable_trio.doors import guarded
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.rules.residency import leave_at, leaving_count

__all__ = ["IdleRuns"]


class IdleRuns:
    """Of one executor. ``run`` is the task that looks after them.

    Args:
        resident_max: runs in memory, those that have something to do included.
        count_resident: how many there are.
    """

    def __init__(self, *, resident_max: int, count_resident: Callable[[], int]) -> None:
        self._resident_max = resident_max
        self._count_resident = count_resident
        self.since: dict[ResidentRun, float] = {}  # the one that has waited longest is the first
        self.leaving: set[ResidentRun] = set()  # told to, and not yet gone
        self._has_some = trio.Event()

    def __len__(self) -> int:
        return len(self.since) + len(self.leaving)

    def __contains__(self, resident: object) -> bool:
        return resident in self.since or resident in self.leaving

    def add(self, resident: ResidentRun) -> None:
        """A run only waits, since now or since it was added before."""
        self.leaving.discard(resident)
        self.since.setdefault(resident, trio.current_time())
        self._has_some.set()
        self.look()

    def discard(self, resident: ResidentRun) -> bool:
        """A run has something to do, or has left; return whether it only waited."""
        if self.since.pop(resident, None) is not None:
            return True
        if resident in self.leaving:
            self.leaving.remove(resident)
            return True
        return False

    async def run(self) -> NoReturn:
        """Have each leave when its time has come, until cancelled."""
        while True:
            await self._has_some.wait()
            if self.since:
                await trio.sleep_until(leave_at(next(iter(self.since.values()))))
                self.look()
            else:
                self._has_some = trio.Event()

    def look(self) -> None:
        """Have those leave that are to leave now."""
        count = leaving_count(
            self.since.values(),
            now=trio.current_time(),
            resident_count=self._count_resident() - len(self.leaving),
            resident_max=self._resident_max,
        )
        for resident in list(islice(self.since, count)):
            del self.since[resident]
            self.leaving.add(resident)
            guarded(resident.leave_if_idle)
