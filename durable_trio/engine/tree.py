"""The engine's tree, and how it starts and stops.

    engine
    ├─ store      the front's writer task; without it nothing else can live
    ├─ runs       one actor per resident run
    └─ services   timers · feed · recovery · dispatcher · janitor

Children start in this order and stop in reverse. A client has only the store and the feed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from durable_trio.codec import Codec
from durable_trio.engine.dispatcher import Dispatcher
from durable_trio.engine.feed import Feed
from durable_trio.engine.janitor import run_janitor
from durable_trio.engine.observers import Observers
from durable_trio.engine.recovery import Recovery
from durable_trio.engine.runs import Runs
from durable_trio.engine.settings import Settings
from durable_trio.engine.timers import Timers
from durable_trio.errors import StoreError
from durable_trio.stores.base import Sent, Started, StartRun, Store, Unpark
from durable_trio.stores.front import StoreFront
from durable_trio.workflow import Registry


class Tree:
    """The services of one engine, wired to each other."""

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
        self.dispatcher = Dispatcher(
            front=self.front, runs=self.runs, timers=self.timers, clock=settings.clock, workflows=registry.names
        )
        self.recovery = Recovery(
            front=self.front,
            runs=self.runs,
            clock=settings.clock,
            lease_seconds=settings.lease_seconds,
            is_memory=store.is_memory,
        )
        self.executor: int | None = None

    def _wire(self) -> None:
        self.front.on_failure = self.runs.detach_now
        self.runs.on_free = self.dispatcher.nudge_at
        self.runs.on_ended = self.feed.ended
        self.runs.on_sent = self.sent
        self.runs.on_refused = self.recovery.nudge
        self.recovery.on_registered = self._registered
        self.recovery.on_reaped = self.dispatcher.nudge
        self.feed.on_mail = self.runs.mail
        self.feed.on_foreign = self.dispatcher.nudge

    def _registered(self, executor: int) -> None:
        self.executor = executor
        self.dispatcher.executor = executor
        self.dispatcher.nudge()

    # ---- what the facade asks ----------------------------------------------------------------------------------

    async def start(self, operation: StartRun) -> bool:
        """Store a run; where this executor has room for it, store and claim it in one transaction.

        Returns:
            Whether the run is new; if so, nothing was waited for since its commit.
        """
        is_due = operation.due_at <= operation.created_at
        executor = self.executor
        is_ours = executor is not None and is_due and self.registry.get(operation.workflow) is not None
        if not is_ours or self.front.is_full or not self.runs.reserve():
            started: Started = await self.front.write(operation)
            if executor is not None and started.created:
                self.dispatcher.nudge_at(None if is_due else operation.due_at)
            return started.created
        try:
            # The wait for the commit is not abandoned, so what is claimed is started.
            started = await self.front.write(attrs.evolve(operation, owner=executor))
            if started.created and started.claimed:
                self.runs.start(started.row)
            elif started.created:
                self.dispatcher.nudge()
        finally:
            self.runs.unreserve()
        return started.created

    def sent(self, sent: Sent) -> None:
        """A message is in a mailbox: tell its run if it is here; others are noticed by those who own them."""
        if sent.owner is None:
            self.feed.recheck()
        if self.executor is None:
            return
        if sent.owner == self.executor:
            self.runs.mail(sent.entry.run)
        elif sent.owner is None:
            self.dispatcher.nudge()

    # ---- life --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Run what a client needs inside the block."""
        async with trio.open_nursery() as store_nursery:
            await store_nursery.start(self.front.run)
            async with trio.open_nursery() as services:
                await services.start(self.feed.run)
                try:
                    yield
                finally:
                    self.feed.close()
                    services.cancel_scope.cancel()
            store_nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def executor_tree(self, grace: trio.CancelScope) -> AsyncIterator[None]:
        """Run the whole tree inside the block, then drain it. Cancelling ``grace`` cuts the draining short."""
        self._wire()
        async with trio.open_nursery() as store_nursery:
            await store_nursery.start(self.front.run)
            async with trio.open_nursery() as runs_nursery:
                await runs_nursery.start(self.runs.run)
                async with trio.open_nursery() as services:
                    await services.start(self.timers.run)
                    await self._unpark()
                    await services.start(self.recovery.run)
                    await services.start(self.feed.run)
                    await services.start(self.dispatcher.run)
                    services.start_soon(run_janitor, self.front)
                    try:
                        yield
                    finally:
                        if services.cancel_scope.cancel_called:
                            grace.cancel()  # a service has failed, and nothing can be waited for
                        try:
                            with trio.CancelScope(shield=True):  # runs are detached before they are cancelled
                                await self._drain(grace)
                        finally:
                            self.feed.close()
                    services.cancel_scope.cancel()
                runs_nursery.cancel_scope.cancel()
            store_nursery.cancel_scope.cancel()

    async def _unpark(self) -> None:
        """Runs that were parked by other code of a workflow get another chance with this one's."""
        for workflow in self.registry:
            await self.front.write(
                Unpark(workflow=workflow.name, fingerprint=workflow.fingerprint, now=self.settings.clock.now())
            )

    async def _drain(self, grace: trio.CancelScope) -> None:
        self.runs.is_draining = True
        if self.front.failure is not None:
            return
        try:
            with grace:
                await self.runs.drain(self.settings.grace_seconds)
            await self.runs.detach_all()
            await self.recovery.retire()
        except (StoreError, trio.ClosedResourceError):
            pass  # the next executor finds the lock free and takes the runs over
