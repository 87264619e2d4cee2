"""The parts of one engine in one process, wired to each other. Which of them run, and under whom, says ``tree``.

A part is an object that outlives the task that serves it: when a service crashes, its successor finds the heap of
alarms, the watchers and the last change where they were, and looks at the store for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from durable_trio.codec import Codec
from durable_trio.doors import guarded
from durable_trio.engine.observers import Observers
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.feed import Feed
from durable_trio.engine.services.recovery import Recovery
from durable_trio.engine.services.reports import Reports
from durable_trio.engine.services.timers import Timers
from durable_trio.engine.settings import Settings
from durable_trio.errors import DurableError, StoreError
from durable_trio.stores.contract import Sent, Started, StartRun, Store
from durable_trio.stores.writer import StoreFront
from durable_trio.workflows import Registry


class Parts:
    """Front, runs and services of one engine."""

    def __init__(
        self, store: Store, *, settings: Settings, registry: Registry, codec: Codec, observers: Observers
    ) -> None:
        self.settings = settings
        self.codec = codec
        self.registry = registry
        self.front = StoreFront(store)
        self.timers = Timers(settings.clock)
        self.feed = Feed(self.front)
        self.runs = Runs(
            front=self.front,
            settings=settings,
            codec=codec,
            registry=registry,
            observers=observers,
            timers=self.timers,
        )
        self.recovery = Recovery(
            front=self.front, runs=self.runs, clock=settings.clock, lease_seconds=settings.lease_seconds
        )
        self.dispatcher = Dispatcher(
            front=self.front, runs=self.runs, timers=self.timers, clock=settings.clock, registry=registry
        )
        self.reports = Reports(self.front, codec, settings.clock, registry.names)
        self.reports.executor = lambda: self.executor
        self.reports.lingering = self.runs.lingering
        self.executor: int | None = None
        # Why this process cannot go on, once that is so, such as the store's final error.
        self.failure: Exception | None = None
        # Set by the tree: ends it.
        self.on_failure: Callable[[], None] = lambda: None
        self._store_has_run = False

    def become_executor(self) -> None:
        """Wire what only an engine that executes runs needs."""
        self.front.on_failure = self.runs.detach_now
        self.runs.on_place = self.dispatcher.place
        self.runs.on_due = self.dispatcher.nudge_at
        self.runs.on_ended = self.feed.ended
        self.runs.on_sent = self.sent
        self.runs.on_refused = self.recovery.nudge
        self.dispatcher.others_count = lambda: self.recovery.others_count
        self.timers.on_step = self.runs.clock_was_set
        self.recovery.on_registered = self._registered
        self.recovery.on_reaped = self.dispatcher.nudge
        self.feed.on_mail = self.runs.mail
        self.feed.on_foreign = self.dispatcher.nudge

    def _registered(self, executor: int) -> None:
        self.executor = executor
        self.dispatcher.executor = executor
        guarded(self.dispatcher.nudge)

    # ---- what the facade asks ----------------------------------------------------------------------------------

    async def start(self, operation: StartRun) -> bool:
        """Store a run; where this executor has room for it, store and claim it in one transaction.

        Returns:
            Whether the run is new; if so, nothing was waited for since its commit.
        """
        is_due = operation.due_at <= operation.created_at
        executor = self.executor
        # Not while the store has just come back, and not past others that are due and wait for a place.
        can_keep = executor is not None and self.recovery.is_registered and not self.dispatcher.has_backlog
        is_ours = can_keep and is_due and self.registry.get(operation.workflow) is not None
        if not is_ours or self.front.is_full or not self._may_keep() or not self.runs.reserve():
            started: Started = await self.front.write(operation)
            if executor is not None and started.created:
                wake_at = None if is_due else started.row.wake_at  # the ttl may be over before
                clock = self.settings.clock
                guarded(self.dispatcher.nudge_at, None if wake_at is None else clock.comes_at(clock.due(wake_at)))
            return started.created
        has_kept = False
        try:
            # The wait for the commit is not abandoned, so what is claimed is started.
            started = await self.front.write(attrs.evolve(operation, owner=executor))
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

    def _may_keep(self) -> bool:
        """Whether a run that is started here may stay here: with others on the file, only while nothing else is."""
        return self.recovery.others_count == 0 or self.runs.resident_count == 0

    def sent(self, sent: Sent) -> None:
        """A message is in a mailbox: tell its run if it is here; others are noticed by those who own them."""
        if sent.owner is None:
            guarded(self.feed.recheck)
        if self.executor is None:
            return
        if sent.owner == self.executor:
            self.runs.mail(sent.entry.run)
        elif sent.owner is None:
            guarded(self.dispatcher.nudge)

    # ---- the store as a child ----------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run_store(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve as the store child until cancelled: the front's writer, on a store that is opened anew each time.

        A fault of the file (I/O error, damage, a commit in doubt) is final in this process, and ends the tree. What
        else may come out is a fault of ours, after which the file is as it was: this child is restarted, and all that
        depends on it.
        """
        try:
            if self._store_has_run:
                await self._reopen()
            self._store_has_run = True
            await self.front.run(task_status=task_status)
        except StoreError as error:
            self.give_up(error)
            await trio.sleep_forever()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run_runs(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve as the runs child until cancelled.

        Whoever was resident before has left, and still belongs to this executor: the services, which start after this
        child, take the runs over under the next executor id.
        """
        self.recovery.forget()
        await self.runs.run(task_status=task_status)

    def give_up(self, error: Exception) -> None:
        """End the tree: nothing that could be restarted would mend this."""
        self.failure = self.failure or error
        self.on_failure()

    async def _reopen(self) -> None:
        store = self.front.store
        if not store.is_shared:  # closing it would forget everything
            await trio.lowlevel.checkpoint()
            return

        def reopen() -> None:
            store.close()
            store.open()

        await trio.to_thread.run_sync(reopen)
