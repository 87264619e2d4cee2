"""A store that can be cut off, before a batch is committed or after it, and that knows the same batch again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from durable_trio.errors import StoreAway
from durable_trio.stores.contract import Advance, Fence, Operation, Store
from durable_trio.stores.questions import Question
from durable_trio.testing.wrapping import WrappedStore

T = TypeVar("T")


class CutOffStore(WrappedStore):
    """Hands everything to another store while it is reached.

    ``is_away`` cuts it off. ``loses_replies``: what comes first then is committed all the same, and the reply is lost.
    ``cuts_off``: a kind of operation before which it is cut off. ``dice``: now and then it is cut off for one call of
    ``apply`` or ``transact``, or some, by turns before and after the commit.
    """

    def __init__(self, inner: Store, *, dice: random.Random | None = None) -> None:
        super().__init__(inner)
        self.may_block = True
        self._dice = dice
        self.is_away = False
        self.loses_replies = False
        #: How often it was called in vain, was applied the same again after it had committed, and had not.
        self.vain_count = self.known_count = self.repeated_count = 0
        self.cuts_off: type[Operation] | None = None
        self._cut_count = 0
        self._in_doubt: list[Operation] | None = None
        self._outcomes: list[Any] | None = None
        #: Outcomes of transactions that were committed, and nobody was told.
        self._done: dict[Callable[[Any], Advance], Any] = {}

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        operations = list(batch)
        if self._in_doubt is not None and not _are_same(self._in_doubt, operations):
            raise ValueError("another batch, while it is not known what became of the one before")
        if not block:
            return None  # as a store in a network may always say
        self._throw()
        self.is_away = self.is_away or (self.cuts_off is not None and self.cuts_off in map(type, operations))
        if self.is_away:
            if self._outcomes is None and self.loses_replies:
                self.loses_replies = False
                self._outcomes = self.inner.apply(operations)
            self._in_doubt = operations
            self._go()
        if self._in_doubt is not None:
            if self._outcomes is None:
                self.repeated_count += 1
            else:
                self.known_count += 1
        outcomes = self.inner.apply(operations) if self._outcomes is None else self._outcomes
        self._in_doubt = self._outcomes = None
        return outcomes

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        self._throw()
        if fn in self._done:
            if self.is_away:
                self._go()
            self.known_count += 1
            return self._done.pop(fn)
        if self.is_away and not self.loses_replies:
            self._go()
        outcome = self.inner.transact(fence, fn, seconds_max=seconds_max)
        if self.is_away:
            self.loses_replies = False
            self._done[fn] = outcome
            self._go()
        return outcome

    def ask(self, question: Question[T]) -> T:
        if self.is_away:
            self._go()
        return self.inner.ask(question)

    def foreign_changes(self) -> bool | None:
        if self.is_away:
            self._go()
        return self.inner.foreign_changes()

    def _throw(self) -> None:
        if self._dice is not None:
            was_away, self.is_away = self.is_away, self._dice.random() < (0.4 if self.is_away else 0.2)
            if self.is_away and not was_away:  # by turns
                self._cut_count += 1
                self.loses_replies = self._cut_count % 2 == 0

    def _go(self) -> None:
        self.vain_count += 1
        raise StoreAway("the database does not answer")


def _are_same(before: Sequence[Operation], now: Sequence[Operation]) -> bool:
    return len(before) == len(now) and all(one is other for one, other in zip(before, now, strict=True))
