"""A durable call that runs a function of the user's: attempts, timeout, retries, outcome.

Each attempt has a task of its own in the run's nursery, beside the body. So a cancelled body knows at once which
functions must still come out, a draining engine can let them finish, and what a function spawns never counts as body.

Once the function has returned or raised, its outcome is recorded, even if the call was cancelled meanwhile. One that
raises only ``Cancelled``, because it is cancelled, records nothing; otherwise that is a failure as any. What ends the
program, such as ``KeyboardInterrupt``, is never recorded: it stops the executor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any, cast
from zlib import crc32

import outcome
import trio

from durable_trio.calls.body import Body, Branch
from durable_trio.calls.current_step import CURRENT
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step_options import (
    NO_RETRY,
    PLAIN,
    FunctionOptions,
    StepOptions,
    TransactionOptions,
    function_options,
)
from durable_trio.calls.step_values import StepValues
from durable_trio.clock import due_after
from durable_trio.codec import own_annotation
from durable_trio.errors import CodecError, Detached, StepInterrupted, StepTimeout
from durable_trio.failures import carried, close_left_open, is_cancelled, remember, without_strays
from durable_trio.limits import check_name
from durable_trio.looks import is_a, is_async, is_awaitable
from durable_trio.policies import Retry
from durable_trio.records import StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, WaitRow
from durable_trio.rules.problems import ProblemKind
from durable_trio.rules.retry import delay_after
from durable_trio.stores.step_slots import FREE, HEAD_BYTES, PACK_HEAD, PACK_NOTED, SMALL_MAX
from durable_trio.turns.call import Call
from durable_trio.turns.mode import Mode
from durable_trio.turns.quiet import BODY, go


class FunctionCall(Call):
    """Runs ``fn(*args)`` until it succeeds or its policy gives up, and records that."""

    begins_when_due = True
    _attempt = 0
    #: How the attempts so far have failed, as it is stored.
    _earlier: str | None = None
    # When the present attempt began, if it is not the first; and where that it is executing is noted (0: nowhere).
    _attempt_at: int | None = None
    _slot = 0
    _scope: trio.CancelScope | None = None
    #: What the timeout of the present attempt ends.
    _limits: list[trio.CancelScope]
    _finish: Callable[[], None] | None = None
    #: By the function, where another exception is raised in its stead.
    _raised: Exception | None = None

    def __init__(
        self,
        body: Body,
        kind: StepKind,
        key: Key,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        options: FunctionOptions,
    ) -> None:
        self.key = key
        self.kind = kind
        self._body = body
        self._fn = fn
        self._args = args
        self._options = options

    @property
    def in_hand_since(self) -> int | None:
        """When the call began, while its function is running."""
        return None if self._scope is None else self.started_at

    @property
    def function(self) -> Callable[..., Any]:
        """The user's."""
        return self._fn

    @property
    def run_id(self) -> str:
        """Of the run that it is a step of."""
        return self._body.run_id

    @property
    def timeout(self) -> float | None:
        """How long an attempt may take, in seconds."""
        return self._options.timeout

    @property
    def max_attempts(self) -> int:
        """How many attempts it has at most."""
        return self._options.retry.max_attempts

    @property
    def engine(self) -> object:
        """The user's, which executes it."""
        return self._body.engine

    @property
    def idempotency_key(self) -> str:
        """The key by which outside services can recognise it."""
        return self._body.idempotency_key(self.key)

    @property
    def place(self) -> str:
        """Which call of the run it is, for people."""
        return f"{self.kind} {str(self.key)!r}"

    def go_live(self, now: int) -> None:
        wait = self.state.agenda.waits.get(self.key)
        self.started_at = now if wait is None else wait.started_at
        if wait is None and self._options.at_most_once:
            intent = WaitRow(key=self.key, kind="intent", attempt=1, started_at=now)
            self.state.agenda.waits[self.key] = intent
            self.lobby.busy(self)
            self.state.port.advance(self._intended, waits=(intent,))
        elif wait is None:
            self._start()
        elif wait.kind == "intent":
            self._fail(
                StepInterrupted(
                    f"{self._where()} had begun when its process died, and it must not run twice",
                    step=str(self.key),
                    run_id=self._body.run_id,
                )
            )
        else:
            self._attempt = wait.attempt
            self._earlier = wait.earlier
            self.state.agenda.set_timer(self, wait.due_at or now, stamped_at=wait.started_at)

    def fire(self, now: int) -> None:
        self.due_at = None
        self._attempt_at = now
        self._start()

    def cancel(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def dropped(self) -> None:
        if self._body.observe is not None:
            self._body.observe.dropped(self.key)
        self.state.clear_wait(self.key)

    def deliver(self, row: HistoryRow) -> None:
        if self._body.observe is not None:
            self._tell_ended(row)
        assert self.task is not None
        if not self.state.is_afoot:
            go(self.state)
        trio.lowlevel.reschedule(self.task, outcome.Value(row))

    def _tell_ended(self, row: HistoryRow) -> None:
        if self._body.observe is not None:
            self._body.observe.ended(row, is_replay=self.state.mode is Mode.REPLAYING)

    def publish(self, attempt: int, key: str, value: Any) -> trio.Event:
        """Publish a value for the function of an attempt; see ``CurrentStep.publish``."""
        body = self._body
        if attempt != self._attempt or self._scope is None or self.state.port.is_cut:
            raise RuntimeError(f"attempt {attempt} of {self._where()} is over, and publishes nothing any more")
        key = check_name("published key", key)
        where = f"published value {key!r} of {self._where()}"
        text = body.codec.encode(value, own_annotation(value), where=where).text
        if body.step_values is None:
            body.step_values = StepValues(self.state, body.clock, body.stored_positions)
        return body.step_values.publish(key, text)

    def leave(self) -> None:
        """Have the run leave this process: what the function was doing has ended with its world, without outcome."""
        self._body.resident.detach()

    # ---- one attempt -------------------------------------------------------------------------------------------

    def _intended(self, outcome: Any) -> None:
        begins = outcome is True and self.raise_cancel is None and not self.state.is_held
        if outcome is True and self.state.is_held:
            self.state.clear_wait(self.key)  # it has not begun, and must not look as if it had
        self.lobby.emerged(self, goes_on=begins)
        if begins:
            self._start()
            self.state.pump()  # others of this run may have waited for that commit
        elif outcome is not True:
            self.state.check(outcome)

    def _start(self) -> None:
        self._attempt += 1
        self.is_busy = True  # this and the next line as ``busy`` does
        self.lobby.busy_count += 1
        body, options = self._body, self._options
        if body.observe is not None:
            self._note()  # before its task runs: what is told to begin is known to have, whatever comes first
            body.observe.began(self, self._attempt)
        # Each attempt has the body's variables, as after a restart: not what the one before has set.
        context = self.task_context.copy() if options.retry.max_attempts > 1 else self.task_context
        self._limits = []
        context.run(BODY.set, None)
        context.run(CURRENT.set, (self, self._attempt, self._limits))
        body.tasks.start(context, self)

    @trio.lowlevel.disable_ki_protection  # the function is the user's
    async def run(self, scope: trio.CancelScope) -> None:
        """Run one attempt inside ``scope``."""
        self._scope = scope
        self._finish = self._raised = None
        if self.raise_cancel is not None:
            scope.cancel()
        if self._body.observe is None:  # else it is noted since it was told to begin
            self._note()
        try:
            value = await (self._call(scope) if self._options.timeout is None else self._call_in_time())
        except Exception as error:
            self._finish = partial(self._fail, self._raised or error)
        except BaseExceptionGroup as group:
            failures = group.split(trio.Cancelled)[1]
            if not isinstance(failures, ExceptionGroup):
                if failures is not None:
                    self._body.resident.ends_program(self.place)
                raise
            self._finish = partial(self._fail, failures)
        except trio.Cancelled:
            raise
        except BaseException:  # such as KeyboardInterrupt: it stops the executor, and the run leaves before
            self._body.resident.ends_program(self.place)
            raise
        else:
            self._finish = partial(self._succeed, value)
        finally:
            slot, slots = self._slot, self._body.slots
            if slots is not None and self._body.observe is None:  # else it is given back once its end is told
                if 0 < slot < slots.large_at:  # as ``give_back`` does: each step passes here
                    slots.buffer[slot : slot + len(FREE)] = FREE
                    slots.free.append(slot)
                else:
                    slots.give_back(slot)

    def is_told(self) -> None:
        """What has come of the attempt is told: it counts no more as under way."""
        slot, self._slot = self._slot, 0
        if slot and self._body.slots is not None:
            self._body.slots.give_back(slot)

    def _note(self) -> None:
        """Note that the function is executing, where that outlives this process."""
        slots = self._body.slots
        if slots is None:
            return
        fence, key, since = self.state.port.fence, self.key, self._attempt_at
        if since is None:
            since = self.started_at
        noted = PACK_NOTED(fence.run, fence.token, since, self._attempt, key.n)
        noted += f"{self.kind}\0{key.name}\0{key.branch}".encode()
        length = len(noted)
        if length <= SMALL_MAX and slots.free:  # as ``take`` does: each step passes here
            slot = self._slot = slots.free.pop()
            slots.buffer[slot : slot + HEAD_BYTES + length] = PACK_HEAD(1, length, crc32(noted), slots.thread) + noted
        else:
            self._slot = slots.take(noted)

    @trio.lowlevel.enable_ki_protection  # ctrl-C is for the main task, not for a run whose step has just come out
    def ended(self) -> None:
        """The attempt has come out: with an outcome, or cancelled without one."""
        self._scope = None
        finish, self._finish = self._finish, None
        if self._body.observe is not None:
            self._body.observe.came_out(self)
        if self.state.port.is_cut:
            return
        if self._body.step_values is not None:
            self._body.step_values.flush()
        if finish is not None:
            finish()
        lobby = self.lobby  # from here on as ``emerged`` does: each step passes here
        self.is_busy = False
        lobby.busy_count -= 1
        if lobby.wave or not (lobby.busy_count or self.state.port.in_flight):
            self.state.pump()

    async def _call_in_time(self) -> Any:
        timeout = self._options.timeout
        assert timeout is not None
        with trio.move_on_after(timeout) as limit:
            self._limits.append(limit)
            return await self._call(limit)
        raise StepTimeout(
            f"{self._where()} took longer than its timeout of {timeout:g} s",
            step=str(self.key),
            run_id=self._body.run_id,
        )

    async def _call(self, within: trio.CancelScope) -> Any:
        fn, args = self._fn, self._args
        try:
            try:
                # A plain ``async def`` tells it by itself.
                if (type(fn) is FunctionType and fn.__code__.co_flags & CO_COROUTINE) or is_async(fn):
                    return await fn(*args)
                value, raised = await trio.to_thread.run_sync(self._call_sync, abandon_on_cancel=self._options.abandon)
                if raised is not None:
                    raise raised
                return await value if is_awaitable(value) else value
            finally:
                status = within._cancel_status  # as ``is_left_open`` does: each step passes here
                if status is not None and not status._tasks:
                    await close_left_open(within)
        except BaseException as error:
            safe = carried(error)
            if not is_a(safe, Exception) and not is_cancelled():
                safe = without_strays(safe, trio.Cancelled, Detached)
            if safe is error:
                raise
            self._raised = cast(Exception, error) if is_a(error, Exception) else None
        raise safe  # out here, so that nothing is left of what trio could not carry

    def _call_sync(self) -> tuple[Any, BaseException | None]:
        """Call a sync function, in a thread, which would be lost with what it raises if that bears no look."""
        if (slots := self._body.slots) is not None:
            slots.is_in_thread(self._slot)
        try:
            return self._fn(*self._args), None
        except BaseException as error:
            return None, error

    # ---- its outcome -------------------------------------------------------------------------------------------

    def _succeed(self, value: Any) -> None:
        codec, returns = self._body.codec, self._options.returns
        try:
            encoded = codec.encode(value, returns, where="")
        except CodecError:
            try:  # its place is named only now, for that costs more than all the rest
                encoded = codec.encode(value, returns, where=self._where())
            except CodecError as error:
                self._record_failure(error, compensates=self._options.compensates)
                return
        self.outcome = encoded.value
        self.record(
            now=self._body.clock.stamp(),
            started_at=self.started_at,
            attempt=max(1, self._attempt),
            result=encoded.text,
            compensates=self._options.compensates,
            earlier=self._earlier,
        )

    def _fail(self, error: Exception) -> None:
        delay = None
        if self.raise_cancel is None and self._attempt:
            delay = delay_after(self._options.retry, self._attempt, error, chance=random.random())
        if delay is None:
            self._record_failure(error)
            return
        clock = self._body.clock
        now = clock.stamp()
        if clock.due(now, stamped_at=self.started_at) != clock.due(now):
            self.started_at = now  # the wall clock was set meanwhile, and the wait is of after that
        text, _ = self._body.failures.encode(error, where=self._where())
        self._earlier = remember(self._earlier, error, attempt=self._attempt, at=now)
        wait = WaitRow(
            key=self.key,
            kind="retry",
            due_at=due_after(now, delay),
            attempt=self._attempt,
            error=text,
            started_at=self.started_at,
            earlier=self._earlier,
        )
        self.state.agenda.waits[self.key] = wait
        self.state.port.advance(partial(self._scheduled, wait, delay), waits=(wait,))

    def _scheduled(self, wait: WaitRow, delay: float, outcome: Any) -> None:
        if outcome is True:
            self._body.resident.retried(self.kind, wait, delay)
        if outcome is True and self.raise_cancel is None:
            self.state.agenda.set_timer(self, self.state.agenda.waits[self.key].due_at or 0)
        self.state.check(outcome)

    def _record_failure(self, error: Exception, *, compensates: bool = False) -> None:
        text, rebuilt = self._body.failures.encode(error, where=self._where())
        self.outcome = rebuilt
        status = StepStatus.TIMED_OUT if is_a(error, StepTimeout) else StepStatus.FAILED
        self.record(
            now=self._body.clock.stamp(),
            started_at=self.started_at,
            status=status,
            attempt=max(1, self._attempt),
            error=text,
            compensates=compensates,
            earlier=self._earlier,
        )

    def _where(self) -> str:
        return self._body.where(self.kind, self.key)


async def run_step(
    branch: Branch, name: str, fn: Callable[..., Any], args: tuple[Any, ...], options: StepOptions[Any]
) -> Any:
    """Run a function and record its outcome; see ``Context.step``."""
    body = branch.body
    chosen = PLAIN.get(fn) if not options and type(fn) is FunctionType and not fn.__dict__ else None
    if chosen is None:
        chosen = function_options("ctx.step", fn, options)
    call = FunctionCall(body, StepKind.STEP, branch.next_key("step name", name), fn, args, chosen)
    row = await body.lobby.perform(call)  # awaited here: each frame around a wait is gone through twice
    if row.error is None and call.outcome is not None and not row.compensates:
        return call.outcome
    return outcome_of(body, call, row, chosen.returns, options)


def outcome_of(
    body: Body, call: FunctionCall, row: HistoryRow, annotation: Any, options: TransactionOptions[Any]
) -> Any:
    """Return or raise the outcome of a call; what it has registered can be undone from then on."""
    result = None
    try:
        result = body.deliver(call, row, annotation)
    finally:
        if row.compensates and not body.state.port.is_cut:
            register(body, options.get("compensate"), options.get("compensate_retry") or NO_RETRY, row, result)
    return result


def register(body: Body, compensate: Callable[[Any], Any] | None, retry: Retry, row: HistoryRow, result: Any) -> None:
    """Have a completed step undone if the run does not complete."""
    if compensate is None:
        body.refuse(
            ProblemKind.DIVERGENCE,
            f"{body.where(row.kind, row.key)} was recorded with a compensation, the code gives none",
        )
    body.saga.register(row.seq, Compensation(step=row.key, fn=compensate, result=result, retry=retry))
