"""The async side that all stores share: one writer task, two drivers, group commit; and who may ask when.

Tasks put operations into one queue and go on waiting; the writer task takes all that waits as one batch. *Inline*, it
applies the batch on the event loop: for a store that never blocks, and for a single operation while measured commits
stay short. Otherwise the *writer thread* applies it, and its task waits. Whatever is submitted meanwhile is the next
batch. Starts of runs and pieces of upkeep stand in a queue of their own, of which each batch takes a few: what runs
already have to say, and messages to them, never wait behind those. Questions have a thread of their own, and those that
only people ask another one: a list that takes its time keeps no run waiting.

A full disk fails the caller's operation, but not those of a run's owner (``Advance``, ``ContinueAsNew``, ``Release``,
``Refuse``, ``Finish``): their outcomes happened and must not be lost, so they are kept and tried again until there is
room, each run's in order. What is too large for the room that is left holds up no other run. The same goes for a file
that somebody else holds, where nothing can be written at all. Any other error of the store is final: everything that
waits gets it, and ``serve`` ends with it. An exception that is no ``StoreError`` is a fault of the program: the store
is opened anew and the writer started again (``engine.wiring``, under the tree in ``engine.tree``).
"""

from __future__ import annotations

import functools
import math
import operator
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from durable_trio.doors import blame, guarded
from durable_trio.errors import OwnershipLost, StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreRewound
from durable_trio.limits import (
    BATCH_OPERATIONS_MAX,
    BATCH_STARTS_MAX,
    INLINE_COMMIT_MS_MAX,
    STORE_RETRY_SECONDS,
    WRITER_QUEUE_MAX,
)
from durable_trio.logger import Logger
from durable_trio.rows import RunRow
from durable_trio.stores.contract import Advance, Fence, Store
from durable_trio.stores.left import named
from durable_trio.stores.obstacles import Obstacle
from durable_trio.stores.precedence import ALONE, NEVER_INLINE, OWNERS, STARTS, UPKEEP, Item, Tidy, UserTransaction
from durable_trio.stores.questions import ListOwned, Question
from durable_trio.stores.threads import Linger, StoreThread, Waiter, no_abort
from durable_trio.stores.upkeep import UpkeepPace

T = TypeVar("T")
U = TypeVar("U")
Callback = Callable[[Any], None]

_LOGGER = Logger("durable_trio.store")

# Runs whose writes are tried again each time while nothing at all has room. They take turns.
_PROBES_MAX: Final = 8


# Errors after which a process must not go on with the store, whoever meets them.
_FINAL: Final = (StoreCorrupt, StoreRewound)
_Entry = tuple[Item, Callback]
_OPERATION_OF: Final = operator.itemgetter(0)


