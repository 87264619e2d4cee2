"""Who is told what by whom: the one place where services that need each other are wired.

What each open engine has are its ``Services``: the writer, the feed and the reports. One that executes runs has an
``Executor`` besides. Which of them run as tasks, and under whom, says ``tree``.

What an object needs, its constructor demands: what is not wired does not start. By nature some of them need each other
(the runs tell the dispatcher of free places, and the dispatcher starts runs), and one must be made first. It is given a
method of ``Services`` or ``Executor``, which finds the other one when it is called: here, and nowhere else. Such a
method is a door (see ``doors``): a fault of whoever is told is their own, and does not disturb who tells.

A service is an object that outlives the task that serves it: when a service crashes, its successor finds the heap of
alarms, the watchers and the last change where they were, and looks at the store for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NoReturn

import attrs
import trio

from durable_trio.codec import Codec
from durable_trio.doors import guarded
from durable_trio.engine.failures_of import FailuresOf
from durable_trio.engine.observers import Observers
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.served import ServedCodes
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.feed import Feed
from durable_trio.engine.services.janitor import Janitor
from durable_trio.engine.services.recovery import Recovery
from durable_trio.engine.services.reports import Reports
from durable_trio.engine.services.timers import Timers
from durable_trio.engine.settings import Settings
from durable_trio.errors import DurableError, StoreAway, StoreError
from durable_trio.limits import CLOCK_READ_SECONDS
from durable_trio.records import StepInHand
from durable_trio.rehearsal.keeping import Code
from durable_trio.rehearsal.preview import Preview
from durable_trio.rows import RunEnd, RunRow
from durable_trio.stores.code_questions import ListCodes
from durable_trio.stores.contract import Sent, Started, StartRun, Store
from durable_trio.stores.outage import Outage
from durable_trio.stores.questions import ListExecutors, OpenSteps
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Registry
from supervisors import Supervisor
from supervisors.groups import part, sole


@attrs.frozen(kw_only=True)
class Given:
    """What the services of an engine are made with."""

    settings: Settings
    registry: Registry
    codec: Codec
    observers: Observers
    failures_of: FailuresOf
    # The facade: what functions of steps are given.
    engine: object

    def code(self, writer: Writer, served: ServedCodes) -> Code:
        """Return what runs are rehearsed with, and where they are read."""
        return Code(
            writer=writer,
            settings=self.settings,
            codec=self.codec,
            registry=self.registry,
            failures_of=self.failures_of,
            served=served,
        )


class Services:
    """What each open engine has; and its executor, if it executes runs."""

    def __init__(self, store: Store, given: Given, *, executes: bool) -> None:
        self.settings = given.settings
        self.codec = given.codec
        self.writer = Writer(
            store,
            failed=self._writer_has_failed,
            still_away=self._store_is_away,
            committed_untold=self._committed_untold,
            away_seconds_max=given.settings.away_seconds_max,
        )
        # The runs in memory, by their ids.
        self.residents: dict[str, ResidentRun] = {}
        self.feed = Feed(
            self.writer,
            residents=self.residents,
            message_came=self._message_came,
            others_committed=self.look_for_due,
            mail_was_lost=self._mail_was_lost,
        )
        self.executor = None
        if executes:
            self.executor = Executor(
                given, writer=self.writer, feed=self.feed, residents=self.residents, read_clock=self._read_clock_again
            )
        #: Told of each message that was put into a mailbox here; see ``Runs.sent``.
        self.sent = self._client_sent if self.executor is None else self.executor.runs.sent
        self.reports = Reports(
            self.writer,
            given.settings.clock,
            given.registry.names,
            executor=self._executor_id,
            lingering=self._lingering,
            open_steps=self._open_steps,
            is_draining=self._is_draining,
            concurrency=given.settings.concurrency if executes else None,
        )
        # Why this process cannot go on, once that is so, such as the store's final error.
        self.failure: Exception | None = None
        self._root: Supervisor | None = None
        self._store_has_run = False

    # ---- what the services tell each other ---------------------------------------------------------------------

    def _writer_has_failed(self) -> None:
        if self.executor is not None:
            guarded(self.executor.runs.detach_now)

    def _store_is_away(self) -> None:
        if self.executor is not None:
            guarded(self.executor.recovery.store_is_away)

    def _committed_untold(self, _: object) -> None:
        """Something was committed here, and whoever wanted it has gone: look at all that it may concern."""
        self._mail_was_lost()
        if self.executor is not None:
            guarded(self.executor.dispatcher.look_for_lost)
        guarded(self.feed.recheck)
        guarded(self.feed.recheck_removed)

    def _message_came(self, sent: Sent) -> None:
        if self.executor is not None:
            guarded(self.executor.runs.post, sent.entry.run, sent)

    def _mail_was_lost(self) -> None:
        if self.executor is not None:
            guarded(self.executor.runs.look_at_all)

    def _executor_id(self) -> int | None:
        return None if self.executor is None else self.executor.id

    def _lingering(self) -> tuple[StepInHand, ...]:
        return () if self.executor is None else self.executor.runs.lingering()

    def _open_steps(self) -> OpenSteps:
        return OpenSteps(()) if self.executor is None else self.executor.runs.tellings.open_steps()

    def _is_draining(self) -> bool:
        return self.executor is not None and self.executor.runs.is_draining

    # ---- what the client asks ----------------------------------------------------------------------------------

    @property
    def resident_rows(self) -> tuple[RunRow, ...]:
        """The runs that are in memory, as they were when they were claimed."""
        return () if self.executor is None else self.executor.runs.resident_rows()

    def _client_sent(self, sent: Sent) -> None:
        if sent.owner is None:
            guarded(self.feed.recheck)

    def message_for(self, run: int) -> None:
        """A message is in the mailbox of a run, which may be here; or due now, if nobody has it."""
        if self.executor is not None:
            self.executor.runs.post(run)
            guarded(self.executor.dispatcher.nudge)

    def look_for_due(self) -> None:
        """A run may be due now: have the executor look, if this engine has one."""
        if self.executor is not None:
            guarded(self.executor.dispatcher.nudge)

    # ---- the tree ----------------------------------------------------------------------------------------------

    def opened(self, root: Supervisor) -> None:
        """This tree runs these services from now on."""
        self._root = root
        self.reports.opened(root)
        if self.failure is not None:  # since before there was a tree to end
            root.stop()

    def closed(self) -> None:
        """No tree runs these services any more."""
        self._root = None

    def give_up(self, error: Exception) -> None:
        """End the tree: nothing that could be restarted would mend this."""
        self.failure = self.failure or error
        if self._root is not None:
            self._root.stop()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run_store(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve as the store child until cancelled: the store's writer, on a store that is opened anew each time.

        An error of the store (I/O error, damage, a commit in doubt) is final in this process, and ends the tree. What
        else may come out is a fault of ours, after which the store is as it was: this child is restarted, and all that
        depends on it.

        Raises:
            StoreError: the store went away as soon as it was open, and stays so. Whoever opens the engine is told.
        """
        is_first, self._store_has_run = not self._store_has_run, True
        if is_first:
            await self._begin_clock(self.settings.away_seconds_max)
        try:
            if not is_first:
                await self._reopen()
                await self._begin_clock(math.inf)
            await self._write(task_status)
        except StoreError as error:
            self.give_up(error)
            await trio.sleep_forever()

    async def _write(self, task_status: trio.TaskStatus[None]) -> None:
        """Run the writer in a task of its own: each frame around its wait would be gone through at each commit."""
        try:
            async with trio.open_nursery() as nursery:
                if self.writer.store.has_clock:
                    nursery.start_soon(self._keep_time)
                task_status.started(await nursery.start(self.writer.run))
            return
        except BaseExceptionGroup as group:
            final = part(group, StoreError)
            error = sole(group if final is None else final)
        raise error  # out here, so that it keeps its own context

    async def _begin_clock(self, away_seconds_max: float) -> None:
        if self.writer.store.has_clock:
            await _until_reached(self._read_clock, away_seconds_max)

    async def _read_clock(self) -> None:
        store, clock = self.writer.store, self.settings.clock

        def read() -> tuple[int, tuple[int, int]]:
            before = clock.monotonic_ns()
            return store.read_clock(), (before, clock.monotonic_ns())

        instant, between = await trio.to_thread.run_sync(read)
        clock.follow(instant, between=between)

    async def _keep_time(self) -> NoReturn:
        """Have this engine's clock go after the store's."""
        while True:
            await trio.sleep(CLOCK_READ_SECONDS)
            await self._read_clock_again()

    async def _read_clock_again(self) -> None:
        """Have this engine's clock go after the store's, if that has one."""
        if self.writer.store.has_clock:
            with suppress(StoreAway):  # the one that was read before still goes
                await self._read_clock()
            if self.executor is not None:
                self.executor.timers.look()

    async def _reopen(self) -> None:
        store = self.writer.store
        if not store.is_shared:  # closing it would forget everything
            await trio.lowlevel.checkpoint()
            return

        def reopen() -> None:
            store.close()
            store.open()

        await _until_reached(partial(trio.to_thread.run_sync, reopen))


