"""``current_step()``: what a step's function can ask about itself, and of the engine that executes it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

import trio

from durable_trio.calls.current_step import CURRENT, Called
from durable_trio.engine.engine import Engine
from durable_trio.logger import RUN_LOGGER_NAME, Logger
from durable_trio.records import StepKind

__all__ = ["CurrentStep", "current_step"]


class CurrentStep:
    """One attempt of a step, seen from its function.

    ``run_id`` and ``key`` name it; ``attempt`` counts from 1, up to ``max_attempts``. ``idempotency_key`` is the same
    across attempts, crashes and resumes, and another one for each generation and each re-created run.
    """

    def __init__(self, call: Called, attempt: int, limits: list[trio.CancelScope]) -> None:
        self.run_id = call.run_id
        self.attempt = attempt
        self._call = call
        self._limits = limits

    @property
    def key(self) -> str:
        """The key of the step's row in the history, as text."""
        return str(self._call.key)

    @property
    def max_attempts(self) -> int:
        """How many attempts the step has at most: in the last one, a failure is the step's."""
        return self._call.max_attempts

    @property
    def log(self) -> Logger:
        """A logger that names the run, the step and the attempt in the ``extra`` of its lines: those of ``ctx.log``."""
        fields = {"run_id": self.run_id, "step": self.key, "attempt": self.attempt}
        return Logger(RUN_LOGGER_NAME, fields)

    @property
    def idempotency_key(self) -> str:
        """32 hexadecimal digits for outside services, so that they recognise a repeated call."""
        return self._call.idempotency_key

    @property
    def engine(self) -> Engine:
        """The engine that executes the step, open: start, signal, list and watch runs with it.

        What the function does with it is done again if the function runs again, as all that it does: give a run that
        it starts an ``id`` made of ``idempotency_key``, and a signal too. While it waits for a run, its own run lends
        its place, so that the other one finds one.

        A sync function runs in a thread, and has the engine's async methods called where the engine is:
        ``trio.from_thread.run(current_step().engine.start, order, cart)``, with ``functools.partial`` for options.

        Raises:
            RuntimeError: in the function of a transaction, which all other writes wait for.
        """
        self._check_no_transaction("engine")
        engine = cast(Engine, self._call.engine)
        return engine if trio.lowlevel.in_trio_task() else cast(Engine, _InThread(engine, self.key))

    def publish(self, key: str, value: Any) -> Awaitable[None]:
        """Make a value readable by ``run.value(key)`` and in ``watch``, while the step is executing.

        As ``ctx.publish``, from an async or a sync function, and of the same keys; a new value replaces the old. Only
        the attempt that is under way publishes: what is left of one that is over (a thread that was let go of, say) is
        refused, and a replay runs no function. So no value gives way to an older one; an attempt after a crash finds
        what is there by ``engine.get(run_id).value(key)``.

        *Durability:* it is handed to the store at once, and committed no later than the step's outcome. What a function
        publishes faster than that is committed is not queued up: the newest of each key is. In an async function
        ``await current_step().publish(…)`` returns once it is committed; otherwise leave out the ``await``.

        Raises:
            CodecError: it cannot be stored, by its own class.
            RuntimeError: the attempt is over; or in the function of a transaction, which all other writes wait for.
        """
        self._check_no_transaction("publish")
        return _Published(_at_home(self._call.publish, self.attempt, key, value))

    def heartbeat(self) -> None:
        """Say that the function is alive: its timeout starts anew. In a sync function this is the cancel point.

        Raises:
            trio.Cancelled: in a sync function whose step was cancelled or is past its timeout; let it through.
        """
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            trio.from_thread.check_cancelled()
            trio.from_thread.run_sync(self._extend)
        else:
            self._extend()

    def _extend(self) -> None:
        timeout = self._call.timeout
        for limit in self._limits:
            if timeout is not None:
                limit.deadline = trio.current_time() + timeout

    def _check_no_transaction(self, what: str) -> None:
        if self._call.kind is StepKind.TRANSACTION:
            raise RuntimeError(
                f"current_step().{what} is not for the function of a transaction, as that of {self.key!r}: nothing "
                "else is written before it has returned; do it in a step, or in the body"
            )


class _Published:
    """A value that a step has published: awaited in an async function, it returns once that is committed."""

    def __init__(self, committed: trio.Event) -> None:
        self._committed = committed

    def __await__(self) -> Generator[Any, Any, None]:
        return self._committed.wait().__await__()


class _InThread:
    """An engine as a thread has it: its async methods are for ``trio.from_thread.run``."""

    def __init__(self, engine: Engine, key: str) -> None:
        self._engine = engine
        self._key = key

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            if trio.lowlevel.in_trio_task():
                return found(*args, **options)
            raise RuntimeError(
                f"the function of step {self._key!r} is sync and runs in a thread, where nothing can be awaited: write "
                f"trio.from_thread.run(current_step().engine.{name}, …), or make it an `async def`"
            )

        return call


def _at_home(fn: Callable[..., trio.Event], *args: Any) -> trio.Event:
    """Call ``fn`` where the run is, also from the thread of a sync function."""
    return fn(*args) if trio.lowlevel.in_trio_task() else trio.from_thread.run_sync(fn, *args)


def current_step() -> CurrentStep:
    """Return the step whose function is running; also in the thread of a sync function.

    Raises:
        RuntimeError: not called from a step's function.
    """
    current = CURRENT.get()
    if current is None:
        raise RuntimeError("current_step() works only inside the function of a step")
    return CurrentStep(*current)
