"""The kinds of store that tests run on, each by its name.

Most tests are of any store. They ask for ``store_path`` (one of each kind in turn) or ``file_path`` (one that outlives
its engine), or take ``":memory:"`` (a new one, whatever it is). Usually that is SQLite, and for some the log as well;
``--store=NAME`` has all of them run on the store of that name. What is about SQLite alone stands in a
folder of which ``conftest.py`` says so, or is marked ``on_sqlite("why")``: then it is skipped, and the reason told.

A further kind is one more line in ``KINDS``, above the last, which has all other addresses; and in ``conftest.py`` the
fixture that is named there. It returns a function that makes a new, empty store at each call, and returns its address:
what ``Engine`` is given. What the fixture needs, such as a server, it starts itself, or skips the test and says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from durable_trio.engine import engine
from durable_trio.stores.address import is_url
from durable_trio.stores.contract import Store
from durable_trio.stores.kinds import make_store
from durable_trio.stores.sqlite import SqliteStore
from tests.logstore import LogStore

__all__ = ["KINDS", "kind_at", "offer", "store_at"]


class Kind(NamedTuple):
    """A kind of store: the fixture that makes new ones, which addresses are its own, and what is there."""

    new: str
    is_at: Callable[[str], bool]
    make: Callable[..., Store]


KINDS: Final = {
    "postgres": Kind("new_schema", is_url, make_store),
    "log": Kind("new_log", lambda address: address.endswith(".log"), LogStore),
    "sqlite": Kind("new_file", lambda address: True, SqliteStore),
}


def kind_at(address: str | os.PathLike[str]) -> str:
    """Return of which kind the store at an address is."""
    return next(name for name, kind in KINDS.items() if kind.is_at(os.fspath(address)))


def offer() -> None:
    """Have engines of this program take all kinds, each at its addresses; for programs that tests start."""
    vars(engine)["make_store"] = store_at


def store_at(address: str | os.PathLike[str], *, durability: str = "full") -> Store:
    """Return the store at an address, not open yet."""
    return KINDS[kind_at(address)].make(address, durability=durability)
