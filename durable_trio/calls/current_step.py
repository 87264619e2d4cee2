"""``current_step()``: what a step's function can ask about itself."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

import trio

from durable_trio.logger import RUN_LOGGER_NAME, Logger
from durable_trio.rows import Key


class Called(Protocol):
    """The call of a step, as far as its function may know it."""

    key: Key

    @property
    def run_id(self) -> str: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def idempotency_key(self) -> str: ...


#: Which call's function is running, in which attempt, and what its timeout ends. What the function sees of that is made
#: when it asks: most do not.
CURRENT: ContextVar[tuple[Called, int, list[trio.CancelScope]] | None] = ContextVar(
    "durable_trio_current_step", default=None
)


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


def current_step() -> CurrentStep:
    """Return the step whose function is running; also in the thread of a sync function.

    Raises:
        RuntimeError: not called from a step's function.
    """
    current = CURRENT.get()
    if current is None:
        raise RuntimeError("current_step() works only inside the function of a step")
    return CurrentStep(*current)
