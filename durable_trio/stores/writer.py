"""The async side that all stores share: one writer task, two drivers, group commit.

Tasks put operations into one queue and go on waiting; the writer task takes all that waits as one batch. *Inline*, it
applies the batch on the event loop: for a store that never blocks, and for a single operation while measured commits
stay short. Otherwise the *writer thread* applies it, and its task waits. Whatever is submitted meanwhile is the next
batch. What goes before what says ``stores.submitted``; what is done where nothing can be written for now (no room, held
by others, away), ``stores.kept``; who may ask, and where, ``stores.reads``.

Any other error of the store is final: everything that waits gets it, and ``serve`` ends with it. An exception that is
no ``StoreError`` is a fault of the program: the store is opened anew and the writer started again (``engine.wiring``,
under the tree in ``engine.tree``).
"""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio
from outcome import Outcome

from durable_trio.doors import blame, guarded
from durable_trio.errors import StoreAway, StoreError, StoreFull, StoreInUse
from durable_trio.limits import AWAY_SECONDS_MAX, INLINE_COMMIT_MS_MAX, STORE_RETRY_SECONDS, WRITER_QUEUE_MAX
from durable_trio.rows import RunRow
from durable_trio.stores.beside import Beside, transact
from durable_trio.stores.contract import Advance, Fence, Store
from durable_trio.stores.kept import PROBES_MAX, Kept
from durable_trio.stores.lost_writes import by_run, tell_lost
from durable_trio.stores.outage import in_doubt
from durable_trio.stores.precedence import (
    ALONE,
    NEVER_INLINE,
    OWNERS,
    STARTS,
    UPKEEP,
    Item,
    Tidy,
    UserTransaction,
)
from durable_trio.stores.questions import ListOwned, Question
from durable_trio.stores.reads import FINAL, Reads, unusable
from durable_trio.stores.submitted import Callback, Entry, Submitted
from durable_trio.stores.threads import Linger, StoreThread, Waiter

T = TypeVar("T")
U = TypeVar("U")

_OPERATION_OF: Final = operator.itemgetter(0)


