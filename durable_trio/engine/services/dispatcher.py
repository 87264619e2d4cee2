"""The dispatcher service: claims runs that are due while there is room for them, and no more than a fair share.

Level-triggered: whenever it is nudged it asks the store what is due; a nudge carries no data, so none can be stale.
"""

from __future__ import annotations

import contextlib
import math
from typing import NoReturn

import trio

from durable_trio.clock import MICROSECONDS, Clock
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.services.recovery import Recovery
from durable_trio.engine.services.service import Service
from durable_trio.engine.services.timers import Timers
from durable_trio.errors import PASSING, OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.limits import CLAIM_RUNS_MAX, STORE_RETRY_SECONDS
from durable_trio.logger import Logger
from durable_trio.rows import RunRow
from durable_trio.rules.admission import fair_share
from durable_trio.stores.contract import ClaimDue, ClaimRun, Fence, Release
from durable_trio.stores.questions import CountBacklog, ListOwned, ListSetBack, LoadRuns, SetBack
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Registry

# How long an executor that has its share leaves what is due to others: a little longer than they take to notice it.
_YIELD_SECONDS = 0.05
# How long those that are started together wait for each other: a slow import is slower, but runs wait.
_EXPECTED_SECONDS = 2.0
# Due runs are counted up to this number: it is more than a few executors can have in memory.
_DUE_COUNTED_MAX = 1000
# No run leaves its place for so long while others wait for one: people are told.
_STUCK_SECONDS = 30.0
_STUCK = (
    "runs that are due have no place: the %d that have one, %r among them, have kept theirs for %g s. "
    "If their steps wait for others, let them do so with run.result(), which lends the place; or raise concurrency"
)

_LOGGER = Logger("durable_trio.runs")


