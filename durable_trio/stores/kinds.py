"""The kinds of store, and which one an address means: a line in ``_BY_SCHEME`` for each scheme of a URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Final

from durable_trio.stores.address import Url, is_meant_as_url, is_url, without_password
from durable_trio.stores.contract import Store
from durable_trio.stores.kind import Kind
from durable_trio.stores.sqlite.kind import SQLITE

__all__ = ["grants", "make_reader", "make_store", "migrate", "readable"]


def _postgres() -> Kind:
    """Import the package when it is needed: it is an extra, and takes its time."""
    try:
        found: Kind = import_module("durable_trio.stores.postgres.kind").POSTGRES
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        text = f"a PostgreSQL database needs the extra: pip install 'durable-trio[postgres]' ({error})"
        raise ImportError(text) from error
    return found


_BY_SCHEME: Final[dict[str, Callable[[], Kind]]] = {"postgresql": _postgres, "postgres": _postgres}


def make_store(address: str | os.PathLike[str], *, durability: str = "full", creates: bool = True) -> Store:
    """Return the store at an address, not open yet: a path, ``":memory:"``, or a ``postgresql://`` URL.

    Args:
        creates: whether to make tables at a server that has none. (Whether there is a file, everybody can see.)

    Raises:
        ValueError: no store is at such an address.
        ImportError: what it needs is not installed.
    """
    if not isinstance(address, str):
        return SQLITE.make_store(os.fspath(address), durability=durability, creates=creates)
    return _kind_of(address).make_store(address, durability=durability, creates=creates)


def make_reader(address: str) -> Store:
    """Return a store that only reads what is at an address, and of which nobody learns; not open yet.

    Raises:
        ValueError, ImportError: as ``make_store``.
    """
    return _kind_of(address).make_reader(address)


def readable(address: str) -> AbstractContextManager[str]:
    """Give the address of what ``make_reader`` can read of a database: its own, or that of a copy in the schema of now.

    Raises:
        StoreError: a subclass that says why it cannot be read, or copied.
    """
    return _kind_of(address).readable(address)


def migrate(address: str) -> tuple[int, int]:
    """Bring the database at an address up to date, or create its tables; return its schema's version before and now.

    Raises:
        StoreError: it cannot be reached or changed; or a newer version of this library has written it.
        ValueError, ImportError: as ``make_store``.
    """
    return _kind_of(address).migrate(address)


def grants(address: str, role: str) -> str:
    """Return the SQL by which the owner of a server's tables lets a role use them. Nothing is changed.

    Raises:
        ValueError: it is a file: who may use that, its permissions say.
    """
    return _kind_of(address).grants(address, role)


def _kind_of(address: str) -> Kind:
    if is_meant_as_url(address):
        raise ValueError(f"{without_password(address)!r} is no URL; a server is named postgresql://user@host/database")
    if not is_url(address):
        return SQLITE
    kind = _BY_SCHEME.get(Url.of(address).scheme)
    if kind is None:
        text = f"store {without_password(address)!r}: a path, ':memory:' or a postgresql:// URL is supported"
        raise ValueError(text)
    return kind()
