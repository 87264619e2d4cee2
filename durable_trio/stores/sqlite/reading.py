"""A file that is only read: without locks, without a place among those who write, and without any change to it.

Whoever opens a store of an earlier version of this library brings its schema up to date. That is not for a reader,
under whom others serve it: he gets a copy, and that is brought up to date.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from durable_trio.errors import StoreError
from durable_trio.stores.questions import Question
from durable_trio.stores.read_only import ReadOnlyStore
from durable_trio.stores.sqlite.answers.lists import Slice
from durable_trio.stores.sqlite.answers.table import ANSWERS, at_one_instant
from durable_trio.stores.sqlite.connection import open_connection, reading_anything, set_up_reader
from durable_trio.stores.sqlite.files import check_content, translate_os_error
from durable_trio.stores.sqlite.library import is_undecodable, sqlite3, translate
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION, check_schema, schema_version

__all__ = ["SqliteReader", "readable", "version_of"]

T = TypeVar("T")


def _open(path: str) -> sqlite3.Connection:
    connection = open_connection(f"file:{quote(os.fsencode(path))}?mode=ro", sqlite3.Connection, uri=True)
    set_up_reader(connection)
    return connection


def version_of(path: str) -> int:
    """Return the version of a file's schema; 0 if there is no such file, or nothing in it.

    Raises:
        StoreError: a subclass that says why it cannot be read.
    """
    path = os.path.abspath(path)
    if not os.path.exists(path):
        return 0
    try:
        with closing(_open(path)) as connection:
            return schema_version(connection, path)
    except sqlite3.Error as error:
        raise translate(error, path) from error


@contextmanager
def readable(path: str) -> Iterator[str]:
    """Give the path of a file with what is stored in this one, in the schema of today: this one, or a copy.

    Raises:
        StoreError: a subclass that says why it cannot be read, or copied.
    """
    path = os.path.abspath(path)
    try:
        check_content(path)
        with closing(_open(path)) as connection:
            if schema_version(connection, path) == SCHEMA_VERSION:
                copy = None
            else:
                copy = tempfile.TemporaryDirectory(prefix="durable-trio-")
        if copy is None:
            yield path
            return
        with copy as folder:
            target = os.path.join(folder, os.path.basename(path))
            _copy(path, target)
            yield target
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        raise translate_os_error(error, path) from error


def _copy(path: str, target: str) -> None:
    """Copy a database as it is at one instant, and bring the copy's schema up to date."""
    from durable_trio.stores.sqlite.migrations import migrate  # with what few need: see ``opening``

    with closing(_open(path)) as source, closing(open_connection(target, sqlite3.Connection)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA synchronous = OFF")
        migrate(copy)


class SqliteReader(ReadOnlyStore):
    """Answers questions about a file; it writes nothing, and nobody learns that it is there."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The path, as it is quoted."""
        return repr(self.path)

    def open(self) -> None:
        """Open the file.

        Raises:
            StoreError: it has another schema than this version of the library knows, or cannot be read.
        """
        if self._connection is not None:
            return
        try:
            connection = _open(self.path)
            try:
                version = schema_version(connection, self.path)
                if version != SCHEMA_VERSION:
                    raise StoreError(f"{self.path!r} has schema version {version}, and is only read: copy it first")
                check_schema(connection, self.path, is_current=True)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        self._connection = connection

    def close(self) -> None:
        """Close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``Store.ask``)."""
        function, connection = ANSWERS.get(type(question)), self._connection
        if function is None:
            raise TypeError(f"{type(question).__name__} is no question about a file that is only read")
        if connection is None:
            raise StoreError(f"the store {self.path!r} is not open; call open() first")
        try:
            with self._lock:
                try:
                    answer = at_one_instant(connection, function, question)
                except sqlite3.OperationalError as error:
                    if not is_undecodable(error):
                        raise
                    with reading_anything(connection):
                        answer = at_one_instant(connection, function, question)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        if isinstance(answer, Slice):
            raise TypeError(f"{type(question).__name__} is no question about a file that is only read")
        whole: T = answer
        return whole

    def connect(self) -> Any:
        """Return a new connection, which cannot write either."""
        return _open(self.path)
