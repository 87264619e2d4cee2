"""``ctx.map``: one step per item, without a task of the body for each.

The body waits in one call, the map; the items are calls without a task, whose rows are collected by the map. They
hold no code of the body, so all rows that are ready are taken in one turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Reversible, Sequence, Set
from functools import partial
from itertools import islice
from typing import Any, Final

import outcome
import trio

from durable_trio.calls.body import Body, Branch
from durable_trio.calls.step import FunctionCall, register
from durable_trio.calls.step_options import NO_RETRY, FunctionOptions, StepOptions, function_options
from durable_trio.errors import Detached, RunExpired
from durable_trio.limits import MAP_CONCURRENCY, MAP_ITEMS_MAX
from durable_trio.looks import exact_bool, exact_number, short
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key, WaitRow
from durable_trio.turns.call import Call
from durable_trio.turns.stage import BEGIN, Stage

ITEM_NAME = "item"


class MapCall(Call):
    """Waits for the items; the body gets their results, in order, or the first failure."""

    kind = StepKind.MAP

    def __init__(
        self,
        body: Body,
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
        self._body = body
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

    def note(self) -> tuple[WaitRow, ...]:
        """Return what tells how many items there are, the first time; it is stored with the row of an item."""
        waits = self.state.agenda.waits
        if self.key in waits or len(self._items) == 1:
            return ()
        now = self._body.clock.stamp()
        waits[self.key] = WaitRow(key=self.key, kind="map", attempt=len(self._items), started_at=now)
        return (waits[self.key],)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self._items

    # ---- Call --------------------------------------------------------------------------------------------------

    def arrived(self) -> None:
        """At replay: take the rows of the items that have one."""
        for key in self.state.history.keys_in(self._branch):
            if key.name == ITEM_NAME and key.n < len(self._items):
                self._add(key.n)

    def go_live(self, now: int) -> None:
        self._fill()

    def dropped(self) -> None:
        self.state.clear_wait(self.key)

    def fire(self, now: int) -> None:
        raise AssertionError("a map is never due")

    def cancel(self) -> None:
        for item in list(self._open.values()):
            self.lobby.withdraw(item)

    def deliver_cancellation(self) -> None:
        self._wake_if_done()

    # ---- items -------------------------------------------------------------------------------------------------

    def _add(self, index: int) -> MapItem:
        item = MapItem(
            self, self._body, Key(self._branch, ITEM_NAME, index), self._fn, self._items[index], self._options
        )
        item.task_context = self.task_context.copy()
        self._open[index] = item
        self.lobby.add(item)
        return item

    def _fill(self) -> None:
        """Begin items until the limit is reached."""
        if self.state.expired is not None:
            self._failure = RunExpired("the run's time to live is over; no durable call begins any more")
            return
        if self.lobby.is_overdue():
            self.lobby.let_begin(self)
            return
        while len(self._open) < self._limit and self._next < len(self._items) and not self.state.is_held:
            index = self._next
            self._next += 1
            if index not in self._results and index not in self._open:
                item = self._add(index)
                item.stage = BEGIN[item.stage]
                item.go_live(self._body.clock.stamp())

    def collect(self, item: MapItem, row: HistoryRow) -> None:
        """An item's row is delivered."""
        del self._open[item.key.n]
        result: Any = None
        try:
            result = self._results[item.key.n] = self._body.deliver(item, row, self._options.returns)
        except Detached:
            return  # the run was given back
        except Exception as error:
            self._results[item.key.n] = error
            if not self._return_exceptions and self._failure is None:
                self._failure = error
                self.cancel()
        if row.compensates:
            self._registered(row, result)
        if self.stage is Stage.BEGUN and self._failure is None and self.raise_cancel is None:
            self._fill()
        self._wake_if_done()

    def released(self, item: MapItem) -> None:
        """An item was cancelled without an outcome."""
        del self._open[item.key.n]
        self._wake_if_done()

    def _wake_if_done(self) -> None:
        """Wake the body once no item can end any more, or all have."""
        if self._open or self.lobby.calls.get(self.key) is not self:
            return
        if self.raise_cancel is not None:
            result: outcome.Outcome[Any] = outcome.capture(self.raise_cancel)
        elif self._failure is not None:
            result = outcome.Error(self._failure)
        elif len(self._results) == len(self._items):
            result = outcome.Value([self._results[index] for index in range(len(self._items))])
        else:
            return
        del self.lobby.calls[self.key]
        self.dropped()  # what tells how many items there are, also if all have come out
        self.wake(result)


class MapItem(FunctionCall):
    """One item: a step whose outcome goes to the map."""

    def __init__(
        self, parent: MapCall, body: Body, key: Key, fn: Callable[..., Any], item: Any, options: FunctionOptions
    ) -> None:
        super().__init__(body, StepKind.STEP, key, fn, (item,), options)
        self._parent = parent

    @property
    def place_in_wave(self) -> tuple[str | int, ...]:
        """Right before its map, where the map is at replay, whose items without a row do not come again."""
        return (*self._parent.key, 0, self.key.n)

    def record(self, **fields: Any) -> None:
        if note := self._parent.note():
            fields["waits"] = note
        super().record(**fields)

    def deliver(self, row: HistoryRow) -> None:
        self._tell_ended(row)
        self._parent.collect(self, row)

    def deliver_cancellation(self) -> None:
        del self.lobby.calls[self.key]
        self.dropped()
        self._parent.released(self)


async def run_map(
    branch: Branch,
    name: str,
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    options: StepOptions[Any],
    *,
    return_exceptions: bool,
    limit: int | None,
) -> list[Any]:
    """Run a function as a step for each item; see ``Context.map``."""
    branch.check_task()
    count = exact_number(limit)
    if limit is not None and (type(count) is not int or count < 1):
        raise ValueError(f"limit must be a whole number of at least 1, not {short(limit)}")
    chosen = function_options("ctx.map", None if items is None else fn, options)
    given = _in_order(items)
    key = branch.next_key("map name", name)
    compensate_retry = options.get("compensate_retry") or NO_RETRY
    call = MapCall(
        branch.body,
        key,
        fn,
        given,
        chosen,
        limit=MAP_CONCURRENCY if limit is None else count,
        return_exceptions=exact_bool(return_exceptions, what="return_exceptions"),
        registered=partial(register, branch.body, options.get("compensate"), compensate_retry),
    )
    if call.is_empty:
        await trio.lowlevel.checkpoint()
        return []
    results: list[Any] = await branch.body.lobby.perform(call)
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
