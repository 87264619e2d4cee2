"""Which step's function is running; what it may ask, ``engine.current_step`` gives it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

import trio

from durable_trio.records import StepKind
from durable_trio.rows import Key


class Called(Protocol):
    """The call of a step, as far as its function may know it."""

    key: Key
    kind: StepKind

    @property
    def run_id(self) -> str: ...
    @property
    def engine(self) -> object: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def idempotency_key(self) -> str: ...
    def publish(self, attempt: int, key: str, value: Any) -> trio.Event: ...
    def leave(self) -> None: ...


#: Which call's function is running, in which attempt, and what its timeout ends. What the function sees of that is made
#: when it asks: most do not.
CURRENT: ContextVar[tuple[Called, int, list[trio.CancelScope]] | None] = ContextVar(
    "durable_trio_current_step", default=None
)
