"""The seal of a file whose runs are copied elsewhere: a mark that every version of this library refuses.

The number of the schema becomes one that no version knows: those that were released before there were seals take the
file for one of a newer version, and leave it alone. The number that it had is the rest of it. What the seal says stands
in a table of its own.

Whoever has the file open already would not look at the number again. So it is sealed in the write turn, in which every
store is opened, and only if nobody has it open, and no executor is left of whom it is not certain that it has ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Final
from uuid import uuid4

from durable_trio.errors import NotADatabase, StoreError, StoreInUse
from durable_trio.processes import OWN_PROCESS, describe_process
from durable_trio.rows import ExecutorRow
from durable_trio.stores.contract import ReapExecutor, RegisterExecutor
from durable_trio.stores.copying import Seal
from durable_trio.stores.questions import ListExecutors
from durable_trio.stores.sqlite.connection import open_connection, set_up_writer
from durable_trio.stores.sqlite.executor_locks import open_executor_locks
from durable_trio.stores.sqlite.files import stores_on, translate_os_error
from durable_trio.stores.sqlite.library import sqlite3, translate
from durable_trio.stores.sqlite.store import SqliteStore
from durable_trio.stores.sqlite.tables import APPLICATION_ID, SEALED, schema_version, sealed_version
from durable_trio.stores.sqlite.write_turn import FileTurn

__all__ = ["note_copied", "read_seal", "seal", "unseal"]

_LOOK_SECONDS: Final = 0.2

VERSION: Final = "PRAGMA user_version"
LIVING: Final = "SELECT count(*) FROM executors WHERE ended_at IS NULL"
OWNED: Final = "SELECT count(*) FROM runs WHERE owner IS NOT NULL"
MAKE: Final = """
    CREATE TABLE store_seal (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        copy TEXT NOT NULL,
        target TEXT NOT NULL,
        nonce TEXT NOT NULL,
        is_copied INTEGER NOT NULL
    ) STRICT
"""
FILL: Final = "INSERT INTO store_seal (id, copy, target, nonce, is_copied) VALUES (1, ?, ?, ?, 0)"
READ: Final = "SELECT copy, target, nonce, is_copied FROM store_seal"
NOTE_COPIED: Final = "UPDATE store_seal SET is_copied = 1"
REMOVE: Final = "DROP TABLE store_seal"


def read_seal(path: str) -> Seal | None:
    """Return what the seal of a file says; ``None`` if it has none.

    Raises:
        StoreError: a subclass that says why it cannot be read.
    """
    with _writing(path, is_in_turn=False) as connection:
        return _read(connection)


def seal(path: str, target: str, nonce: str, *, now: Callable[[], int]) -> Seal:
    """Seal a file, or return the seal that it has. Runs of executors that have died are set free before.

    Args:
        target: where its runs are copied to, as people are told; ``nonce``: which store that is.

    Raises:
        StoreInUse: somebody has it open. Nothing was changed.
        StoreError: a subclass that says why it cannot be opened.
    """
    found = read_seal(path)
    if found is not None:
        return found
    _check_nobody_uses(path)
    _set_free(path, now)
    with _writing(path) as connection:
        found = _read(connection)
        if found is not None:
            return found
        _check_nobody_uses(path)
        _check_no_company(path)
        for question, what in ((LIVING, "an executor has come"), (OWNED, "a run is owned")):
            if connection.execute(question).fetchone()[0]:
                raise StoreInUse(f"{path!r}: {what} meanwhile; stop all processes that use it, and repeat")
        version = schema_version(connection, path)
        copy = uuid4().hex
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(MAKE)
        connection.execute(FILL, (copy, target, nonce))
        connection.execute(f"{VERSION} = {SEALED + version}")
        connection.execute("COMMIT")
        return Seal(copy, target, nonce, False)


def note_copied(path: str) -> None:
    """Note in the seal of a file that all of it was copied."""
    with _writing(path) as connection:
        connection.execute(NOTE_COPIED)


def unseal(path: str) -> None:
    """Take the seal of a file back."""
    with _writing(path) as connection:
        version = sealed_version(int(connection.execute(VERSION).fetchone()[0]))
        if version is None:
            return
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(REMOVE)
        connection.execute(f"{VERSION} = {version}")
        connection.execute("COMMIT")


@contextmanager
def _writing(path: str, *, is_in_turn: bool = True) -> Iterator[sqlite3.Connection]:
    """Give a connection to a file, by default in the write turn. What it commits is on the disk."""
    try:
        os.stat(path)  # SQLite would create it
        turn = FileTurn(path) if is_in_turn else None
        try:
            if turn is not None:
                turn.take()
            try:
                with closing(open_connection(path, sqlite3.Connection)) as connection:
                    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                        raise NotADatabase(f"{path!r} is no database of this library; give the path of one")
                    set_up_writer(connection, "full")
                    yield connection
            finally:
                if turn is not None:
                    turn.release()
        finally:
            if turn is not None:
                turn.close()
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        raise translate_os_error(error, path) from error


def _read(connection: sqlite3.Connection) -> Seal | None:
    if sealed_version(int(connection.execute(VERSION).fetchone()[0])) is None:
        return None
    copy, target, nonce, is_copied = connection.execute(READ).fetchone()
    return Seal(copy, target, nonce, bool(is_copied))


def _check_nobody_uses(path: str) -> None:
    pids = [pid for pid in stores_on(path) if pid != os.getpid()]
    if pids:
        raise StoreInUse(
            f"{describe_process(pids[0])} has {path!r} open: stop all processes that use it, and repeat. "
            "Nothing was changed"
        )


def _check_no_company(path: str) -> None:
    """Refuse it also if this process has it open, or one that is not to be seen, such as another user's."""
    locks = open_executor_locks(path)
    try:
        if locks.announce() is not None and locks.has_company():
            raise StoreInUse(
                f"{path!r} is open in this process, or in one that cannot be seen from here: stop all that use it, and "
                "repeat. Nothing was changed"
            )
    finally:
        locks.close()


def _set_free(path: str, now: Callable[[], int]) -> None:
    """Bring the file's schema up to date, and set free what executors own that have died.

    Raises:
        StoreInUse: one lives.
    """
    store = SqliteStore(path)
    store.open()
    try:
        found = store.ask(ListExecutors(ended=True))
        for executor in found:
            if executor.ended_at is None:
                _wait_for_end(store, path, executor)
                store.apply([ReapExecutor(executor=executor.id, renewals=executor.renewals, now=now())])
        if store.ask(ListExecutors(ended=True)):  # owners that have ended: who registers sets their runs free
            register = RegisterExecutor(pid=OWN_PROCESS.pid, host="", lease=1, now=now())
            (own,) = store.apply([register]) or [None]
            store.apply([ReapExecutor(executor=own, crashed=False, now=now())])
    finally:
        with suppress(StoreError):
            store.close()


def _wait_for_end(store: SqliteStore, path: str, executor: ExecutorRow) -> None:
    """Return once an executor has certainly ended, or was not seen to renew its lease for as long as that lasts."""
    until = time.monotonic() + executor.lease / 1_000_000
    known = executor
    while known.is_locked is not False:
        if known.is_locked or known.renewals != executor.renewals:
            raise StoreInUse(
                f"{path!r} is served by {describe_process(executor.pid)}: stop it, and repeat. Nothing was changed"
            )
        if time.monotonic() >= until:
            return
        time.sleep(_LOOK_SECONDS)
        known = next((each for each in store.ask(ListExecutors()) if each.id == executor.id), known)
