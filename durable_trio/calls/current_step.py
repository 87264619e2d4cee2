"""``current_step()``: what a step's function can ask about itself."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import trio

from durable_trio.rows import Key

CURRENT: ContextVar[CurrentStep | None] = ContextVar("durable_trio_current_step", default=None)


class CurrentStep:
    """One attempt of a step, seen from its function.

    ``run_id`` and ``key`` name it; ``attempt`` counts from 1. ``idempotency_key`` is the same across attempts,
    crashes and resumes, and another one for each generation and each re-created run.
    """

    def __init__(
        self,
        run_id: str,
        key: Key,
        attempt: int,
        make_idempotency_key: Callable[[Key], str],
        timeout: float | None,
    ) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.limit: trio.CancelScope | None = None
        self._key = key
        self._make_idempotency_key = make_idempotency_key
        self._timeout = timeout

    @property
    def key(self) -> str:
        """The key of the step's row in the history, as text."""
        return str(self._key)

    @property
    def idempotency_key(self) -> str:
        """32 hexadecimal digits for outside services, so that they recognise a repeated call."""
        return self._make_idempotency_key(self._key)

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
        if self.limit is not None and self._timeout is not None:
            self.limit.deadline = trio.current_time() + self._timeout


def current_step() -> CurrentStep:
    """Return the step whose function is running; also in the thread of a sync function.

    Raises:
        RuntimeError: not called from a step's function.
    """
    current = CURRENT.get()
    if current is None:
        raise RuntimeError("current_step() works only inside the function of a step")
    return current
