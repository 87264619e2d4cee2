"""The part of a context that runs functions: ``step``, ``transaction`` and ``map``."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Reversible, Set
from datetime import timedelta
from itertools import islice
from types import CoroutineType, FunctionType
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack, cast, overload

import trio

from durable_trio.calls.map import MapCall
from durable_trio.calls.saga import Compensation
from durable_trio.calls.step import NO_RETRY, FunctionCall, FunctionOptions
from durable_trio.calls.transaction import TransactionCall
from durable_trio.clock import seconds_of
from durable_trio.codec import UNANNOTATED
from durable_trio.context.base import ContextBase
from durable_trio.limits import MAP_CONCURRENCY, MAP_ITEMS_MAX
from durable_trio.looks import exact_bool, exact_number, is_a, look, short
from durable_trio.options import check_options
from durable_trio.policies import Retry
from durable_trio.records import HistoryRow, StepKind
from durable_trio.signatures import return_annotation

T = TypeVar("T")
ItemT = TypeVar("ItemT")

_ARGUMENTS: Final = "arguments of the function"


class TransactionOptions(TypedDict, total=False):
    """The keyword options of ``ctx.transaction``; see there."""

    retry: Retry | None
    timeout: float | timedelta | None
    compensate: Callable[[Any], Any] | None
    compensate_retry: Retry | None
    returns: Any


class StepOptions(TransactionOptions, total=False):
    """The keyword options of ``ctx.step``; see there."""

    at_most_once: bool
    abandon: bool


class StepMethods(ContextBase):
    """Durable calls that run a function of the user's."""

    @overload
    async def step(
        self, name: str, fn: Callable[..., Awaitable[T]], *args: Any, **options: Unpack[StepOptions]
    ) -> T: ...
    @overload
    async def step(self, name: str, fn: Callable[..., T], *args: Any, **options: Unpack[StepOptions]) -> T: ...
    async def step(self, name: str, fn: Callable[..., Any], *args: Any, **options: Unpack[StepOptions]) -> Any:
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
        chosen = _function_options("ctx.step", fn, options)
        call = FunctionCall(self._env, StepKind.STEP, self._next_key("step name", name), fn, args, chosen)
        return await self._perform(call, chosen.returns, options)

    async def transaction(
        self, name: str, fn: Callable[..., T], *args: Any, **options: Unpack[TransactionOptions]
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
        check_options("ctx.transaction", options, TransactionOptions.__annotations__, arguments=_ARGUMENTS)
        chosen = _function_options("ctx.transaction", fn, cast(StepOptions, options))
        key = self._next_key("transaction name", name)
        call = TransactionCall(self._env, StepKind.TRANSACTION, key, fn, args, chosen)
        result: T = await self._perform(call, chosen.returns, options)
        return result

    async def _perform(self, call: FunctionCall, annotation: Any, options: TransactionOptions) -> Any:
        env = self._env
        row = await env.turns.perform(call)
        result = None
        try:
            result = env.deliver(call, row, annotation)
        finally:
            if row.compensates and not env.turns.port.is_cut:
                self._register(options.get("compensate"), options.get("compensate_retry") or NO_RETRY, row, result)
        return result

    def _register(self, compensate: Callable[[Any], Any] | None, retry: Retry, row: HistoryRow, result: Any) -> None:
        """Have a completed step undone if the run does not complete."""
        env = self._env
        if compensate is None:
            env.park(
                "divergence",
                f"{env.where(row.kind, row.key)} was recorded with a compensation, the code gives none",
            )
        env.saga.register(row.seq, Compensation(step=row.key, fn=compensate, result=result, retry=retry))

    # ---- map ---------------------------------------------------------------------------------------------------

    @overload
    async def map(
        self,
        name: str,
        fn: Callable[[ItemT], Awaitable[T]],
        items: Iterable[ItemT],
        *,
        return_exceptions: Literal[False] = False,
        limit: int | None = None,
        **options: Unpack[StepOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        name: str,
        fn: Callable[[ItemT], T],
        items: Iterable[ItemT],
        *,
        return_exceptions: Literal[False] = False,
        limit: int | None = None,
        **options: Unpack[StepOptions],
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        name: str,
        fn: Callable[[ItemT], Any],
        items: Iterable[ItemT],
        *,
        return_exceptions: bool,
        limit: int | None = None,
        **options: Unpack[StepOptions],
    ) -> list[Any]: ...
    async def map(
        self,
        name: str,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        return_exceptions: bool = False,
        limit: int | None = None,
        **options: Unpack[StepOptions],
    ) -> list[Any]:
        """Run ``fn(item)`` as a step for each item, concurrently, and return the results in the order of the items.

        Each outcome is recorded by itself, so that after a crash only unfinished items run again. The items must be
        the same at replay, in the same order: outcomes belong to places.

        Args:
            items: any iterable with an order of its own, taken whole before the first step begins. A list that was
                made of a set has the order of this process: sort it.
            limit: how many run at once; default 100.
            return_exceptions: give failures back as values in their places, instead of raising the first.
            options: those of ``step``, for each item.

        Raises:
            Exception: the failure of the item that failed first; the others are cancelled and waited for.
            TypeError: ``items`` is a set, whose order is another one in each process, or cannot be iterated over.

        *Cancellation:* the items that run are cancelled and waited for; recorded ones stay recorded.
        """
        self._check_task()
        count = exact_number(limit)
        if limit is not None and (type(count) is not int or count < 1):
            raise ValueError(f"limit must be a whole number of at least 1, not {short(limit)}")
        given = _in_order(items)
        key = self._next_key("map name", name)
        call = MapCall(
            self._env,
            key,
            fn,
            given,
            _function_options("ctx.map", fn, options),
            limit=MAP_CONCURRENCY if limit is None else count,
            return_exceptions=exact_bool(return_exceptions, what="return_exceptions"),
            registered=functools.partial(
                self._register, options.get("compensate"), options.get("compensate_retry") or NO_RETRY
            ),
        )
        if call.is_empty:
            await trio.lowlevel.checkpoint()
            return []
        results: list[Any] = await self._env.turns.perform(call)
        return results


def _in_order(items: Iterable[Any]) -> list[Any]:
    """Return the items of a map as a list, unless their order is an accident of this process."""
    # Views of a dict are sets, too, and so are the ordered sets of some libraries; those can be gone through backwards.
    if (isinstance(items, Set) and not isinstance(items, Reversible)) or type(items) in _SET_ITERATORS:
        raise TypeError(
            f"ctx.map takes items in an order that is the same at replay; a {type(items).__name__} has none:"
            " pass sorted(items), or a list"
        )
    if not isinstance(items, Iterable) and hasattr(type(items), "__aiter__"):
        raise TypeError(
            f"ctx.map takes an ordinary iterable, not the asynchronous {type(items).__name__}:"
            " collect its items in a step"
        )
    found = list(islice(iter(items), MAP_ITEMS_MAX + 1))
    if len(found) > MAP_ITEMS_MAX:
        raise ValueError(f"ctx.map takes at most {MAP_ITEMS_MAX} items; make several maps of them")
    return found


_SET_ITERATORS: Final = (type(iter(set[Any]())), type(iter(frozenset[Any]())))


def _function_options(what: str, fn: Callable[..., object], options: StepOptions) -> FunctionOptions:
    if not callable(fn):
        if type(fn) is CoroutineType:
            fn.close()  # else Python warns of it as well
        raise TypeError(f"{what} takes a function, then its arguments, not {short(fn)}; do not call it yourself")
    if not options:
        return _plain_options(_returned(fn))
    check_options(what, options, StepOptions.__annotations__, arguments=_ARGUMENTS)
    retry, timeout, returns = options.get("retry"), options.get("timeout"), options.get("returns")
    for name, value in (("retry", retry), ("compensate_retry", options.get("compensate_retry"))):
        if value is not None and not is_a(value, Retry):
            raise TypeError(f"{what}: {name} must be a Retry, such as Retry.fixed(3, 1), not {short(value)}")
    compensate = options.get("compensate")
    if compensate is not None and not callable(compensate):
        raise TypeError(f"{what}: compensate must be a function, not {short(compensate)}; do not call it yourself")
    at_most_once = exact_bool(options.get("at_most_once", False), what=f"{what}: at_most_once")
    if at_most_once and retry is not None and retry.max_attempts > 1:
        raise ValueError(f"{what}: at_most_once and retry contradict each other")
    return FunctionOptions(
        retry=retry or NO_RETRY,
        timeout=None if timeout is None else seconds_of(timeout, what="timeout"),
        at_most_once=at_most_once,
        abandon=exact_bool(options.get("abandon", False), what=f"{what}: abandon"),
        returns=_returned(fn) if returns is None else returns,
        compensates=compensate is not None,
    )


def _returned(fn: Callable[..., object]) -> Any:
    """Return the annotated result type of a function; of an object that does not let itself be asked, none."""
    if type(fn) is FunctionType:
        return return_annotation(fn)
    return look(return_annotation, fn, instead=lambda _: UNANNOTATED)


def _plain_options(returns: Any) -> FunctionOptions:
    """Return the options of a step that names none; most do, and a class is a fine key."""
    if type(returns) is not type:
        return FunctionOptions(returns=returns)
    found = _plain.get(returns)
    if found is None:
        if len(_plain) >= _PLAIN_MAX:
            _plain.clear()
        found = _plain[returns] = FunctionOptions(returns=returns)
    return found


_PLAIN_MAX: Final = 1024
_plain: dict[type, FunctionOptions] = {}