class Writer:
    """Gives trio tasks a store. ``run`` is its task; everything else works only while that runs.

    Args:
        failed: called once when the store has failed for good, before anybody else learns of it. Must not raise.
        still_away: called each time the store was tried in vain, while it is away. Must not raise.
        committed_untold: given what comes of an operation after all, whose caller was told that it is in doubt.
        away_seconds_max: how long callers wait for a store that is away.
    """

    def __init__(
        self,
        store: Store,
        *,
        failed: Callable[[], None],
        still_away: Callable[[], None],
        committed_untold: Callable[[Any], None],
        away_seconds_max: float = AWAY_SECONDS_MAX,
    ) -> None:
        self.store = store
        self._has_failed = failed
        self._awaited: trio.Event | None = None  # the next commit is
        self.failure: BaseException | None = None
        self.commit_count = 0
        self.operation_count = 0
        self._submitted = Submitted(commits_beside=store.transact_concurrency > 0)
        self._waiting, self._starts = self._submitted.waiting, self._submitted.starts
        #: What cannot be written for now.
        self.kept = Kept(
            self._submitted,
            away_seconds_max=away_seconds_max,
            still_away=still_away,
            committed_untold=committed_untold,
        )
        self._came_back = trio.Event()  # the store, the next time
        self._final: BaseException | None = None  # met elsewhere than in the task
        self._task: trio.lowlevel.Task | None = None
        self._is_resting = self._is_running = False
        # Whether this task has waited since it last committed on the event loop: it must not do so twice at a stretch.
        self._has_let_others_go = False
        self._linger = Linger()
        self._write_thread = StoreThread("durable_trio writer", self._linger)
        self._reads = Reads(store, self._linger, away_seconds_max=away_seconds_max, failed=self._end_with)
        self._beside = Beside(store, self._ended_beside)
        self._commit_ms = 0.0

    # ---- for tasks ---------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def submit(self, operation: Item, callback: Callback) -> None:
        """Queue an operation. The callback gets its outcome on the event loop, an error as a value.

        What it raises is told to its own ``failed``, if it has that; nobody else learns of it.
        """
        queued = self._starts if type(operation) in STARTS else self._waiting
        if self.failure is not None or not self._is_running:
            refusal = unusable(self.failure)
        elif len(queued) >= WRITER_QUEUE_MAX and not isinstance(operation, OWNERS):
            refusal = StoreInUse(f"{WRITER_QUEUE_MAX} operations wait for the writer already")
        else:
            queued.append((operation, callback))
            if self._is_resting and self._task is not None:  # as ``_wake``, for each operation passes here
                self._is_resting = False
                trio.lowlevel.reschedule(self._task)
            return
        # In a later pass: who submits is in the middle of something.
        trio.lowlevel.current_trio_token().run_sync_soon(guarded, callback, refusal)

    def submit_transaction(
        self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float, callback: Callback
    ) -> None:
        """Queue a transaction of the user's; it is committed alone."""
        self.submit(UserTransaction(fence, fn, seconds_max), callback)

    # Ctrl-C must not come between handing something over and waiting for it: the answer would then reschedule a task
    # that is gone, which trio does not survive. It comes to the main task instead, as soon as that waits.
    @trio.lowlevel.enable_ki_protection
    async def write(self, operation: Item) -> Any:
        """Commit an operation and return its outcome.

        *Cancellation:* a cancel point before it is submitted; then the wait for the commit is not abandoned. Who calls
        while the store is away is told at once then; a cancel point again where that is that nothing was done.

        Raises:
            DurableError: the outcome, if it is one; or the store's error.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = Waiter()
        self.submit(operation, waiter)
        if waiter.result is None:  # as ``Waiter.outcome`` does: each frame around a wait is gone through twice
            waiter.is_waiting = True
            await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        assert waiter.result is not None
        outcome = waiter.result.unwrap()
        if isinstance(outcome, BaseException):
            if waiter.is_cancelled and isinstance(outcome, StoreAway) and not outcome.in_doubt:
                await trio.lowlevel.checkpoint_if_cancelled()
            raise outcome
        return outcome

    async def ask(self, question: Question[T]) -> T:
        """Ask the store, off the event loop where that may block. No run waits for what only people ask."""
        return await self._reads.call(question, functools.partial(self.store.ask, question))

    async def ask_through(self, fn: Callable[[T], U], question: Question[T]) -> U:
        """Ask the store and return what ``fn`` makes of the answer, there too: a long history takes its time."""
        return await self._reads.call(question, lambda: fn(self.store.ask(question)))

    async def ask_patiently(self, question: Question[T]) -> T:
        """Like ``ask``, for runs and services, which have nobody to tell: until the store can answer, try again."""
        while True:
            try:
                return await self.ask(question)
            except (StoreInUse, StoreAway):
                await trio.sleep(STORE_RETRY_SECONDS)

    @trio.lowlevel.enable_ki_protection
    async def tidy(self) -> None:
        """Have the store tidy itself up, by the writer thread and in its turn."""
        await self.write(Tidy())

    def set_at_commit(self, event: trio.Event | None) -> None:
        """Set this event, in place of another, after the next commit: once all who have something in it were told."""
        self._awaited = event

    def hurry(self) -> None:
        """Wait neither for others nor for a store that is away: this process is leaving."""
        self.kept.is_leaving = self._reads.is_leaving = True
        self.store.hurry()

    @property
    def is_away(self) -> bool:
        """Whether the store cannot be reached, as far as the writer knows."""
        return self.kept.outage is not None

    async def wait_until_reached(self) -> None:
        """Wait until the store is not away: all that was in doubt is known then, and was told."""
        await trio.lowlevel.checkpoint()
        while self.kept.outage is not None:
            await self._came_back.wait()

    def foreign_changes(self) -> bool:
        """Return whether others have committed; False while it cannot be told."""
        if self._write_thread.is_busy or self.failure is not None:
            return False
        try:
            return bool(self.store.foreign_changes())
        except StoreAway:
            return False
        except FINAL as error:
            self._end_with(error)
            return False

    def _end_with(self, error: BaseException) -> None:
        """Let the writer task end with an error that somebody else has met: nothing can be read or written any more."""
        self._final = self._final or error
        self._wake()

    def _wake(self) -> None:
        if self._is_resting and self._task is not None:
            self._is_resting = False
            trio.lowlevel.reschedule(self._task)

    # ---- the writer task ---------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is submitted until cancelled; then what still waits, and return.

        May be called again after a failure, once the store was opened anew.

        Raises:
            StoreError: the store cannot be used any more in this process.
        """
        self._task = trio.lowlevel.current_task()
        kept = self.kept
        self.failure = self._final = None
        self._is_running = self._reads.is_open = True
        kept.is_full = kept.is_leaving = self._reads.is_leaving = False
        self._reads.has_failed = False
        try:
            task_status.started()
            while True:
                # Nearly always nothing is kept back, and there is only one thing to wait for. It is done here, for each
                # frame around a wait is gone through twice a batch.
                if kept.retry_at != math.inf:
                    await self._wait_for_work()
                elif self._final is None and not (self._waiting or self._starts):  # as ``Submitted`` says
                    self._is_resting = self._has_let_others_go = True
                    await trio.lowlevel.wait_task_rescheduled(self._abort_rest)
                    continue
                if self._final is not None:
                    raise self._final
                await self._commit()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._leave()
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_running = False
            self._linger.end()
            for threads in (self._write_thread, self._reads, self._beside):
                threads.stop()
            self._fail_waiting(unusable(self.failure))

    def _fail(self, error: BaseException) -> None:
        """The task ends with this error: say so before anybody else learns of it."""
        if self.failure is None:
            self.failure = error
            self._reads.has_failed = True
            guarded(self._has_failed)

    async def _wait_for_work(self) -> None:
        """Wait for something that may be written now."""
        kept = self.kept
        while self._final is None and (kept.is_blocked or not (self._submitted or kept.in_doubt)):
            if kept.retry_at == math.inf:
                await self._rest()
            elif trio.current_time() < kept.retry_at:
                with trio.move_on_at(kept.retry_at):
                    await self._rest()
            else:
                self._try_again()
        if trio.current_time() >= kept.retry_at:
            self._try_again()

    def _try_again(self) -> None:
        self.kept.try_again(self._beside.under_way, trio.current_time())
        self._beside.begin(self._submitted.beside)

    async def _leave(self) -> None:
        """Commit what waits, as far as that needs nobody else, and say what is left."""
        submitted, kept = self._submitted, self.kept
        self.hurry()
        kept.is_full = False
        self._try_again()
        while not kept.is_blocked and len(submitted.held) < PROBES_MAX:
            if submitted or kept.in_doubt:
                await self._commit()
            elif self._beside.under_way and self._final is None:
                await self._rest()
            else:
                break
        left = by_run(item for item, _ in self._all_waiting())
        if left:
            rows: list[RunRow] = []
            with suppress(Exception):  # names are not worth a failure: what keeps it from writing may be in the way
                for executor in {items[0].fence.owner for items in left.values()} if kept.outage is None else ():
                    rows += await self.ask(ListOwned(executor))
            tell_lost(left, rows, kept.obstacle.error)

    async def _rest(self) -> None:
        self._is_resting = self._has_let_others_go = True
        await trio.lowlevel.wait_task_rescheduled(self._abort_rest)

    def _abort_rest(self, _: Any) -> trio.lowlevel.Abort:
        self._is_resting = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _commit(self) -> None:
        """Commit one batch and call back. Whatever goes wrong, whoever has an operation in the batch is told."""
        submitted, kept = self._submitted, self.kept
        items, kept.in_doubt = kept.in_doubt, []
        try:
            is_lone = len(self._waiting) + len(self._starts) == 1 and not (submitted.alone_count or submitted.held)
            if (
                not items and is_lone and not submitted.commits_beside
            ):  # as ``Submitted.take``, for a lone step or start
                items = [(self._waiting or self._starts).popleft()]
                submitted.is_turn_of_starts = type(items[0][0]) in ALONE
                submitted.upkeep_count = int(type(items[0][0]) in UPKEEP)
            elif not items:
                submitted.take(items)
                self._beside.begin(submitted.beside)
                if not items:  # all that waits has to wait behind something
                    return
            behind_counts = len(self._waiting), len(self._starts)
            try:
                outcomes = await self._apply(items)
            except StoreAway as error:
                kept.while_away(items, error, trio.current_time())
                return
            except StoreFull as error:
                kept.without_room(items, error, trio.current_time())
                return
            except StoreInUse as error:
                for queued, count in zip((self._waiting, self._starts), behind_counts, strict=True):
                    items += [queued.popleft() for _ in range(count)]
                kept.while_held(items, error, trio.current_time())
                return
            if not 0 < len(outcomes) <= len(items):
                raise StoreError(f"the store gave {len(outcomes)} outcomes for {len(items)} operations")
        except BaseException as error:
            self._fail(error)
            for _, callback in items:
                guarded(callback, unusable(error))
            raise
        if len(outcomes) < len(items):  # the rest was not committed: it goes first, before what came later
            submitted.put_back(items[len(outcomes) :])
        kept.is_full = False
        if kept.obstacle.error is not None and not (submitted.held or submitted.alone_count):
            kept.obstacle.gone(trio.current_time())
        self.commit_count += 1
        self.operation_count += len(outcomes)
        for (_, callback), outcome in zip(items, outcomes, strict=False):
            try:  # as ``guarded`` does, for each commit passes here
                callback(outcome)
            except BaseException as error:
                blame(callback, error)
        if kept.outage is not None:
            kept.outage = None
            self._is_back()
        if self._awaited is not None:
            self._awaited.set()
            self._awaited = None

    async def _apply(self, items: list[Entry]) -> list[Any]:
        store = self.store
        first = items[0][0]
        if isinstance(first, Tidy):
            return [await self._write_thread.call(store.tidy)]
        if isinstance(first, UserTransaction):
            call = functools.partial(transact, store, first)
            if not store.may_block:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return [call()]
            return [await self._write_thread.call(call)]
        batch: list[Any] = list(map(_OPERATION_OF, items))
        if not store.may_block or (
            len(batch) == 1 and self._commit_ms <= INLINE_COMMIT_MS_MAX and type(first) not in NEVER_INLINE
        ):
            if not self._has_let_others_go:
                await trio.lowlevel.cancel_shielded_checkpoint()
            self._has_let_others_go = False
            began = time.perf_counter()
            outcomes = store.apply(batch, block=not store.may_block)
            if outcomes is not None:
                if store.may_block:
                    self._measure(began)
                return outcomes
        began = time.perf_counter()
        apply: Callable[[], list[Any] | None] = functools.partial(store.apply, batch)
        if self._submitted.upkeep_count:
            apply = self._submitted.pace.measured(apply, self._submitted.upkeep_count)
        outcomes = await self._write_thread.call(apply)
        assert outcomes is not None
        self._has_let_others_go = True
        self._measure(began, len(batch))
        return outcomes

    def _measure(self, began: float, operation_count: int = 1) -> None:
        # A moving average; a batch counts as what one of its operations would take at least.
        elapsed_ms = (time.perf_counter() - began) * 1000 / max(1, operation_count / 8)
        self._commit_ms += (elapsed_ms - self._commit_ms) / 8

    def _ended_beside(self, entry: Entry, outcome: Outcome[Any]) -> None:
        """Take what came of a transaction that was called beside the batches."""
        item, callback = entry
        if not (self._is_running and isinstance(item, UserTransaction)):
            return  # it was told
        submitted = self._submitted
        try:
            found = outcome.unwrap()
        except StoreFull as error:
            submitted.keep(entry)
            self.kept.met(error, trio.current_time())
        except (StoreAway, StoreInUse) as error:  # the same one once more, when the others are tried again
            submitted.beside.appendleft(entry)
            self.kept.met(error, trio.current_time())
        except BaseException as error:
            submitted.beside.appendleft(entry)  # so that it is told with all that waits
            self._end_with(error)
        else:
            self.commit_count += 1
            self.operation_count += 1
            submitted.release_behind(item.fence.run)
            guarded(callback, found)
            if self._awaited is not None:
                self._awaited.set()
                self._awaited = None
            self._beside.begin(submitted.beside)
        self._wake()

    def _is_back(self) -> None:
        self._came_back.set()
        self._came_back = trio.Event()

    def _all_waiting(self) -> list[Entry]:
        return [*self.kept.in_doubt, *self._beside.under_way, *self._submitted.all()]

    def _fail_waiting(self, error: Exception) -> None:
        waiting, perhaps = [*self._beside.under_way, *self._submitted.all()], self.kept.forget()
        self._submitted.clear()
        self._is_back()
        for _, callback in perhaps:
            guarded(callback, in_doubt(error))
        for _, callback in waiting:
            guarded(callback, error)
