"""The numbers that a store on SQLite gives out, as tests of it need to know them."""

from __future__ import annotations

from durable_trio.stores.contract import Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.sqlite.answers.cursors import START, read_point

#: Before all that was ever committed.
BEGINNING: Cursor = START.cursor


def last_change(store: Store) -> int:
    """Return the highest change number given out so far."""
    return read_point(store.ask(FindCursor())).changed - 1
