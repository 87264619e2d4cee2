"""The recovery service: this executor's registration and lease, and the reaping of dead executors.

An executor is dead if its process has ended, which the store can tell of some, or if it was seen not to renew for as
long as its lease: it is stopped, hangs, or cannot reach the store (``rules.liveness``). One that renews before it is
reaped is spared. Reaping sets its runs free in one transaction; the dispatcher then claims them as any other due run.
An executor that finds itself declared dead gives up all its runs, which the store would not let it write to anyhow, and
registers anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import attrs
import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.services.deaths import Deaths
from durable_trio.engine.services.service import Service
from durable_trio.errors import PASSING
from durable_trio.logger import Logger
from durable_trio.processes import monotonic_now
from durable_trio.rows import ExecutorRow
from durable_trio.rules.liveness import RENEWALS_OF_A_LEASE, Liveness, Silence, judge, watched
from durable_trio.stores.code_questions import CountParked, ListCodes
from durable_trio.stores.contract import ReapExecutor, RegisterExecutor, RenewLease
from durable_trio.stores.questions import ListExecutors, ListUntold
from durable_trio.stores.step_slots import of_this_process
from durable_trio.stores.writer import Writer

_LOGGER = Logger("durable_trio.processes")
# How often the others are looked at.
_LOOK_SECONDS = 0.25


class Reaper:
    """Finds executors that are dead, and sets their runs free."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        #: Living executors at the last look, this one not among them.
        self.others_count = 0
        self._writer = writer
        self._clock = clock
        self._silences: dict[int, Silence] = {}
        self._looked_at: int | None = None  # by a clock that nobody sets; ``None`` if that look was not answered
        self._deaths = Deaths(writer)

    async def reap_dead(self, own: int | None = None) -> bool:
        """Look at every executor but ``own``; return whether runs may be free."""
        await self._deaths.look()
        has_reaped = False
        others_count = 0
        for row, liveness in await self._look(own):
            if liveness is Liveness.LIVES:
                others_count += 1
                continue
            # One that is silent may still tell it itself. What others must not write over yet is read before.
            is_silent = liveness is Liveness.SILENT
            untold = () if is_silent else await self._writer.ask_patiently(ListUntold(row.id))
            death = self._deaths.of(row, untold, is_silent=is_silent)
            parked_before = await self._writer.ask_patiently(CountParked())
            renewals = row.renewals if row.damage is None else None
            reap = ReapExecutor(executor=row.id, death=death, renewals=renewals, now=self._clock.stamp())
            count = await self._writer.write(reap)
            self._deaths.look_again()
            # Also where another has reaped it a moment ago.
            has_reaped = has_reaped or count is not None or not is_silent
            if count is not None:  # else whoever has done it has said so
                await self._deaths.tell(attrs.evolve(death, runs=count), parked_before)
        self.others_count = others_count
        return has_reaped

    async def _look(self, own: int | None) -> list[tuple[ExecutorRow, Liveness]]:
        """Return the executors but ``own``, and what each is taken for."""
        looked_at, self._looked_at = self._looked_at, None
        now = monotonic_now()
        rows = [row for row in await self._writer.ask_patiently(ListExecutors()) if row.id != own]
        self._looked_at = monotonic_now()  # not before: what the answer has taken is no time in which it was seen
        passed = 0 if looked_at is None else now - looked_at
        self._silences = {
            row.id: watched(
                self._silences.get(row.id), row.renewals, passed=passed, lease=row.lease, is_locked=row.is_locked
            )
            for row in rows
            if row.damage is None
        }
        doubt = int(self._writer.store.doubt_seconds * MICROSECONDS)
        return [(row, judge(row.is_locked, self._silences.get(row.id), lease=row.lease, doubt=doubt)) for row in rows]


