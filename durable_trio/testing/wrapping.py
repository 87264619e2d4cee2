"""A store that hands everything to another one; tests override what they want to disturb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from durable_trio.stores.contract import Advance, Fence, Operation, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.questions import Question
from durable_trio.stores.step_slots import StepSlots

T = TypeVar("T")


class WrappedStore(Store):
    """Delegates every verb to ``inner``. To disturb an answer, override ``ask`` and look at the question."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.address = inner.address
        self.path = inner.path
        self.is_shared = inner.is_shared
        self.may_block = inner.may_block
        self.durability = inner.durability
        self.answers_apart = inner.answers_apart
        self.transact_concurrency = inner.transact_concurrency
        self.has_clock = inner.has_clock
        self.takes_open_steps = inner.takes_open_steps

    def open(self) -> None:
        self.inner.open()

    def close(self) -> None:
        self.inner.close()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        return self.inner.apply(batch, block=block)

    def renew_meanwhile(self, executor: int) -> bool | None:
        return self.inner.renew_meanwhile(executor)

    def hurry(self) -> None:
        self.inner.hurry()

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        return self.inner.transact(fence, fn, seconds_max=seconds_max)

    def connect(self) -> Any:
        return self.inner.connect()

    def read_cursor(self, text: str) -> Cursor:
        return self.inner.read_cursor(text)

    @property
    def poll_seconds(self) -> float:
        return self.inner.poll_seconds

    @property
    def doubt_seconds(self) -> float:
        return self.inner.doubt_seconds

    @property
    def doorbell(self) -> int | None:
        return self.inner.doorbell

    def foreign_changes(self) -> bool | None:
        return self.inner.foreign_changes()

    def read_clock(self) -> int:
        return self.inner.read_clock()

    def note_steps(self, executor: int) -> StepSlots | None:
        return self.inner.note_steps(executor)

    def ask(self, question: Question[T]) -> T:
        return self.inner.ask(question)

    def tidy(self) -> None:
        self.inner.tidy()