class Dispatcher(Service):
    """Claims due runs for one executor."""

    def __init__(
        self,
        *,
        writer: Writer,
        runs: Runs,
        recovery: Recovery,
        timers: Timers,
        clock: Clock,
        registry: Registry,
    ) -> None:
        self._writer = writer
        self._recovery = recovery
        self._runs = runs
        self._timers = timers
        self._clock = clock
        self._workflows = registry.names
        self._alarm_at = math.inf
        self._yields_until: int | None = None
        self._is_short_of_places = True
        self._may_have_lost = True  # a claim, whose outcome did not get here
        #: Runs that are due and wait for places, as far as the last look has counted: a new one does not go past them.
        self.due_count = 0
        self._expected_count = 1
        self._expects_until = 0
        self._era = clock.era
        # When the next run comes whose due time was stored before the wall clock was set back; and those that were
        # looked at because of that: what they have stored since is right.
        self._set_back_at: int | None = None
        self._looked_at: set[str] = set()
        # While there is no place: when to look whether runs leave, and how many had left at the last look.
        self._looks_for_stuck_at = 0
        self._given_back_count = -1
        self._said_at = -1
        self._said = ""
        # One nudge waits at most: the next look sees all there is.
        self._send, self._inbox = trio.open_memory_channel[None](1)

    def nudge(self) -> None:
        """Look what is due."""
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._send.send_nowait(None)

    def look_for_lost(self) -> None:
        """Something was perhaps claimed, and nobody was told: give it back, or it would be owned for nothing."""
        self._may_have_lost = True
        self.nudge()

    def expect(self, executor_count: int) -> None:
        """So many executors, this one included, are being started together."""
        self._expected_count = executor_count
        self._expects_until = self._clock.now() + int(_EXPECTED_SECONDS * MICROSECONDS)

    def place_is_free(self) -> None:
        """There is room for one more run: of interest if the last look has left something for want of it."""
        if self._is_short_of_places:
            self.nudge()

    def nudge_at(self, due_at: int | None) -> None:
        """Look when the clock says so; ``None`` means now."""
        if due_at is None:
            self.nudge()
        elif due_at < self._alarm_at or self._alarm_at <= self._clock.now():
            self._timers.call_at(due_at, self.nudge)
            self._alarm_at = due_at  # only then: a service that starts again after a fault of that asks for it anew

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        task_status.started()
        self._may_have_lost = True
        while True:
            try:
                if self._may_have_lost:
                    await self._writer.wait_until_reached()  # what is in doubt is found only after that
                    await self._give_back_lost()
                await self._claim_all()
                if not self._runs.free_count:
                    await self._say_if_stuck()
                await self._claim_set_back()
            except OwnershipLost:
                self._recovery.nudge()
            except PASSING:
                await trio.sleep(STORE_RETRY_SECONDS)
                continue
            await self._inbox.receive()

    async def _claim_all(self) -> None:
        self._is_short_of_places = True
        if not self._runs.free_count:
            self.due_count = max(1, self.due_count)  # something may be due that it was nudged for
        while self._runs.free_count and self._workflows:
            claimable_count = await self._claimable_count()
            # Free now: a run that was started meanwhile may have taken a place, and what is left is still to be filled.
            limit = min(CLAIM_RUNS_MAX, self._runs.free_count, claimable_count)
            self._is_short_of_places = claimable_count > 0 or self._yields_until is not None
            if limit == 0 or not self._runs.reserve(limit):
                return
            try:
                with trio.CancelScope(shield=True):  # what is claimed must be started
                    claimed_count = await self._claim(limit)
            finally:
                self._runs.unreserve(limit)
            self.due_count = max(0, self.due_count - claimed_count)
            if not claimed_count:  # others were quicker, or all that is due must wait for a suspect to go on
                self.nudge_at(self._clock.now() + int(_YIELD_SECONDS * MICROSECONDS))
                return

    async def _say_if_stuck(self) -> None:
        """Say it once if runs that are due wait for places for long, and no run gives its own back.

        Perhaps the steps there wait for those very runs, in a way that lends no place, such as looking again and again.
        """
        now, given_back_count = self._clock.now(), self._runs.given_back_count
        if now < self._looks_for_stuck_at or self._runs.is_draining:
            return
        before, self._given_back_count = self._given_back_count, given_back_count
        self._looks_for_stuck_at = now + int(_STUCK_SECONDS * MICROSECONDS)
        self._timers.call_at(self._looks_for_stuck_at, self.nudge)
        if before != given_back_count or self._said_at == given_back_count:
            return
        is_anything_due, rows = await self._is_anything_due(), self._runs.busy_rows()
        if is_anything_due and rows:
            self._said_at = given_back_count
            self._said = _STUCK % (len(rows), rows[0].id, _STUCK_SECONDS)
            _LOGGER.warning(_STUCK, len(rows), rows[0].id, _STUCK_SECONDS)

    async def find_stuck(self) -> str | None:
        """Return what was said of runs that wait for a place, as long as it is so."""
        if self._said_at != self._runs.given_back_count or self._runs.free_count:
            return None
        return self._said if await self._is_anything_due() else None

    async def _is_anything_due(self) -> bool:
        backlog = await self._writer.ask(CountBacklog(self._runs.served.all, now=self._clock.stamp(), due_max=1))
        return backlog.due_count > 0

    async def _claimable_count(self) -> int:
        """Return how many due runs this executor should claim now; if none, look again when that may change."""
        writer, clock = self._writer, self._clock
        now = clock.now()
        is_alone = self._recovery.reaper.others_count == 0 and now >= self._expects_until
        due_max = CLAIM_RUNS_MAX + 1 if is_alone else _DUE_COUNTED_MAX  # alone it needs no exact number
        backlog = await writer.ask(CountBacklog(self._runs.served.all, now=clock.stamp(), due_max=due_max))
        self.due_count = backlog.due_count
        if min(backlog.executor_count, len(backlog.owned_counts)) >= self._expected_count:
            self._expected_count = 1  # all have come and have taken something; who is missing later has died
        if backlog.due_count == 0:
            self._yields_until = None  # others have taken it: what comes next is yielded anew
            if backlog.next_due_at is not None:
                self.nudge_at(clock.comes_at(clock.due(backlog.next_due_at)))
            return 0
        others = [count for executor, count in backlog.owned_counts.items() if executor != self._recovery.executor]
        is_early = now < self._expects_until and self._expected_count > 1
        executor_count = self._expected_count if is_early else max(1, backlog.executor_count)
        others += [0] * (executor_count - 1 - len(others))
        own_count = max(self._runs.busy_count, backlog.owned_counts.get(self._recovery.executor, 0))
        share = fair_share(own_count=own_count, others_counts=others, due_count=backlog.due_count)
        if share == 0:
            until = self._expects_until if is_early else now + int(_YIELD_SECONDS * MICROSECONDS)
            self._yields_until = until if self._yields_until is None else min(until, self._yields_until)
            if now < self._yields_until:  # perhaps nudged before
                self.nudge_at(self._yields_until)
                return 0
        self._yields_until = None
        return share or -(-backlog.due_count // executor_count)

    async def _claim(self, limit: int) -> int:
        claim = ClaimDue(
            owner=self._recovery.executor,
            codes=self._runs.served.all,
            now=self._clock.stamp(),
            limit=limit,
            suspects_max=self._runs.suspects_max,
        )
        found: tuple[RunRow, ...] = await self._writer.write(claim)
        await self._make_resident(found)
        return len(found)

    async def _make_resident(self, found: tuple[RunRow, ...]) -> None:
        writer, now = self._writer, self._clock.stamp()
        rows = [row for row in found if row.damage is None]
        for row in found:
            if row.damage is not None:
                self._runs.refusing.found_damaged(row)
        try:
            loaded = await writer.ask(LoadRuns([row.run for row in rows])) if rows else ()
            await self._runs.tellings.look_back(rows)
            for row, one in zip(rows, loaded, strict=True):
                if self._runs.has(row.run):  # it was given up here a moment ago, and its step function still runs
                    self._give_back(row, now + int(STORE_RETRY_SECONDS * MICROSECONDS))
                else:
                    self._runs.start(row, one)
        except BaseException:
            for row in rows:  # those that were started are known, and nobody else would ever look for the others
                if not self._runs.has(row.run):
                    self._give_back(row, now)
            raise

    async def _claim_set_back(self) -> None:
        """Claim the runs whose wait is over though the wall clock, set back since, will not say so for a while."""
        clock = self._clock
        if self._era != clock.era:
            self._era = clock.era
            self._set_back_at = 0
            self._looked_at.clear()
        while self._set_back_at is not None and clock.now() >= self._set_back_at:
            limit = CLAIM_RUNS_MAX + len(self._looked_at)
            found = await self._writer.ask(ListSetBack(self._workflows, now=clock.stamp(), limit=limit))
            waiting = [item for item in found if item.run_id not in self._looked_at]
            due = [(clock.comes_at(clock.due(item.wake_at, stamped_at=item.stamped_at)), item) for item in waiting]
            now = clock.now()
            for comes_at, item in due:
                if comes_at <= now and not await self._claim_one(item):
                    self._is_short_of_places = True
                    return
            self._set_back_at = min((comes_at for comes_at, _ in due), default=None)
        if self._set_back_at is not None:
            self.nudge_at(self._set_back_at)

    async def _claim_one(self, item: SetBack) -> bool:
        """Claim a run unless others were quicker; return False if there is no room for it."""
        if not self._runs.reserve():
            return False
        self._looked_at.add(item.run_id)
        codes = self._runs.served.all
        claim = ClaimRun(owner=self._recovery.executor, run_id=item.run_id, codes=codes, now=self._clock.stamp())
        try:
            with trio.CancelScope(shield=True):  # what is claimed must be started
                await self._make_resident((await self._writer.write(claim),))
        except (RunConflict, RunFinished, RunNotFound):
            pass
        finally:
            self._runs.unreserve()
        return True

    async def _give_back_lost(self) -> None:
        """Give back what this executor owns and nobody executes, because a fault came between a claim and its run."""
        self._may_have_lost = False  # now: it may be said again while this looks
        try:
            executor = self._recovery.executor
            owned = await self._writer.ask(ListOwned(executor))
            lost = [row for row in owned if not self._runs.has(row.run)]
            if lost:
                # Who has started one may not have been told yet, though it is committed. He is before any later commit
                # is, and begins to execute it in that very step.
                await self._writer.write(ClaimDue(owner=executor, codes=(), now=self._clock.stamp(), limit=0))
                await trio.lowlevel.checkpoint()
        except BaseException:
            self._may_have_lost = True
            raise
        for row in lost:
            if not self._runs.has(row.run):
                self._give_back(row, self._clock.stamp())

    def _give_back(self, row: RunRow, wake_at: int) -> None:
        assert row.owner is not None
        fence = Fence(row.run, row.owner, row.token)
        release = Release(fence=fence, status=row.status, wake_at=wake_at)
        # Once that is committed, whatever comes of it: a look before it would find nothing, and be the last one.
        self._writer.submit(release, lambda _: self.nudge_at(self._clock.comes_at(self._clock.due(wake_at))))
