"""The contract of cursors finds out a store that takes the ids that it gives out for the order of commits.

Where many write at once, as on a server, an id is given out before the commit: one with a lower id may be committed
later. The log of the tests has one order, so these stores show what is in it as such a server would.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from durable_trio.stores.contract import Sent, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import FindCursor, ListSent, SentPage
from durable_trio.testing.store_contract.reads import ReadContract
from durable_trio.testing.wrapping import WrappedStore
from tests.logstore import LogStore

_OWN = "ids:"
# That are sent all in all; then nothing is committed late any more.
_ENTRIES = 8 * 12


class ManyWriters(WrappedStore):
    """Each fifth entry is committed after one with a higher id, of another run; its own run waits for it.

    A cursor is the highest id that was given, and those below it that were not yet.
    """

    forgets = False  # those below

    def open(self) -> None:
        super().open()
        self._beginning = self.inner.ask(FindCursor())
        self._committed = set[int]()  # of each fifth

    def ask(self, question: Any) -> Any:
        return self._sent(question) if isinstance(question, ListSent) else self.inner.ask(question)

    def _sent(self, question: ListSent) -> SentPage:
        everything = self.inner.ask(ListSent(self._beginning, limit=10_000)).sent
        visible = {sent.entry.id: sent for sent in self._visible(everything)}
        highest, missing = _numbers(question.after)
        found = sorted(id for id in visible if id > highest or id in missing)
        page = found[: question.limit]
        after = max((highest, *page))
        ids = {sent.entry.id for sent in everything}
        self._committed |= {id for id in ids - visible.keys() if id < after or len(ids) == _ENTRIES}
        missing |= {id for id in ids if highest < id < after}
        missing = set() if self.forgets else missing.difference(page)
        is_last = found == page and ids == visible.keys()
        cursor = Cursor(_OWN + ".".join(map(str, (after, *sorted(missing)))))
        return SentPage(tuple(visible[id] for id in page), cursor, is_last)

    def _visible(self, everything: Iterable[Sent]) -> Iterable[Sent]:
        waiting = set[int]()
        for sent in everything:
            if sent.entry.id % 5 == 0 and sent.entry.id not in self._committed:
                waiting.add(sent.entry.run)
            if sent.entry.run not in waiting:
                yield sent


def _numbers(cursor: Cursor) -> tuple[int, set[int]]:
    if not cursor.startswith(_OWN):  # of the log: before all
        return 0, set()
    highest, *missing = map(int, cursor.removeprefix(_OWN).split("."))
    return highest, set(missing)


class IdCursors(ManyWriters):
    """Forgets what was not committed yet."""

    forgets = True


class Contract(ReadContract):
    """Of one of these."""

    def reopen(self, tmp_path: Path) -> Store:
        """Return one of those who write."""
        return LogStore(tmp_path / "runs.log")


@pytest.mark.parametrize("kind", [ManyWriters, IdCursors])
def test_a_cursor_that_is_an_id_is_found_out_and_one_that_knows_what_was_visible_is_not(
    tmp_path: Path, kind: type[ManyWriters]
) -> None:
    store = kind(LogStore(tmp_path / "runs.log"))
    store.open()
    try:
        keep = Contract().test_eight_who_write_at_once_are_missed_by_nobody_who_follows
        if kind is ManyWriters:
            keep(tmp_path, store)
        else:
            with pytest.raises(AssertionError):
                keep(tmp_path, store)
    finally:
        store.close()
