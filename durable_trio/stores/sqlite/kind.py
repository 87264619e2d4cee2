"""Stores in files, as a kind among others (``stores.kinds``): their addresses are paths."""

from __future__ import annotations

from typing import Final, NoReturn

from durable_trio.stores.kind import Kind
from durable_trio.stores.sqlite.reading import SqliteReader, readable, version_of
from durable_trio.stores.sqlite.store import SqliteStore
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION

__all__ = ["SQLITE"]


def _make_store(path: str, /, *, durability: str, creates: bool) -> SqliteStore:
    # Whoever must not make a file can see whether there is one: ``creates`` is for servers.
    return SqliteStore(path, durability=durability)


def _migrate(path: str) -> tuple[int, int]:
    before = version_of(path)
    store = SqliteStore(path)
    store.open()
    store.close()
    return before, SCHEMA_VERSION


def _grants(path: str, role: str) -> NoReturn:
    raise ValueError(f"{path!r} is a file: who may use it, its permissions say")


SQLITE: Final = Kind(
    make_store=_make_store, make_reader=SqliteReader, readable=readable, migrate=_migrate, grants=_grants
)
