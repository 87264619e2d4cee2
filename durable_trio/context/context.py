"""``Context``: the first argument of every workflow, and the only way to durable calls.

Each method gives its call a key by the structure of the program, has the turns perform it, and converts what comes back.
"""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

import trio

from durable_trio.clock import from_datetime, seconds_of, to_datetime
from durable_trio.codec import UNANNOTATED
from durable_trio.context.environment import Environment
from durable_trio.context.functions import NO_RETRY, FunctionCall, FunctionOptions
from durable_trio.context.saga import Compensation
from durable_trio.context.transactions import TransactionCall
from durable_trio.context.waits import SignalCall, SleepCall, after, constant
from durable_trio.limits import check_name
from durable_trio.policies import Retry
from durable_trio.records import Key, StepKind
from durable_trio.rules import randomness
from durable_trio.workflow import resolved_annotations

T = TypeVar("T")

_LOGGER = logging.getLogger("durable_trio.run")


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that names the run and is silent while the run replays what it has logged before."""

    def __init__(self, env: Environment) -> None:
        super().__init__(_LOGGER, {"run_id": env.run_id})
        self._env = env

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return not self._env.turns.is_replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        return msg, kwargs


class Context:
    """What a workflow's body can call. One context belongs to one task.

    *Cancellation:* every awaited method is a cancel point. A call whose outcome is recorded or being recorded gives
    that outcome back even in a cancelled scope; the next cancel point raises.
    *Durability:* when a method returns or raises its outcome, that is committed, and replay gives back the same.
    """

    def __init__(self, env: Environment, *, branch: str = "") -> None:
        self._env = env
        self._branch = branch
        self._task = trio.lowlevel.current_task()
        self._counts: dict[str, int] = {}
        self._random_count = 0
        self._uuid_count = 0
        self._log: RunLogger | None = None

    # ---- facts -------------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._env.run_id

    @property
    def generation(self) -> int:
        """How often the run has begun a new history; 0 at first."""
        return self._env.generation

    @property
    def replaying(self) -> bool:
        """Whether recorded outcomes are still being given back."""
        return self._env.turns.is_replaying

    @property
    def detaching(self) -> bool:
        """Whether the run is leaving this process: ``finally`` blocks run, their durable calls do not."""
        return self._env.is_detaching

    @property
    def log(self) -> RunLogger:
        """A logger that is silent while replaying."""
        if self._log is None:
            self._log = RunLogger(self._env)
        return self._log

    def now(self) -> datetime:
        """Return the time of the last outcome that was given back, in UTC; the same on replay."""
        return to_datetime(self._env.turns.now)

    def random(self) -> float:
        """Return a float in [0, 1); the same on replay. Not for secrets."""
        self._check_task()
        self._random_count += 1
        return randomness.random_float(self._env.seed, self._env.generation, self._branch, self._random_count)

    def uuid4(self) -> uuid.UUID:
        """Return a UUID of version 4; the same on replay. Not for secrets."""
        self._check_task()
        self._uuid_count += 1
        return randomness.random_uuid(self._env.seed, self._env.generation, self._branch, self._uuid_count)

    # ---- steps -------------------------------------------------------------------------------------------------

    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        compensate: Callable[[Any], Any] | None = None,
        compensate_retry: Retry | None = None,
        at_most_once: bool = False,
        abandon: bool = False,
        returns: Any = None,
    ) -> T: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        compensate: Callable[[Any], Any] | None = None,
        compensate_retry: Retry | None = None,
        at_most_once: bool = False,
        abandon: bool = False,
        returns: Any = None,
    ) -> T: ...
    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        compensate: Callable[[Any], Any] | None = None,
        compensate_retry: Retry | None = None,
        at_most_once: bool = False,
        abandon: bool = False,
        returns: Any = None,
    ) -> Any:
        """Run ``fn(*args)`` and record its outcome; at replay give back the recorded one.

        Args:
            name: the step's name, 1 to 256 characters; it may come again.
            fn: async, or sync (it runs in a thread). It runs again only if the process died before its commit.
            retry: when to try again; default once.
            timeout: seconds per attempt; a sync function is waited for unless it calls ``heartbeat()``.
            compensate: ``compensate(result)``, async or sync, undoes the step if the run fails later.
            compensate_retry: when to try a failed compensation again.
            at_most_once: record the intent first; after a crash ``StepInterrupted`` instead of a second run.
            abandon: let go of a sync function's thread on cancel and timeout.
            returns: the type of the result; default ``fn``'s annotation.

        Raises:
            Exception: what ``fn`` raised, as itself where it can be given back, else ``StepFailed``.
            StepTimeout: the last attempt took too long.
            StepInterrupted: see ``at_most_once``.
            CodecError: the result cannot be stored; recorded as any failure, ``compensate`` gets ``None``.
            ValueError: ``at_most_once`` with ``retry``, or a name that cannot be stored.
        """
        self._check_task()
        if at_most_once and retry is not None and retry.max_attempts > 1:
            raise ValueError(f"step {name!r}: at_most_once and retry contradict each other")
        options = FunctionOptions(
            retry=retry or NO_RETRY,
            timeout=None if timeout is None else seconds_of(timeout, what="timeout"),
            at_most_once=at_most_once,
            abandon=abandon,
            returns=return_annotation(fn) if returns is None else returns,
            compensates=compensate is not None,
        )
        call = FunctionCall(self._env, StepKind.STEP, self._next_key("step name", name), fn, args, options)
        return await self._perform(call, options.returns, compensate, compensate_retry)

    async def transaction(
        self,
        name: str,
        fn: Callable[..., T],
        *args: Any,
        retry: Retry | None = None,
        timeout: float | timedelta | None = None,
        compensate: Callable[[Any], Any] | None = None,
        compensate_retry: Retry | None = None,
        returns: Any = None,
    ) -> T:
        """Run ``fn(connection, *args)`` inside the store's own transaction: its rows and the outcome, or neither.

        ``fn`` is sync and short: all other writes to the file wait meanwhile. It must not commit, attach, set
        pragmas, or write to the engine's tables, and may be called again after a crash or a rollback.

        Args:
            timeout: seconds that SQLite may spend in it; default 30.
            retry, compensate, compensate_retry, returns: as for ``step``.

        Raises:
            Exception: what ``fn`` raised; its rows are rolled back, the failure is recorded.
            StepTimeout: it took too long; rolled back.
        """
        self._check_task()
        options = FunctionOptions(
            retry=retry or NO_RETRY,
            timeout=None if timeout is None else seconds_of(timeout, what="timeout"),
            returns=return_annotation(fn) if returns is None else returns,
            compensates=compensate is not None,
        )
        key = self._next_key("transaction name", name)
        call = TransactionCall(self._env, StepKind.TRANSACTION, key, fn, args, options)
        result: T = await self._perform(call, options.returns, compensate, compensate_retry)
        return result

    async def _perform(
        self,
        call: FunctionCall,
        annotation: Any,
        compensate: Callable[[Any], Any] | None,
        compensate_retry: Retry | None,
    ) -> Any:
        env = self._env
        row = await env.turns.perform(call)
        result = None
        try:
            result = env.deliver(call, row, annotation)
        finally:
            if row.compensates and not env.turns.port.is_cut:
                if compensate is None:
                    env.park(
                        "divergence",
                        f"{env.where(row.kind, row.key)} was recorded with a compensation, the code gives none",
                    )
                undo = Compensation(step=row.key, fn=compensate, result=result, retry=compensate_retry or NO_RETRY)
                env.saga.register(row.seq, undo)
            if env.observe is not None:
                env.observe(
                    "step_ended",
                    {"key": str(row.key), "kind": row.kind, "status": row.status, "attempt": row.attempt},
                )
        return result

    # ---- waits -------------------------------------------------------------------------------------------------

    async def sleep(self, duration: float | timedelta, *, name: str = "sleep") -> None:
        """Sleep for some seconds, over any number of restarts; the first due time is kept. Zero is due at once.

        Raises:
            ValueError: the duration is NaN.
        """
        self._check_task()
        seconds = seconds_of(duration)
        await self._env.turns.perform(SleepCall(self._env, self._next_key("sleep name", name), after(seconds)))

    async def sleep_until(self, when: datetime, *, name: str = "sleep") -> None:
        """Sleep until an instant, over any number of restarts; a past one is due at once.

        Raises:
            ValueError: the datetime has no time zone.
        """
        self._check_task()
        due_at = from_datetime(when)
        await self._env.turns.perform(SleepCall(self._env, self._next_key("sleep name", name), constant(due_at)))

    @overload
    async def wait_signal(
        self, name: str, type: type[T], *, timeout: float | timedelta | None = None
    ) -> T: ...
    @overload
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any: ...
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any:
        """Return the payload of the next signal of that name; one that came before the wait counts.

        Args:
            type: what the payload is converted to; default plain JSON.
            timeout: seconds after which to give up; the due time is kept over restarts.

        Raises:
            SignalTimeout: none came in time; recorded, and a later one is kept for the next wait.
            CodecError: the payload is of another type; the signal is consumed.
        """
        self._check_task()
        seconds = None if timeout is None else seconds_of(timeout, what="timeout")
        call = SignalCall(self._env, self._next_key("signal name", name), name, seconds)
        row = await self._env.turns.perform(call)
        return self._env.deliver(call, row, type)

    async def publish(self, key: str, value: Any) -> None:
        """Make a plain JSON value readable by ``run.value(key)`` and in ``watch``; a new one replaces the old.

        While the run replays nothing is written again.

        Raises:
            CodecError: not made of exact JSON types.
        """
        self._check_task()
        check_name("published key", key)
        env = self._env
        text = env.codec.encode(value, UNANNOTATED, where=f"published value {key!r} of run {env.run_id!r}").text
        await trio.lowlevel.checkpoint()
        env.published[key] = text
        if env.turns.is_live:
            outcome = await env.turns.extend(
                lambda done: env.turns.port.advance(done, published=((key, text),), now=env.clock.now())
            )
            if outcome is not True:
                env.turns.check(outcome)
                await trio.lowlevel.checkpoint()

    # ---- keys --------------------------------------------------------------------------------------------------

    def _check_task(self) -> None:
        if trio.lowlevel.current_task() is not self._task:
            raise RuntimeError(
                f"the context of run {self._env.run_id!r} was used from another task than its own;"
                " give each concurrent part of the workflow a context of its own"
            )

    def _next_key(self, what: str, name: str) -> Key:
        check_name(what, name)
        n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return Key(self._branch, name, n)


@functools.lru_cache(maxsize=4096)
def _annotation_of(function: Callable[..., object]) -> Any:
    return resolved_annotations(function).get("return", UNANNOTATED)


def return_annotation(fn: Callable[..., object]) -> Any:
    """Return the annotated result type of a function, method, partial or callable object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.ismethod(fn):
        fn = fn.__func__
    if not inspect.isfunction(fn):
        fn = getattr(type(fn), "__call__", fn)
    # Only annotated functions are remembered: a lambda made at each call must not be kept alive.
    return _annotation_of(fn) if inspect.isfunction(fn) and fn.__annotations__ else UNANNOTATED
