"""The unread signals of a resident run, as far as they are worth memory.

Of each name the oldest ones are here. Where the store has more of a name than is here, that is known, and they are
asked for by their name once a call waits for them. So a mailbox full of what nobody waits for is neither read at each
claim nor walked through at each step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from durable_trio.limits import SIGNALS_IN_MEMORY_MAX
from durable_trio.rows import MailboxEntry

__all__ = ["UnreadSignals"]


@attrs.define(eq=False)
class UnreadSignals:
    """Unread signals by name, the oldest first."""

    #: Nothing is unread, here or in the store.
    is_empty: bool = True
    #: Those that are here, the oldest first.
    by_name: dict[str, deque[MailboxEntry]] = attrs.Factory(dict)
    _count: int = 0  # of those that are here
    # After which id the store has more of a name, or may have; None if it has not.
    _more_after: dict[str, int | None] = attrs.Factory(dict)
    _more_of_others_after: int | None = None
    _last_ids: dict[str, int] = attrs.Factory(dict)

    def load(self, entries: Iterable[MailboxEntry], *, more_after: int | None) -> None:
        """Take what was loaded with the run, before anything else.

        Args:
            entries: in order of arrival.
            more_after: the id after which some were left out, of any name; ``None`` if that is all.
        """
        for entry in entries:
            self.add(entry)
        self._more_of_others_after = more_after
        self._note_emptiness()

    def _note_emptiness(self) -> None:
        self.is_empty = not self._count and not self._more_after and self._more_of_others_after is None

    def more_after(self, name: str) -> int | None:
        """Return after which id the store may have more of a name than is here; ``None`` if it has not."""
        return self._more_after.get(name, self._more_of_others_after)

    def add(self, entry: MailboxEntry) -> None:
        """Take one that has arrived, later than all before; it is left to the store where that has older ones."""
        name = entry.name
        is_behind_others = self._more_after.get(name, self._more_of_others_after) is not None
        if is_behind_others or entry.id <= self._last_ids.get(name, 0):
            return
        if self._count >= SIGNALS_IN_MEMORY_MAX:
            self._more_after[entry.name] = entry.id - 1
        else:
            self._append(entry)
        self.is_empty = False

    def found(self, name: str, entries: Sequence[MailboxEntry], *, is_all: bool) -> None:
        """Take what the store has of a name beyond what is here."""
        for entry in entries:
            if entry.id > self._last_ids.get(name, 0):
                self._append(entry)
        if is_all:
            self._more_after[name] = None
        elif entries:
            self._more_after[name] = max(entries[-1].id, self.more_after(name) or 0)
        self._note_emptiness()

    def remove(self, entry: MailboxEntry) -> None:
        """Forget one that is being consumed."""
        self.by_name[entry.name].remove(entry)  # nearly always the first
        self._count -= 1
        self._note_emptiness()

    def _append(self, entry: MailboxEntry) -> None:
        self.by_name.setdefault(entry.name, deque()).append(entry)
        self._last_ids[entry.name] = entry.id
        self._count += 1
