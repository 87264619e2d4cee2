"""Which kind of store an address means."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Final
from urllib.parse import urlsplit

from durable_trio.stores.address import is_url, without_password
from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore

__all__ = ["make_store"]


def _postgres(url: str, durability: str) -> Store:
    try:
        from durable_trio.stores.postgres import PostgresStore  # psycopg is an extra, and takes its time
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        raise ImportError(
            f"a PostgreSQL database needs the extra: pip install 'durable-trio[postgres]' ({error})"
        ) from error
    return PostgresStore(url, durability=durability)


_BY_SCHEME: Final[dict[str, Callable[[str, str], Store]]] = {"postgresql": _postgres, "postgres": _postgres}


def make_store(address: str | PathLike[str], *, durability: str = "full") -> Store:
    """Return the store at an address, not open yet: a path, ``":memory:"``, or a ``postgresql://`` URL.

    Raises:
        ValueError: no store is at such an address.
        ImportError: what it needs is not installed.
    """
    if isinstance(address, str) and is_url(address):
        make = _BY_SCHEME.get(urlsplit(address).scheme)
        if make is None:
            raise ValueError(
                f"store {without_password(address)!r}: a path, ':memory:' or a postgresql:// URL is supported"
            )
        return make(address, durability)
    return SqliteStore(address, durability=durability)