class Recovery(Service):
    """Keeps this executor alive in the store's eyes, and finds those that are not.

    Args:
        runs_are_free: told that runs of executors that are no more, this one's former self among them, can be claimed.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        runs: Runs,
        clock: Clock,
        lease_seconds: float,
        runs_are_free: Callable[[], None],
    ) -> None:
        #: The id of this executor; 0 before it is registered for the first time.
        self.executor = 0
        self._runs_are_free = runs_are_free
        self._writer = writer
        self._runs = runs
        self._clock = clock
        self._lease = int(lease_seconds * MICROSECONDS)
        self.reaper = Reaper(writer, clock)
        #: Whether what is claimed under the present id stays claimed.
        self.is_registered = False
        self._is_hindered = False  # the lease was due, and could not be renewed
        self._renew_at = 0
        self._renewed_at = 0
        self._has_renewed = trio.Event()
        self._goes_on = trio.Event()
        self._goes_on.set()
        self._has_rested = False
        self._send, self._inbox = trio.open_memory_channel[None](1)

    async def wait_renewed(self) -> None:
        """Return once this executor has renewed its lease, or has become another one because it could not."""
        await self._has_renewed.wait()

    def forget(self) -> None:
        """What this executor owned is executed no more: it is to become another one."""
        self.is_registered = False

    def nudge(self) -> None:
        """A write was refused: look at once whether this executor was declared dead."""
        self._renew_at = 0
        self._has_renewed = trio.Event()
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(None)

    async def register(self) -> None:
        """Become an executor; what this process owned as another one is free."""
        self.is_registered = False
        if self.executor:
            await self._writer.write(ReapExecutor(executor=self.executor, now=self._clock.stamp()))
        store, served = self._writer.store, self._runs.served
        codes = await trio.to_thread.run_sync(served.read) if store.may_block else served.read()
        now = monotonic_now()
        self.executor = await self._writer.write(
            RegisterExecutor(
                pid=os.getpid(),
                host=socket.gethostname(),
                lease=self._lease,
                codes=codes,
                now=self._clock.stamp(),
            )
        )
        served.are_known_as(await self._writer.ask(ListCodes(self.executor)))
        self._renewed(now)
        note_steps = partial(store.note_steps, self.executor)
        slots = await trio.to_thread.run_sync(note_steps) if store.may_block else note_steps()
        if slots is None:  # then at least this process knows
            slots = of_this_process(self.executor)
        slots.thread = threading.get_native_id()
        self._runs.tellings.slots = slots
        self._runs_are_free()
        self.is_registered = True

    async def retire(self, crashed_runs: frozenset[int]) -> None:
        """Stop being an executor in good order: what it owns is free at once, and nothing else has crashed."""
        now = self._clock.stamp()
        reap = ReapExecutor(executor=self.executor, crashed=False, crashed_runs=crashed_runs, now=now)
        await self._writer.write(reap)

    def rest(self) -> None:
        """Renew nothing, and become nobody, until ``go_on``. What this executor owns is to be set free (``retire``)."""
        if self._goes_on.is_set():
            self._goes_on = trio.Event()
            self._has_rested, self.is_registered = True, False

    def go_on(self) -> None:
        """Become an executor again, as soon as the store can be written. Twice is nothing."""
        self._goes_on.set()
        if not self.is_registered:
            self.nudge()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        await self._reap_dead()  # first: where one has noted what it was at may be given to the next that comes
        if not self.is_registered and self._goes_on.is_set():
            await self.register()
        task_status.started()
        while True:
            await self._goes_on.wait()
            if not self._writer.store.is_shared:
                await self._inbox.receive()  # nobody else can own anything
            else:
                with trio.move_on_after(_LOOK_SECONDS):
                    await self._inbox.receive()
            try:
                await self._renew()
                if self.is_registered:
                    self._has_renewed.set()
                await self._reap_dead()
                self._is_hindered = False
            except PASSING as error:
                if not self._is_hindered:  # it is tried again several times a second
                    self._is_hindered = True
                    extra = {"event": "lease_not_renewed"}
                    _LOGGER.warning("the lease could not be renewed yet: %s", error, extra=extra)

    async def _renew(self) -> None:
        now = monotonic_now()
        if now < self._renew_at or not self._goes_on.is_set():
            return
        if self._has_rested:
            await self.retire(frozenset())  # it may not have been, and nothing has crashed
            await self.register()
            self._has_rested = False
            return
        is_alive = await self._writer.write(RenewLease(executor=self.executor))
        if self._has_rested:  # since meanwhile
            return
        if is_alive and self.is_registered:
            self._renewed(now)
            return
        if not is_alive:
            _LOGGER.warning(
                "executor %d was declared dead (stopped for longer than its lease?); its runs are given up",
                self.executor,
            )
        self._runs.detach_now()  # not waited for: a step function in a thread may take its time
        await self.register()

    def _renewed(self, now: int) -> None:
        self._renewed_at = now
        self._renew_at = now + self._lease // RENEWALS_OF_A_LEASE

    def store_is_away(self) -> None:
        """The store cannot be reached. After a lease others take over what this executor has: so it lets go of it."""
        if not self.is_registered or monotonic_now() - self._renewed_at < self._lease:
            return
        self.is_registered = False  # until it is another one
        _LOGGER.warning(
            "executor %d could not renew its lease for %.0f s, for the store is away; its runs are given up, and go on "
            "where the store can be reached",
            self.executor,
            (monotonic_now() - self._renewed_at) / MICROSECONDS,
            extra={"event": "runs_given_up", "executor": self.executor},
        )
        self._runs.detach_now()

    def renew_meanwhile(self) -> Exception | None:
        """Renew the lease from another thread, while the loop is blocked; return why that has failed, if it has.

        Never raises, and waits for nobody; also for no handler of log lines: one may be what blocks the loop.
        """
        store, now = self._writer.store, monotonic_now()
        is_overdue = now >= self._renew_at + self._lease // 6
        is_usable = self._writer.failure is None and not self._writer.is_away
        if not (store.is_shared and self.is_registered and is_usable and is_overdue):
            return None
        try:
            renewed = store.renew_meanwhile(self.executor)
        except Exception as error:  # the loop will meet it too
            return error
        if renewed:
            self._renewed(now)
        return None

    async def _reap_dead(self) -> None:
        if await self.reaper.reap_dead(self.executor):
            self._runs_are_free()
