"""A run's recorded rows while they are being delivered again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key

#: Rows that no call of the body waits for: they come from outside.
CONTROL_KINDS = frozenset({StepKind.CANCEL, StepKind.TTL})

# Nor need it ask for these: a deadline's scope may have been left before, a question may have left the code.
_OPTIONAL_KINDS = CONTROL_KINDS | {StepKind.DEADLINE, StepKind.PATCH}


class History:
    """Rows in order of seq, with the place up to which they are delivered."""

    def __init__(self, rows: Sequence[HistoryRow]) -> None:
        self._rows = rows
        self._next = 0
        self.waiting = {row.key for row in rows} if rows else set()  # keys whose rows are still to be delivered
        self._taken: set[Key] = set()  # patch rows that the body has met before their turn
        self._by_branch: dict[str, list[Key]] | None = None
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
        self._pass_taken()

    def take_patch(self, key: Key) -> bool:
        """Return whether the answer under that key is recorded; its row is no history still to come from now on."""
        if key not in self.waiting:
            return False
        self.waiting.discard(key)
        self._taken.add(key)
        self._pass_taken()
        return True

    def _pass_taken(self) -> None:
        while not self.is_over and self._rows[self._next].key in self._taken:
            self._next += 1
        if self.is_over:
            self._rows, self._next = (), 0  # it may be large

    def keys_in(self, branch: str) -> list[Key]:
        """Return the keys of a branch that are still to be delivered."""
        if self._by_branch is None:
            self._by_branch = {}
            for key in self.waiting:
                self._by_branch.setdefault(key.branch, []).append(key)
        return [key for key in self._by_branch.get(branch, ()) if key in self.waiting]

    def next_of_body(self) -> HistoryRow | None:
        """Return the next row that a body must ask for; a control row that came too late is none."""
        for row in self._rows[self._next :]:
            if row.kind not in _OPTIONAL_KINDS and row.key not in self._taken:
                return row
        return None


#: Of all runs that have nothing to be delivered again: it never changes.
NO_HISTORY: Final = History(())