class Writer:
    """Gives trio tasks a store. ``run`` is its task; everything else works only while that runs.

    Args:
        failed: called once when the store has failed for good, before anybody else learns of it. Must not raise.
    """

    def __init__(self, store: Store, *, failed: Callable[[], None]) -> None:
        self.store = store
        self._has_failed = failed
        self._awaited: trio.Event | None = None  # the next commit is
        self.failure: BaseException | None = None
        self.is_full = False
        self.commit_count = 0
        self.operation_count = 0
        self._waiting: deque[_Entry] = deque()
        self._starts: deque[_Entry] = deque()
        self._is_turn_of_starts = False
        self._alone_count = 0  # so many of the first had no room together: each is tried by itself
        self._held: dict[int, list[_Entry]] = {}  # by run: what had no room, and what came after it
        self._is_blocked = False  # nothing at all can be written
        self._retry_at = math.inf
        self._obstacle = Obstacle()
        self._final: StoreError | None = None  # met by a read
        self._task: trio.lowlevel.Task | None = None
        self._is_resting = self._is_running = False
        # Whether this task has waited since it last committed on the event loop: it must not do so twice at a stretch.
        self._has_let_others_go = False
        self._linger = Linger()
        self._write_thread = StoreThread("durable_trio writer", self._linger)
        self._read_thread = StoreThread("durable_trio reader", self._linger)
        self._answer_thread = StoreThread("durable_trio answerer")
        self._pace = UpkeepPace()
        self._upkeep_count = 0  # pieces of it in the batch that is taken
        self._commit_ms = 0.0
        self._readers = trio.CapacityLimiter(1)  # for reads while ``run`` does not run

    # ---- for tasks ---------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    def submit(self, operation: Item, callback: Callback) -> None:
        """Queue an operation. The callback gets its outcome on the event loop, an error as a value.

        What it raises is told to its own ``failed``, if it has that; nobody else learns of it.
        """
        queued = self._starts if isinstance(operation, STARTS) else self._waiting
        if self.failure is not None or not self._is_running:
            refusal = _unusable(self.failure)
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

        *Cancellation:* a cancel point before it is submitted; then the wait for the commit is not abandoned.

        Raises:
            DurableError: the outcome, if it is one; or the store's error.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = Waiter()
        self.submit(operation, waiter)
        if waiter.result is None:  # as ``Waiter.outcome`` does: each frame around a wait is gone through twice
            waiter.is_waiting = True
            await trio.lowlevel.wait_task_rescheduled(no_abort)
        assert waiter.result is not None
        outcome = waiter.result.unwrap()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def ask(self, question: Question[T]) -> T:
        """Ask the store, off the event loop where that may block. No run waits for what only people ask."""
        return await self._call(question, functools.partial(self.store.ask, question))

    async def ask_through(self, fn: Callable[[T], U], question: Question[T]) -> U:
        """Ask the store and return what ``fn`` makes of the answer, there too: a long history takes its time."""
        return await self._call(question, lambda: fn(self.store.ask(question)))

    async def _call(self, question: Question[Any], fn: Callable[[], T]) -> T:
        if not self.store.may_block:
            await trio.lowlevel.checkpoint()
            return fn()
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            if self._is_running:
                is_apart = question.is_for_people and self.store.answers_apart
                return await (self._answer_thread if is_apart else self._read_thread).call(fn)
            return await trio.to_thread.run_sync(fn, limiter=self._readers)
        except StoreError as error:
            if isinstance(error, _FINAL):
                self._end_with(error)
            if self._is_running or self.failure is not None:
                raise
            raise trio.ClosedResourceError("the store is closed") from error  # while the read was on its way

    async def ask_patiently(self, question: Question[T]) -> T:
        """Like ``ask``, for runs and services, which have nobody to tell: while others hold the file, try again."""
        while True:
            try:
                return await self.ask(question)
            except StoreInUse:
                await trio.sleep(STORE_RETRY_SECONDS)

    @trio.lowlevel.enable_ki_protection
    async def tidy(self) -> None:
        """Have the store move its log into the database, by the writer thread and in its turn."""
        await self.write(Tidy())

    def set_at_commit(self, event: trio.Event | None) -> None:
        """Set this event, in place of another, after the next commit: once all who have something in it were told."""
        self._awaited = event

    def foreign_changes(self) -> bool:
        """Return whether others have committed; False while it cannot be told."""
        if self._write_thread.is_busy or self.failure is not None:
            return False
        try:
            return bool(self.store.foreign_changes())
        except _FINAL as error:
            self._end_with(error)
            return False

    def _end_with(self, error: StoreError) -> None:
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
        self.failure, self.is_full, self._final = None, False, None
        self._is_running = True
        try:
            task_status.started()
            while True:
                # Nearly always nothing is kept back, and there is only one thing to wait for. It is done here, for each
                # frame around a wait is gone through twice a batch.
                if self._retry_at != math.inf:
                    await self._wait_for_work()
                elif self._final is None and not (self._waiting or self._starts):
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
            for thread in (self._write_thread, self._read_thread, self._answer_thread):
                thread.stop()
            self._fail_waiting(_unusable(self.failure))

    def _fail(self, error: BaseException) -> None:
        """The task ends with this error: say so before anybody else learns of it."""
        if self.failure is None:
            self.failure = error
            guarded(self._has_failed)

    async def _wait_for_work(self) -> None:
        """Wait for something that may be written now."""
        while self._final is None and (self._is_blocked or not (self._waiting or self._starts)):
            if self._retry_at == math.inf:
                await self._rest()
            elif trio.current_time() < self._retry_at:
                with trio.move_on_at(self._retry_at):
                    await self._rest()
            else:
                self._try_again()
        if self._held and trio.current_time() >= self._retry_at:
            self._try_again()

    def _try_again(self) -> None:
        """Let what was kept be tried again: before what came later, for it may be of the same run."""
        self._is_blocked = False
        if self._obstacle.error is not None:
            self._obstacle.still_there(len([item for item, _ in self._all_waiting() if isinstance(item, OWNERS)]))
        runs = list(self._held)[: _PROBES_MAX if self.is_full else None]
        entries = [entry for run in runs for entry in self._held.pop(run)]
        self._waiting.extendleft(reversed(entries))
        self._retry_at = trio.current_time() + STORE_RETRY_SECONDS if self._held else math.inf

    async def _leave(self) -> None:
        """Commit what waits, as far as that needs nobody else, and say what is left."""
        self.store.hurry()
        self.is_full = False
        self._try_again()
        while (self._waiting or self._starts) and not self._is_blocked and len(self._held) < _PROBES_MAX:
            await self._commit()
        left: dict[int, list[Any]] = {}
        executors = set()
        for item, _ in self._all_waiting():
            if isinstance(item, OWNERS):
                left.setdefault(item.fence.run, []).append(item)
                executors.add(item.fence.owner)
        if left:
            rows: list[RunRow] = []
            with suppress(Exception):  # names are not worth a failure: what keeps it from writing may be in the way
                for executor in executors:
                    rows += await self.ask(ListOwned(executor))
            _LOGGER.warning(
                "%d runs leave this process with something that could not be stored; they go on from their last stored "
                "step, and do again what they have done since: %s: %s",
                len(left),
                named(left, rows),
                self._obstacle.error,
                extra={"event": "writes_lost", "runs": len(left), "cause": str(self._obstacle.error)},
            )

    async def _rest(self) -> None:
        self._is_resting = self._has_let_others_go = True
        await trio.lowlevel.wait_task_rescheduled(self._abort_rest)

    def _abort_rest(self, _: Any) -> trio.lowlevel.Abort:
        self._is_resting = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _commit(self) -> None:
        """Commit one batch and call back. Whatever goes wrong, whoever has an operation in the batch is told."""
        items: list[_Entry] = []
        try:
            self._take(items)
            if not items:  # all that waits has to wait behind what had no room
                return
            behind_counts = len(self._waiting), len(self._starts)
            try:
                outcomes = await self._apply(items)
            except StoreFull as error:
                self._keep_without_room(items, error)
                return
            except StoreInUse as error:
                for queued, count in zip((self._waiting, self._starts), behind_counts, strict=True):
                    items += [queued.popleft() for _ in range(count)]
                self._keep_while_held(items, error)
                return
            if not 0 < len(outcomes) <= len(items):
                raise StoreError(f"the store gave {len(outcomes)} outcomes for {len(items)} operations")
        except BaseException as error:
            self._fail(error)
            for _, callback in items:
                guarded(callback, _unusable(error))
            raise
        if len(outcomes) < len(items):  # the rest was not committed: it goes first, before what came later
            self._waiting.extendleft(reversed(items[len(outcomes) :]))
        self.is_full = False
        if self._obstacle.error is not None and not (self._held or self._alone_count):
            self._obstacle.gone(trio.current_time())
        self.commit_count += 1
        self.operation_count += len(outcomes)
        for (_, callback), outcome in zip(items, outcomes, strict=False):
            try:  # as ``guarded`` does, for each commit passes here
                callback(outcome)
            except BaseException as error:
                blame(callback, error)
        if self._awaited is not None:
            self._awaited.set()
            self._awaited = None

    def _take(self, items: list[_Entry]) -> None:
        """Move the next batch to ``items``; nothing if all that waits has to wait behind what had no room."""
        waiting, starts = self._waiting, self._starts
        tries_alone = self._alone_count > 0
        if len(waiting) == 1 and not (starts or tries_alone or self._held):  # as what follows does, for a lone step
            entry = waiting.popleft()
            items.append(entry)
            self._is_turn_of_starts = isinstance(entry[0], ALONE)
            return
        count_max = 1 if tries_alone else BATCH_OPERATIONS_MAX
        gives_way = bool(starts and waiting) and self._is_turn_of_starts and isinstance(waiting[0][0], ALONE)
        while waiting and len(items) < count_max and not gives_way:
            operation = waiting[0][0]
            if items and isinstance(operation, ALONE):
                break
            entry = waiting.popleft()
            self._alone_count = max(0, self._alone_count - 1)
            if self._held and isinstance(operation, OWNERS) and operation.fence.run in self._held:
                self._held[operation.fence.run].append(entry)
                continue
            items.append(entry)
            if isinstance(operation, ALONE):
                self._is_turn_of_starts = True
                return
        if not tries_alone:
            self._is_turn_of_starts = False
            if starts:
                self._take_starts(items)

    def _take_starts(self, items: list[_Entry]) -> None:
        starts, count_max, self._upkeep_count = self._starts, len(items) + BATCH_STARTS_MAX, 0
        while starts and len(items) < count_max:
            if isinstance(starts[0][0], UPKEEP):
                if self._upkeep_count == self._pace.count_max:
                    break
                self._upkeep_count += 1
            items.append(starts.popleft())

    async def _apply(self, items: list[_Entry]) -> list[Any]:
        store = self.store
        first = items[0][0]
        if isinstance(first, Tidy):
            return [await self._write_thread.call(store.wal_checkpoint)]
        if isinstance(first, UserTransaction):
            transact = functools.partial(self._transact, first)
            if not store.may_block:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return [transact()]
            return [await self._write_thread.call(transact)]
        batch: list[Any] = list(map(_OPERATION_OF, items))
        if not store.may_block or (
            len(batch) == 1 and self._commit_ms <= INLINE_COMMIT_MS_MAX and not isinstance(first, NEVER_INLINE)
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
        if self._upkeep_count:
            apply, self._upkeep_count = self._pace.measured(apply, self._upkeep_count), 0
        outcomes = await self._write_thread.call(apply)
        assert outcomes is not None
        self._has_let_others_go = True
        self._measure(began, len(batch))
        return outcomes

    def _transact(self, transaction: UserTransaction) -> Any:
        try:
            return self.store.transact(transaction.fence, transaction.fn, seconds_max=transaction.seconds_max)
        except OwnershipLost as error:
            return error
        except StoreError:
            raise
        except Exception as error:
            return error

    def _measure(self, began: float, operation_count: int = 1) -> None:
        # A moving average; a batch counts as what one of its operations would take at least.
        elapsed_ms = (time.perf_counter() - began) * 1000 / max(1, operation_count / 8)
        self._commit_ms += (elapsed_ms - self._commit_ms) / 8

    def _keep_without_room(self, items: list[_Entry], error: StoreFull) -> None:
        """There is no room for this: each is tried by itself, for perhaps only one is too large.

        Then an owner's is kept, and what comes of the same run waits behind it. Others are told.
        """
        self.is_full = True
        if len(items) > 1:
            self._waiting.extendleft(reversed(items))
            self._alone_count = len(items)
            return
        for operation, callback in items:
            if isinstance(operation, OWNERS):
                self._held[operation.fence.run] = [(operation, callback)]
                self._kept(error)
            else:
                guarded(callback, error)

    def _keep_while_held(self, waited: list[_Entry], error: StoreInUse) -> None:
        """Nothing can be written: owners' writes are kept, others are told, for they may decide.

        So are those that have waited behind this attempt: each caller waits for one.
        """
        kept = [entry for entry in waited if isinstance(entry[0], OWNERS)]
        self._waiting.extendleft(reversed(kept))
        self._is_blocked = bool(kept)
        if kept:
            self._kept(error)
        for operation, callback in waited:
            if not isinstance(operation, OWNERS):
                guarded(callback, error)

    def _kept(self, error: StoreError) -> None:
        self._obstacle.met(error, trio.current_time())
        if self._retry_at == math.inf:
            self._retry_at = trio.current_time() + STORE_RETRY_SECONDS

    def _all_waiting(self) -> list[_Entry]:
        return [*(entry for entries in self._held.values() for entry in entries), *self._waiting, *self._starts]

    def _fail_waiting(self, error: BaseException) -> None:
        waiting = self._all_waiting()
        for queued in (self._held, self._waiting, self._starts):
            queued.clear()
        self._alone_count = 0
        self._is_blocked, self._retry_at = False, math.inf
        for _, callback in waiting:
            guarded(callback, error)


def _unusable(failure: BaseException | None) -> Exception:
    """Return the error for those who still want something of a store that has failed or is closed."""
    if failure is None:
        return trio.ClosedResourceError("the store is closed")
    if isinstance(failure, StoreError):
        return failure
    error = StoreError(f"the store's writer crashed; whether this was committed is not known: ask again ({failure!r})")
    error.__cause__ = failure
    return error
