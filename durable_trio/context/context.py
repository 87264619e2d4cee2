"""``Context``: the first argument of every workflow, and the map of all durable calls.

Long, because each call has its promise beside it; each method is a line or two. What a call does stands in
``durable_trio.calls``, one file a kind.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, TypeVar, TypeVarTuple, Unpack, overload

import trio

from durable_trio.calls.body import Branch
from durable_trio.calls.change import patched
from durable_trio.calls.child import ChildOptions, RunChildOptions, run_child, start_child
from durable_trio.calls.deadline import move_on_after
from durable_trio.calls.generation import continue_as_new
from durable_trio.calls.map import run_map
from durable_trio.calls.publish import publish
from durable_trio.calls.signal import wait_signal
from durable_trio.calls.sleep import after, constant, sleep
from durable_trio.calls.step import run_step
from durable_trio.calls.step_options import StepOptions, TransactionOptions
from durable_trio.calls.transaction import run_transaction
from durable_trio.clock import from_datetime, seconds_of, to_datetime
from durable_trio.context.child_run import ChildRun
from durable_trio.context.log import RunLogger
from durable_trio.context.nursery import DurableNursery, open_nursery
from durable_trio.rules import randomness
from durable_trio.turns.deadlines import DeadlineScope
from durable_trio.workflows import Startable

T = TypeVar("T")
ItemT = TypeVar("ItemT")
Ts = TypeVarTuple("Ts")
R = TypeVar("R")


class Context:
    """What a workflow's body can call. One context belongs to one task.

    *Cancellation:* every awaited method is a cancel point. A call whose outcome is recorded or being recorded gives
    that outcome back even in a cancelled scope; the next cancel point raises.
    *Durability:* when a method returns or raises its outcome, that is committed, and replay gives back the same.
    """

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._body = branch.body
        self._log: RunLogger | None = None

    # ---- facts -------------------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._body.run_id

    @property
    def generation(self) -> int:
        """How often the run has begun a new history; 0 at first."""
        return self._body.generation

    @property
    def replaying(self) -> bool:
        """Whether recorded outcomes are still being given back."""
        return self._body.state.is_replaying

    @property
    def detaching(self) -> bool:
        """Whether the run is leaving this process: ``finally`` blocks run, their durable calls do not."""
        return self._body.is_detaching

    @property
    def log(self) -> RunLogger:
        """A logger that is silent while replaying."""
        if self._log is None:
            self._log = RunLogger(self._body)
        return self._log

    def now(self) -> datetime:
        """Return the time of the last outcome that was given back, in UTC; the same on replay."""
        self._branch.check_task()
        return to_datetime(self._body.state.now)

    def random(self) -> float:
        """Return a float in [0, 1); the same on replay. Not for secrets."""
        self._branch.check_task()
        self._branch.random_count += 1
        return randomness.random_float(
            self._body.seed, self._body.generation, self._branch.path, self._branch.random_count
        )

    def uuid4(self) -> uuid.UUID:
        """Return a UUID of version 4; the same on replay. Not for secrets."""
        self._branch.check_task()
        self._branch.uuid_count += 1
        return randomness.random_uuid(
            self._body.seed, self._body.generation, self._branch.path, self._branch.uuid_count
        )

    # ---- functions ---------------------------------------------------------------------------------------------------

    @overload
    async def step(
        self, name: str, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, **options: Unpack[StepOptions[T]]
    ) -> T: ...
    @overload
    async def step(self, name: str, fn: Callable[[*Ts], T], *args: *Ts, **options: Unpack[StepOptions[T]]) -> T: ...
    async def step(  # type: ignore[misc]  # takes *Ts
        self, name: str, fn: Any = None, *args: Any, **options: Unpack[StepOptions[Any]]
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
        return await run_step(self._branch, name, fn, args, options)

    async def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], T] = None,  # type: ignore[assignment]  # noqa: RUF013  # for the error
        *args: *Ts,
        **options: Unpack[TransactionOptions[T]],
    ) -> T:
        """Run ``fn(connection, *args)`` inside the store's own transaction: its rows and the outcome, or neither.

        ``fn`` is sync and short: all other writes to an SQLite file wait meanwhile. It must not commit, attach, set
        pragmas, or write to the engine's tables, and may be called again after a crash or a rollback. Annotate
        ``connection`` as ``durable_trio.sqlite3.Connection``; on a server it is a ``psycopg.Connection``, whose
        statements take values as ``%s`` and not as ``?``.

        Args:
            timeout: seconds that the database may spend in it; default 30.
            retry, compensate, compensate_retry, returns: as for ``step``.

        Raises:
            Exception: what ``fn`` raised; its rows are rolled back, the failure is recorded.
            StepTimeout: it took too long; rolled back.
        """
        result: T = await run_transaction(self._branch, name, fn, args, options)
        return result

    @overload
    async def map(
        self,
        name: str,
        fn: Callable[[ItemT], Awaitable[T]],
        items: Iterable[ItemT],
        *,
        return_exceptions: Literal[False] = False,
        limit: int | None = None,
        **options: Unpack[StepOptions[T]],
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
        **options: Unpack[StepOptions[T]],
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
        **options: Unpack[StepOptions[Any]],
    ) -> list[Any]: ...
    async def map(
        self,
        name: str,
        fn: Any = None,
        items: Any = None,
        *,
        return_exceptions: bool = False,
        limit: int | None = None,
        **options: Unpack[StepOptions[Any]],
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
        return await run_map(self._branch, name, fn, items, options, return_exceptions=return_exceptions, limit=limit)

    # ---- waits, and values for others --------------------------------------------------------------------------------

    async def sleep(self, duration: float | timedelta, *, name: str = "sleep") -> None:
        """Sleep for some seconds, over any number of restarts; the first due time is kept. Zero is due at once.

        Raises:
            ValueError: the duration is NaN.
        """
        self._branch.check_task()
        await sleep(self._branch, name, after(seconds_of(duration)))

    async def sleep_until(self, when: datetime, *, name: str = "sleep") -> None:
        """Sleep until an instant, over any number of restarts; a past one is due at once.

        Raises:
            ValueError: the datetime has no time zone.
        """
        self._branch.check_task()
        await sleep(self._branch, name, constant(from_datetime(when)))

    # For mypy, in this order: a class; an abstract one or a protocol; a class that is not what is expected where the
    # result goes, so that it is refused there, instead of being taken for ``Any`` as all else is (a union, say).
    @overload
    async def wait_signal(self, name: str, type: type[T], *, timeout: float | timedelta | None = None) -> T: ...
    @overload
    async def wait_signal(
        self, name: str, type: Callable[..., T], *, timeout: float | timedelta | None = None
    ) -> T: ...
    @overload
    async def wait_signal(  # type: ignore[overload-cannot-match]  # it is, where the result is to be another
        self, name: str, type: type[object], *, timeout: float | timedelta | None = None
    ) -> object: ...
    @overload
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any: ...
    async def wait_signal(self, name: str, type: Any = Any, *, timeout: float | timedelta | None = None) -> Any:
        """Return the payload of the next signal of that name; one that came before the wait counts.

        Args:
            type: what the payload is converted to; default what ``@workflow(signals=…)`` says, else plain JSON.
            timeout: seconds after which to give up; the due time is kept over restarts.

        Raises:
            SignalTimeout: none came in time; recorded, and a later one is kept for the next wait.
            CodecError: the payload is of another type; the signal is consumed.
        """
        return await wait_signal(self._branch, name, type, timeout)

    async def publish(self, key: str, value: Any) -> None:
        """Make a value readable by ``run.value(key)`` and in ``watch``; a new one replaces the old.

        It is read as the JSON that it is stored as: that of a class's own, if it is no JSON; ``run.value(key, type)``
        gives it back as what it was.

        It never goes back: what was published before is not written again when the run is taken up again. In a durable
        scope whose time is over nothing is published any more.

        Raises:
            CodecError: it cannot be stored, by its own class.
        """
        await publish(self._branch, key, value)

    # ---- children ----------------------------------------------------------------------------------------------------

    @overload
    async def start_child(self, workflow: str, /, *args: Any, **options: Unpack[ChildOptions]) -> ChildRun[Any]: ...
    @overload
    async def start_child(
        self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[ChildOptions]
    ) -> ChildRun[R]: ...
    async def start_child(  # type: ignore[misc]  # takes *Ts
        self, workflow: Any, /, *args: Any, **options: Any
    ) -> ChildRun[Any]:
        """Start a child run: exactly one for this call, whatever crashes.

        The run does not end before its children have; if it fails or is cancelled, they are cancelled first.

        Args:
            id: the child's id; default one made of the run's.
            detached: let the child live on by itself.
            options: those of ``engine.start``.

        Raises:
            RunConflict: there is a run with that id already.
        """
        return ChildRun(self._body, await start_child(self._branch, workflow, args, options))

    @overload
    async def run_child(self, workflow: str, /, *args: Any, **options: Unpack[RunChildOptions]) -> Any: ...
    @overload
    async def run_child(self, workflow: Startable[*Ts, R], /, *args: *Ts, **options: Unpack[RunChildOptions]) -> R: ...
    async def run_child(self, workflow: Any, /, *args: Any, **options: Any) -> Any:  # type: ignore[misc]  # takes *Ts
        """Start a child run and wait for its result.

        Args:
            compensate: ``compensate(result)`` undoes the child if this run fails later.
            options: those of ``engine.start``.

        *Cancellation:* cancels the child and waits for its end.

        Raises:
            RunFailed, RunCancelled, RunExpired: it did not complete.
        """
        return await run_child(self._branch, workflow, args, options)

    # ---- structure ---------------------------------------------------------------------------------------------------

    def open_nursery(self) -> AbstractAsyncContextManager[DurableNursery]:
        """Open a nursery of durable branches: the block ends when all of them have.

        As in trio, one that fails cancels the others and the block, and failures come out as an ``ExceptionGroup``.

        Raises:
            RecursionError: 100 of them are open around this one, in this branch and those around it.
        """
        return open_nursery(self._branch, Context)

    def move_on_after(
        self, duration: float | timedelta, *, shield: bool = False
    ) -> AbstractContextManager[DeadlineScope]:
        """Leave the block when ``duration`` seconds have passed since it was entered, over any number of restarts.

        The time of entry is that of the last recorded outcome, so it is the same at replay; the expiry is a row.

        Args:
            shield: keep cancellation from outside off the block, as in trio.
        """
        return move_on_after(self._branch, duration, shield=shield)

    @contextmanager
    def fail_after(self, duration: float | timedelta, *, shield: bool = False) -> Iterator[DeadlineScope]:
        """Like ``move_on_after``, and raise ``trio.TooSlowError`` if the block was left because of it."""
        with move_on_after(self._branch, duration, shield=shield) as scope:
            yield scope
        if scope.cancelled_caught:
            raise trio.TooSlowError

    def patched(self, change_id: str, *, recorded: tuple[str, str] | Sequence[tuple[str, str]] | None = None) -> bool:
        """Return whether this run takes the new way of a change, so that old and new runs live side by side.

        True for a run that reaches it with nothing recorded beyond it; False for one whose history goes on here, which
        was recorded by the code before the change. What it says once it says at every replay, and by every code that
        asks: a True is recorded with whatever is recorded next, and code that does not ask for it does not execute the
        run. Each question decides by itself: a loop may change over in its middle, and each branch by itself. It needs
        no ``await``, and its id may be that of a call.

        Args:
            change_id: 1 to 256 characters.
            recorded: for a change that was served without ``patched`` at first: the calls with which the new way may
                begin, each a kind and a name as ``durable-trio show`` prints them, as ``("step", "check fraud")``. Then
                it is True also where that call is what this branch has recorded next, or waits in. Kinds: ``step``,
                ``transaction``, ``sleep``, ``signal``, ``child`` (by its workflow), ``map``, ``nursery``, ``deadline``.
                Give that call a name which nothing of the old way has there.

        Raises:
            RuntimeError: called from another task than the context's.
            TypeError, ValueError: an id that is no name, or something else in ``recorded``.
        """
        return patched(self._branch, change_id, recorded)

    @overload
    async def continue_as_new(
        self, *args: *Ts, workflow: Startable[*Ts, Any], version: int | Literal["newest"] | None = None
    ) -> NoReturn: ...
    @overload
    async def continue_as_new(self, *args: Any, version: int | Literal["newest"] | None = None) -> NoReturn: ...
    async def continue_as_new(  # type: ignore[misc]  # takes *Ts
        self, *args: Any, workflow: Any = None, version: int | Literal["newest"] | None = None
    ) -> NoReturn:
        """End this history and go on with a new generation under the same id, with new arguments.

        Unread signals carry over; registered compensations are dropped; what was published stays. Keeps a run that
        goes on for ever from growing a history that does. The last ten histories that it has ended are kept, to be
        looked at: ``run.steps(generation=…)``, ``Engine(generations_kept=…)``.

        Args:
            args: those of the run's own workflow, after the context; defaults fill up those that are left out.
            workflow: the run's own workflow, so that type checkers know what it takes, which a context cannot tell
                them: ``ctx.continue_as_new(day + 1, workflow=daily)``.
            version: which version of it goes on; default the one that the run has, ``"newest"`` the newest that this
                process has. A run goes on where that version is served, and waits until then.

        Raises:
            TypeError: too few or too many arguments; names those that are missing.
            CodecError: an argument is not of its parameter's type, which it names, or cannot be stored.
            RuntimeError: not in the body itself, or inside an open nursery of it.
            ValueError: ``workflow`` is another one, or of another version than the run goes on with.
        """
        await continue_as_new(self._branch, args, workflow, version)
