"""``ctx.map``: one step per item, without a task of the body for each.

The body waits in one call, the map; the items are calls without a task, whose rows are collected by the map. They
hold no code of the body, so all rows that are ready are taken in one turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import outcome

from durable_trio.calls.body import Environment
from durable_trio.calls.step import FunctionCall, FunctionOptions
from durable_trio.errors import Detached, RunExpired
from durable_trio.records import HistoryRow, Key, StepKind
from durable_trio.turns.call import Call

ITEM_NAME = "item"


class MapCall(Call):
    """Waits for the items; the body gets their results, in order, or the first failure."""

    kind = StepKind.MAP

    def __init__(
        self,
        env: Environment,
        key: Key,
        fn: Callable[..., Any],
        items: Sequence[Any],
        options: FunctionOptions,
        *,
        limit: int,
        return_exceptions: bool,
        registered: Callable[[HistoryRow, Any], None],
    ) -> None:
        super().__init__(key)
        self._env = env
        self._fn = fn
        self._items = items
        self._options = options
        self._limit = limit
        self._return_exceptions = return_exceptions
        self._registered = registered
        self._branch = str(key)
        self._results: dict[int, Any] = {}
        self._open: dict[int, MapItem] = {}
        self._next = 0
        self._failure: BaseException | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self._items

    # ---- Call --------------------------------------------------------------------------------------------------

    def parked(self) -> None:
        """At replay: take the rows of the items that have one."""
        for key in self.turns.history.keys_in(self._branch):
            if key.name == ITEM_NAME and key.n < len(self._items):
                self._add(key.n)

    def go_live(self) -> None:
        self._fill()

    def fire(self, now: int) -> None:
        raise AssertionError("a map is never due")

    def cancel(self) -> None:
        for item in list(self._open.values()):
            self.turns.abandon(item)

    def deliver_cancellation(self) -> None:
        self._wake_if_done()

    # ---- items -------------------------------------------------------------------------------------------------

    def _add(self, index: int) -> MapItem:
        item = MapItem(
            self, self._env, Key(self._branch, ITEM_NAME, index), self._fn, self._items[index], self._options
        )
        item.task_context = self.task_context.copy()
        self._open[index] = item
        self.turns.add(item)
        return item

    def _fill(self) -> None:
        """Begin items until the limit is reached."""
        if self.turns.is_expired:
            self._failure = RunExpired("the run's time to live is over; no durable call begins any more")
            return
        if self.turns.is_overdue():
            self.turns.let_begin(self)
            return
        while len(self._open) < self._limit and self._next < len(self._items) and not self.turns.is_held:
            index = self._next
            self._next += 1
            if index not in self._results and index not in self._open:
                item = self._add(index)
                item.is_live = True
                item.go_live()

    def collect(self, item: MapItem, row: HistoryRow) -> None:
        """An item's row is delivered."""
        del self._open[item.key.n]
        result: Any = None
        try:
            result = self._results[item.key.n] = self._env.deliver(item, row, self._options.returns)
        except Detached:
            return  # the run was set aside
        except Exception as error:
            self._results[item.key.n] = error
            if not self._return_exceptions and self._failure is None:
                self._failure = error
                self.cancel()
        if row.compensates:
            self._registered(row, result)
        if self.is_live and self._failure is None and self.raise_cancel is None:
            self._fill()
        self._wake_if_done()

    def released(self, item: MapItem) -> None:
        """An item was cancelled without an outcome."""
        del self._open[item.key.n]
        self._wake_if_done()

    def _wake_if_done(self) -> None:
        """Wake the body once no item can end any more, or all have."""
        if self._open or self.turns.calls.get(self.key) is not self:
            return
        if self.raise_cancel is not None:
            result: outcome.Outcome[Any] = outcome.capture(self.raise_cancel)
        elif self._failure is not None:
            result = outcome.Error(self._failure)
        elif len(self._results) == len(self._items):
            result = outcome.Value([self._results[index] for index in range(len(self._items))])
        else:
            return
        del self.turns.calls[self.key]
        self.wake(result)


class MapItem(FunctionCall):
    """One item: a step whose outcome goes to the map."""

    def __init__(
        self, parent: MapCall, env: Environment, key: Key, fn: Callable[..., Any], item: Any, options: FunctionOptions
    ) -> None:
        super().__init__(env, StepKind.STEP, key, fn, (item,), options)
        self._parent = parent

    @property
    def place_in_wave(self) -> tuple[str | int, ...]:
        """Right before its map, where the map is at replay, whose items without a row do not come again."""
        return (*self._parent.key, 0, self.key.n)

    def deliver(self, row: HistoryRow) -> None:
        self._tell_ended(row)
        self._parent.collect(self, row)

    def deliver_cancellation(self) -> None:
        del self.turns.calls[self.key]
        self.dropped()
        self._parent.released(self)
