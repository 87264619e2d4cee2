"""A run's recorded rows while they are being delivered again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import islice
from typing import Final

from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key

#: Rows that no call of the body waits for: they come from outside.
CONTROL_KINDS = frozenset({StepKind.CANCEL, StepKind.TTL})

#: The answer of a marker which must be asked for: without it the body goes another way than the run has gone.
_NEW_WAY: Final = "true"
_OLD_WAY: Final = "false"
# What the name of a marker begins with, so that no call of the user's can have it: names have no blank at either end.
_MARK: Final = " "


def marker_name(change_id: str) -> str:
    """Return the name of the markers of a change."""
    return _MARK + change_id


def change_of(key: Key) -> str:
    """Return which change a marker is of."""
    return key.name.removeprefix(_MARK)


def answer_text(is_new_way: bool) -> str:
    """Return what a marker holds; one without an answer, of an earlier version, stands for the new way."""
    return _NEW_WAY if is_new_way else _OLD_WAY


class History:
    """Rows in order of seq, with the place up to which they are delivered.

    Args:
        retired: changes that the code does not ask about any more.
    """

    def __init__(self, rows: Sequence[HistoryRow], *, retired: Set[str] = frozenset()) -> None:
        self._rows = rows
        self._next = 0
        self._retired = retired
        # Keys of calls whose rows are still to be delivered.
        self.waiting = {row.key for row in rows if row.kind is not StepKind.PATCH}
        # Of all markers, wherever they stand: a question may have been moved behind the place of its own.
        self._answers = {row.key: row.result != _OLD_WAY for row in rows if row.kind is StepKind.PATCH}
        self._asked: set[Key] = set()  # markers that the body has asked for
        self._by_branch: dict[str, deque[HistoryRow]] | None = None
        self._below: dict[str, deque[HistoryRow]] | None = None
        self.last_seq = rows[-1].seq if rows else 0

    @property
    def is_over(self) -> bool:
        """Whether all rows are delivered."""
        return self._next >= len(self._rows)

    def next_row(self) -> HistoryRow | None:
        """Return the row whose turn it is."""
        return None if self.is_over else self._rows[self._next]

    def advance(self) -> None:
        """The next row is delivered, or void."""
        self.waiting.discard(self._rows[self._next].key)
        self._next += 1
        self._pass_asked()

    def answer(self, key: Key) -> bool | None:
        """Return what a marker says, if there is one; its row is no history still to come from now on."""
        found = self._answers.get(key)
        if found is not None and key not in self._asked:
            self._asked.add(key)
            self._pass_asked()
        return found

    def retired_old_ways(self) -> list[str]:
        """Return which of the retired changes the run has taken the old way of, as far as that is recorded."""
        return sorted({change_of(key) for key, is_new in self._answers.items() if not is_new} & self._retired)

    def may_go_unasked(self, row: HistoryRow) -> bool:
        """Return whether the body need not ask for a row that nothing waits for."""
        if row.kind is StepKind.PATCH:
            return row.result != _NEW_WAY or change_of(row.key) in self._retired
        return row.kind in CONTROL_KINDS

    def _pass_asked(self) -> None:
        while not self.is_over and self._rows[self._next].key in self._asked:
            self._next += 1
        if self.is_over:
            self._rows, self._next = (), 0  # it may be large
            self._by_branch = self._below = {}

    def keys_in(self, branch: str) -> list[Key]:
        """Return the keys of a branch that are still to be delivered."""
        return [row.key for row in self._in_branches().get(branch, ()) if row.key in self.waiting]

    def next_call_in(self, branch: str, is_met: Callable[[Key], bool]) -> HistoryRow | None:
        """Return the next row of a call that a branch itself has made; not of one in a branch or map of its own.

        Args:
            is_met: whether the body has entered the deadline of that key, so that its expiry is no call to come.
        """
        rows = self._in_branches().get(branch)
        while rows and (rows[0].key not in self.waiting or (rows[0].kind is StepKind.DEADLINE and is_met(rows[0].key))):
            rows.popleft()
        return rows[0] if rows else None

    def next_below(self, path: str) -> HistoryRow | None:
        """Return the next row of the items of a map, or of the branches of a nursery."""
        if self._below is None:
            self._below = {}
            for row in self._calls():
                for part in _parts(row.key.branch):
                    self._below.setdefault(part, deque()).append(row)
        rows = self._below.get(path)
        while rows and rows[0].key not in self.waiting:
            rows.popleft()
        return rows[0] if rows else None

    def _in_branches(self) -> dict[str, deque[HistoryRow]]:
        if self._by_branch is None:
            self._by_branch = {}
            for row in self._calls():
                self._by_branch.setdefault(row.key.branch, deque()).append(row)
        return self._by_branch

    def _calls(self) -> Iterator[HistoryRow]:
        for row in islice(self._rows, self._next, None):
            if row.kind not in CONTROL_KINDS and row.kind is not StepKind.PATCH:
                yield row

    def next_of_body(self) -> HistoryRow | None:
        """Return the next row that a body must ask for; a control row that came too late is none.

        Nor is an expiry: its scope may have been left before.
        """
        for row in self._rows[self._next :]:
            if row.kind is StepKind.DEADLINE or row.key in self._asked or self.may_go_unasked(row):
                continue
            return row
        return None


def _parts(path: str) -> Iterator[str]:
    """Yield a path and all paths around it."""
    while path:
        yield path
        path = path.rpartition("/")[0]


#: Of all runs that have nothing to be delivered again: it never changes.
NO_HISTORY: Final = History(())