async def _until_reached(fn: Callable[[], Awaitable[object]], seconds_max: float = math.inf) -> None:
    """Call what needs the store, until that is not away.

    Raises:
        StoreAway: it has been so for so long.
    """
    outage = Outage(trio.current_time())
    while True:
        try:
            await fn()
            return
        except StoreAway:
            if outage.is_over_patience(trio.current_time(), seconds_max):
                raise
            await trio.sleep(outage.next_pause())


class Executor:
    """What an engine has that executes runs: the resident ones, and the services that find and keep them."""

    def __init__(
        self,
        given: Given,
        *,
        writer: Writer,
        feed: Feed,
        residents: dict[str, ResidentRun],
        read_clock: Callable[[], Awaitable[None]],
    ) -> None:
        clock = given.settings.clock
        self.writer = writer
        self.feed = feed
        self.registry = given.registry
        self.clock = clock
        self._read_clock = read_clock
        self._lease_seconds = given.settings.lease_seconds
        self.timers = Timers(clock, clock_was_set=self._clock_was_set, woke_up=self._woke_up)
        self.runs = Runs(
            writer=writer,
            settings=given.settings,
            codec=given.codec,
            registry=given.registry,
            observers=given.observers,
            failures_of=given.failures_of,
            engine=given.engine,
            call_at=self.timers.call_at,
            wake_at=self.timers.wake_at,
            residents=residents,
            place_is_free=self._place_is_free,
            run_is_due=self.run_is_due,
            run_has_left=self._run_has_left,
            unowned_got_message=self._unowned_got_message,
            write_was_refused=self._write_was_refused,
        )
        self.recovery = Recovery(
            writer=writer,
            runs=self.runs,
            clock=clock,
            lease_seconds=given.settings.lease_seconds,
            runs_are_free=self._runs_are_free,
        )
        self.dispatcher = Dispatcher(
            writer=writer,
            runs=self.runs,
            recovery=self.recovery,
            timers=self.timers,
            clock=clock,
            registry=given.registry,
        )
        code = given.code(writer, self.runs.served)
        self.janitor = Janitor(writer, clock, look_ahead=Preview(code, self._new_codes).tell)

    @property
    def id(self) -> int | None:
        """Its id in the store; ``None`` before it is registered."""
        return self.recovery.executor or None

    # ---- what the services tell each other ---------------------------------------------------------------------

    def _clock_was_set(self) -> None:
        guarded(self.runs.clock_was_set)

    async def _woke_up(self, seconds: float) -> None:
        """The machine has slept. If it was for longer than a lease, others may own the runs that are here."""
        await self._read_clock()
        self.recovery.nudge()
        if seconds >= self._lease_seconds:
            with trio.move_on_after(self._lease_seconds):  # no longer: the store may be away
                await self.recovery.wait_renewed()
        guarded(self.runs.look_at_all)
        guarded(self.dispatcher.nudge)

    def _place_is_free(self) -> None:
        guarded(self.dispatcher.place_is_free)

    def run_is_due(self, due_at: int | None) -> None:
        """A run is due when the clock says so; ``None`` means now."""
        guarded(self.dispatcher.nudge_at, due_at)

    def _runs_are_free(self) -> None:
        guarded(self.dispatcher.nudge)

    def _write_was_refused(self) -> None:
        guarded(self.recovery.nudge)

    def _run_has_left(self, run_id: str, end: RunEnd | None) -> None:
        guarded(self.feed.left, run_id, end)

    async def _new_codes(self) -> Mapping[str, int]:
        """Return the workflows whose code this executor is the first to have, and since when it has that."""
        own = self.recovery.executor
        began_at = [row.started_at for row in await self.writer.ask_patiently(ListExecutors()) if row.id == own]
        codes = await self.writer.ask_patiently(ListCodes(own))
        return {code.workflow: code.first_seen_at for code in codes if began_at and code.first_seen_at >= began_at[0]}

    def _unowned_got_message(self) -> None:
        guarded(self.feed.recheck)
        guarded(self.dispatcher.nudge)

    # ---- starting ----------------------------------------------------------------------------------------------

    # Ctrl-C must not come between the commit and the start of what was claimed with it: nobody else would have it.
    @trio.lowlevel.enable_ki_protection
    async def start(self, operation: StartRun) -> bool:
        """Store a run; where this executor has room for it, store and claim it in one transaction.

        Returns:
            Whether the run is new; if so, nothing was waited for since its commit.
        """
        is_due = operation.due_at <= operation.created_at
        # Not while the store has just come back, and not past others that are due and wait for a place. With other
        # executors on the store, only while nothing else here has something to do.
        may_keep = self.recovery.is_registered and not self.dispatcher.due_count and not self.writer.kept.is_full
        may_keep = may_keep and (self.recovery.reaper.others_count == 0 or self.runs.busy_count == 0)
        is_ours = is_due and self.registry.at((operation.workflow, operation.version)) is not None
        if not (is_ours and may_keep and self.runs.reserve()):
            started: Started = await self.writer.write(operation)
            if started.created:
                wake_at = None if is_due else started.row.wake_at  # the ttl may be over before
                self.run_is_due(None if wake_at is None else self.clock.comes_at(self.clock.due(wake_at)))
            return started.created
        has_kept = False
        try:
            # The wait for the commit is not abandoned, so what is claimed is started.
            operation.owner = self.recovery.executor
            started = await self.writer.write(operation)
            has_kept = started.created and started.claimed
            if has_kept:
                self.runs.start(started.row)
        except Exception as error:
            if not isinstance(error, DurableError | trio.ClosedResourceError):
                self.dispatcher.failed(error)  # it looks for what was claimed and did not get here
            raise
        finally:
            self.runs.unreserve()
            if not has_kept:  # a run that is due may have found no place, because this one was kept for nothing
                guarded(self.dispatcher.nudge)
        return started.created

    # ---- the runs as a child -----------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run_runs(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve as the runs child until cancelled.

        Whoever was resident before has left, and still belongs to this executor: the services, which start after this
        child, take the runs over under the next executor id.
        """
        self.recovery.forget()
        await self.runs.run(task_status=task_status)
