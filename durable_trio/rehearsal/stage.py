"""Where runs are rehearsed, some at a time, and left alone with what does not concern them.

A run is judged by what it does, not by how long that takes: others share the event loop with it. One that comes no
nearer to its end is given up after a number of *ticks*, which the loop makes; while something blocks the loop there are
none. One that only waits for something outside, as ``trio.sleep`` does, may go on after that, and others go on beside.
"""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Final

import trio

from durable_trio.engine.runs.bodies import guard_bodies
from durable_trio.engine.runs.damage import damage_of
from durable_trio.engine.runs.lending import LENDER
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.failures import is_cancelled
from durable_trio.rehearsal.judged import Judged
from durable_trio.rehearsal.judging import RehearsedRun
from durable_trio.rehearsal.keeping import Code, RehearsalKeeper
from durable_trio.rehearsal.records import Verdict
from durable_trio.rules.damage import damaged
from durable_trio.stores.unfinished_questions import Unfinished
from durable_trio.turns.quiet import watching
from durable_trio.workflows import INLINE_NAME

__all__ = ["AT_ONCE", "Stage"]

#: So many at a time are fastest: their tasks take turns, and with many each turn goes through all of them.
AT_ONCE: Final = 16
# In memory, with those that only wait for something outside.
_IN_HAND_MAX: Final = 128
_TICK_SECONDS: Final = 0.05
# Two seconds of a loop that turns.
_TICKS_MAX: Final = 40
# Where so many have been given up in the same place, the next one is given up sooner.
_GIVEN_UP: Final = 3
_TICKS_FEW: Final = 4
# A pass of the loop that takes longer says nothing of those who wait for it.
_LATE_SECONDS: Final = 2 * _TICK_SECONDS


class _Slot:
    """How a run in hand comes along."""

    def __init__(self, run: RehearsedRun) -> None:
        self.run = run
        self.progress = run.progress
        self.ticks = 0
        self.ticks_leaving = 0
        self.is_waiting = False  # for something outside: it takes no place


class Stage:
    """Rehearses runs.

    Args:
        told: gets each verdict; ``None`` about a script, which has no body to rehearse.
        at_once: how many runs go on at the same time.
    """

    def __init__(
        self, code: Code, told: Callable[[Unfinished, Judged | None], None], *, at_once: int = AT_ONCE
    ) -> None:
        self._code = code
        self._told = told
        self._at_once = at_once
        self._keeper = RehearsalKeeper(code, self)
        self._slots: dict[ResidentRun, _Slot] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._given_up: Counter[str] = Counter()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Have runs rehearsed inside the block; at its end those in hand leave."""
        begun, stop = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, begun, stop)
            try:
                await begun.wait()
                yield
            finally:
                stop.set()

    async def rehearse(self, found: Unfinished) -> None:
        """Have a run rehearsed once there is a place for it; ``told`` gets its verdict.

        *Cancellation:* before it has begun.
        """
        while self._is_full:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        row, name = found.row, found.row.workflow
        if name == INLINE_NAME:  # its body is a script
            self._told(found, None)
            return
        registry = self._code.registry
        workflow = registry.at((name, row.version))
        if workflow is None:
            is_other = registry.get(name) is not None
            which = f"version {row.version} of workflow {name!r}" if is_other else f"workflow {name!r}"
            text = f"this code has no {which}: its runs would wait for code that knows it"
            cause = f"no version {row.version}" if is_other else "no such workflow"
            self._told(found, Judged.of(found, Verdict.UNKNOWN, cause, text))
            return
        if (damage := damage_of(row, found.loaded)) is not None:
            problem = damaged(row.id, damage)
            self._told(found, Judged.of(found, Verdict.DOES_NOT_FIT, problem.kind, problem.text))
            return
        run = RehearsedRun(self._keeper, found, workflow, self._code.failures_of(workflow))
        self._slots[run] = _Slot(run)
        nursery = self._nursery
        assert nursery is not None
        context = contextvars.Context()  # of its own, as it is for a run
        context.run(LENDER.set, nullcontext)
        context.run(partial(nursery.start_soon, run.run, name=f"rehearsal of run {row.id}"))

    async def settle(self) -> None:
        """Wait until all runs in hand are judged."""
        while self._slots:
            await self._changed.wait()

    @property
    def _is_full(self) -> bool:
        slots = self._slots.values()
        return len(slots) >= _IN_HAND_MAX or sum(not slot.is_waiting for slot in slots) >= self._at_once

    # ---- the tasks ---------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def _keep(self, begun: trio.Event, stop: trio.Event) -> None:
        """Have the nursery of the runs until ``stop``. Shielded: a run is detached before it is cancelled."""
        guard_bodies()
        with trio.CancelScope(shield=True), watching():
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._tick)
                    begun.set()
                    try:
                        await stop.wait()
                    finally:
                        self._detach()
                    nursery.cancel_scope.cancel()
            finally:
                self._nursery = None
                self._detach()

    def _detach(self) -> None:
        for run in list(self._slots):
            run.detach()

    async def _tick(self) -> None:
        while True:
            before = trio.current_time()
            await trio.sleep(_TICK_SECONDS)
            if trio.current_time() - before <= _LATE_SECONDS:
                for slot in list(self._slots.values()):
                    self._look(slot)

    def _look(self, slot: _Slot) -> None:
        run = slot.run
        if run.verdict is not None:  # it is leaving; who does not is not waited for, but at the end
            slot.ticks_leaving += 1
            if slot.ticks_leaving > _TICKS_MAX:
                self.has_left(run)
            return
        progress = run.progress
        if progress != slot.progress:
            slot.progress, slot.ticks, slot.is_waiting = progress, 0, False
            return
        slot.ticks += 1
        where = run.waits_outside
        if where is not None and not slot.is_waiting:
            slot.is_waiting = True
            self._notify()
        patience = _TICKS_FEW if where is not None and self._given_up[where] >= _GIVEN_UP else _TICKS_MAX
        if slot.ticks > patience:
            if where is not None:
                self._given_up[where] += 1
            run.stalled()

    # ---- what the keeper tells ---------------------------------------------------------------------------------

    def raised(self, resident: ResidentRun, cause: str, text: str) -> None:
        self._slots[resident].run.note(Verdict.RAISES, cause, text)

    def has_left(self, resident: ResidentRun) -> None:
        slot = self._slots.pop(resident, None)
        if slot is None:
            return
        self._notify()
        run = slot.run
        if run.verdict is not None:
            self._told(run.found, run.verdict)
        elif self._nursery is not None and not is_cancelled():
            text = "the run has left without a verdict: a fault of this library, please report it"
            self._told(run.found, Judged.of(run.found, Verdict.RAISES, "internal error", text))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
