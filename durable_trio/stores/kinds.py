"""The kinds of store, and which one an address means: one line in ``_BY_SCHEME`` for each kind that has URLs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from os import PathLike
from typing import Any, Final

from durable_trio.stores.address import Url, is_meant_as_url, is_url, without_password
from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import SqliteStore

__all__ = ["grants", "make_reader", "make_store", "migrate", "readable"]


def _postgres(name: str) -> Callable[..., Any]:
    """Return what the package has by a name. It is imported when it is needed: it is an extra, and takes its time."""
    try:
        found: Callable[..., Any] = getattr(import_module("durable_trio.stores.postgres"), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg":
            raise
        text = f"a PostgreSQL database needs the extra: pip install 'durable-trio[postgres]' ({error})"
        raise ImportError(text) from error
    return found


_BY_SCHEME: Final[dict[str, Callable[[str], Callable[..., Any]]]] = {"postgresql": _postgres, "postgres": _postgres}


def make_store(address: str | PathLike[str], *, durability: str = "full", creates: bool = True) -> Store:
    """Return the store at an address, not open yet: a path, ``":memory:"``, or a ``postgresql://`` URL.

    Args:
        creates: whether to make tables at a server that has none. (Whether there is a file, everybody can see.)

    Raises:
        ValueError: no store is at such an address.
        ImportError: what it needs is not installed.
    """
    if isinstance(address, str) and _is_server(address):
        store: Store = _package_of(address)("PostgresStore")(address, durability=durability, creates=creates)
        return store
    return SqliteStore(address, durability=durability)


def make_reader(address: str) -> Store:
    """Return a store that only reads what is at an address, and of which nobody learns; not open yet.

    Raises:
        ValueError, ImportError: as ``make_store``.
    """
    if _is_server(address):
        store: Store = _package_of(address)("PostgresReader")(address)
        return store
    from durable_trio.stores.sqlite.reading import SqliteReader

    return SqliteReader(address)


def readable(address: str) -> AbstractContextManager[str]:
    """Give the address of what ``make_reader`` can read of a database: its own, or that of a copy in the schema of now.

    Raises:
        StoreError: a subclass that says why it cannot be read, or copied.
    """
    if _is_server(address):
        return nullcontext(address)
    from durable_trio.stores.sqlite.reading import readable as readable_file

    return readable_file(address)


def migrate(address: str) -> tuple[int, int]:
    """Bring the database at an address up to date, or create its tables; return its schema's version before and now.

    Raises:
        StoreError: it cannot be reached or changed; or a newer version of this library has written it.
        ValueError, ImportError: as ``make_store``.
    """
    if _is_server(address):
        versions: tuple[int, int] = _package_of(address)("migrate_database")(address)
        return versions
    from durable_trio.stores.sqlite.reading import version_of
    from durable_trio.stores.sqlite.tables import SCHEMA_VERSION

    before = version_of(address)
    store = SqliteStore(address)
    store.open()
    store.close()
    return before, SCHEMA_VERSION


def grants(address: str, role: str) -> str:
    """Return the SQL by which the owner of a server's tables lets a role use them. Nothing is changed.

    Raises:
        ValueError: it is a file: who may use that, its permissions say.
    """
    if not _is_server(address):
        raise ValueError(f"{address!r} is a file: who may use it, its permissions say")
    text: str = _package_of(address)("grants_for")(address, role)
    return text


def _is_server(address: str) -> bool:
    if is_meant_as_url(address):
        raise ValueError(f"{without_password(address)!r} is no URL; a server is named postgresql://user@host/database")
    return is_url(address)


def _package_of(url: str) -> Callable[[str], Callable[..., Any]]:
    package = _BY_SCHEME.get(Url.of(url).scheme)
    if package is None:
        raise ValueError(f"store {without_password(url)!r}: a path, ':memory:' or a postgresql:// URL is supported")
    return package
