"""Opening a database: judge the file before touching it, create or migrate it in the write turn, check its schema."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import attrs

from durable_trio.errors import NotADatabase, StoreCorrupt, StoreError, StoreInUse, StoreRewound
from durable_trio.processes import describe_process
from durable_trio.stores.sqlite.connection import open_connection, set_up_reader, set_up_writer
from durable_trio.stores.sqlite.counters import check_counters
from durable_trio.stores.sqlite.executor_locks import ExecutorLocks, MemoryLocks, open_executor_locks
from durable_trio.stores.sqlite.files import (
    check_content,
    check_path,
    check_side_files,
    create_file,
    move_into_place,
    move_side_files_away,
    remove_leftover,
    stores_on,
    translate_os_error,
)
from durable_trio.stores.sqlite.identity import Files, NoFiles, check_not_overwritten, log_is_stale
from durable_trio.stores.sqlite.library import VERSION_MIN, note_errno, sqlite3, translate
from durable_trio.stores.sqlite.lineage import Lineage
from durable_trio.stores.sqlite.log import log_is_spoilt
from durable_trio.stores.sqlite.occupied import check_not_occupied
from durable_trio.stores.sqlite.tables import APPLICATION_ID, SCHEMA_VERSION, check_schema, schema_version
from durable_trio.stores.sqlite.write_turn import FileTurn, MemoryTurn, WriteTurn

__all__ = ["Opened", "open_file", "open_memory"]

SERVING: Final = "SELECT id, pid FROM executors WHERE ended_at IS NULL"


@attrs.frozen
class Opened:
    """What an open store holds. In memory the readers are the writer."""

    turn: WriteTurn
    locks: ExecutorLocks
    files: Files | NoFiles
    lineage: Lineage
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    answerer: sqlite3.Connection


def open_memory(uri: str) -> Opened:
    """Open a database in memory; all connections of this process with the same ``uri`` see the same data."""
    _check_library()
    writer = open_connection(uri, sqlite3.Connection, uri=True)
    set_up_writer(writer, "memory")
    writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _migrate(writer)
    return Opened(
        turn=MemoryTurn(),
        locks=MemoryLocks(),
        files=NoFiles(),
        lineage=Lineage(writer),
        writer=writer,
        reader=writer,
        answerer=writer,
    )


def open_file(path: str, durability: str) -> Opened:
    """Open or create a database file.

    Raises:
        StoreError: a subclass that names what is wrong with the file, which is unchanged then.
    """
    _check_library()
    try:
        return _open(path, durability)
    except OSError as error:  # for want of descriptors, say, anywhere on the way
        raise translate_os_error(error, path) from error


def _open(path: str, durability: str) -> Opened:
    status = check_path(path)
    check_not_overwritten(path)
    check_side_files(path)
    if status is not None and status.st_size > 0 and not os.path.lexists(f"{path}-turn"):
        check_content(path)  # leave no lock files beside a file that is not ours
    turn = FileTurn(path)
    try:
        turn.take()
        try:
            writer, reader, answerer, files = _open_in_turn(path, durability, turn)
        finally:
            turn.release()
        try:
            locks = open_executor_locks(path)
        except BaseException:
            files.close()
            for connection in (answerer, reader, writer):
                connection.close()
            raise
    except BaseException:
        turn.close()
        raise
    return Opened(
        turn=turn, locks=locks, files=files, lineage=files.lineage, writer=writer, reader=reader, answerer=answerer
    )


def _check_library() -> None:
    if sqlite3.sqlite_version_info < VERSION_MIN:
        needed = ".".join(map(str, VERSION_MIN))
        raise StoreError(
            f"SQLite {sqlite3.sqlite_version} is too old, {needed} is needed; install durable-trio[sqlite]"
        )


def _open_in_turn(
    path: str, durability: str, turn: FileTurn
) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection, Files]:
    status = check_path(path)
    check_side_files(path)
    check_not_occupied(path, turn)
    if status is None or status.st_size == 0:
        move_side_files_away(path, "the database is gone")
        _create(path)
    else:
        check_content(path)
        if log_is_stale(path, turn):
            move_side_files_away(path, "another copy stands in its place")
    inode = os.lstat(path).st_ino
    connections: list[sqlite3.Connection] = []
    try:
        connections.append(writer := open_connection(path, sqlite3.Connection))
        _prepare(writer, path, durability)
        for _ in range(2):
            connections.append(reader := open_connection(path, sqlite3.Connection))
            set_up_reader(reader)
        if os.lstat(path).st_ino != inode:
            raise NotADatabase(f"{path!r} was replaced while it was being opened; find out by whom, and try again")
        files = Files(path, turn, Lineage(writer))
    except BaseException as error:
        if isinstance(error, sqlite3.Error):
            note_errno(error)
        for connection in reversed(connections):
            with suppress(sqlite3.Error):
                connection.close()
        if isinstance(error, sqlite3.Error) and log_is_spoilt(path):
            raise StoreRewound(
                f"{path + '-wal'!r} was cut short or written over while a process had it open, which has it open "
                f"still; stop all processes that use {path!r}, and start again"
            ) from error
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from error
        if isinstance(error, UnicodeError):  # SQLite's message quotes a schema that is no text any more
            raise StoreCorrupt(f"{path!r} is damaged; restore a copy ({error})") from error
        raise
    writer, reader, answerer = connections
    return writer, reader, answerer, files


def _migrate(writer: sqlite3.Connection) -> None:
    # Imported here, since it brings sqlite-utils along, a quarter of what an import of the engine takes: most files are
    # opened as they are.
    from durable_trio.stores.sqlite.migrations import migrate

    migrate(writer)


def _create(path: str) -> None:
    """Create a database beside its place and move it there: whoever finds the name finds a whole database.

    It is synced once, at the end, not at each of its half a dozen commits. A process that dies on the way leaves a
    file that the next one removes.
    """
    draft = f"{path}-new"
    for leftover in (f"{draft}-wal", f"{draft}-shm", f"{draft}-journal"):
        remove_leftover(leftover)
    create_file(draft)
    try:
        connection = open_connection(draft, sqlite3.Connection)
        try:
            connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _migrate(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        finally:
            connection.close()
        move_into_place(draft, path)
    except BaseException as error:
        if isinstance(error, sqlite3.Error):
            note_errno(error)
        with suppress(OSError):
            os.unlink(draft)
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from error
        raise


def _prepare(writer: sqlite3.Connection, path: str, durability: str) -> None:
    version = schema_version(writer, path)
    check_schema(writer, path, is_current=False)
    mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            f"{path!r} cannot have a write-ahead log (its journal mode stays {mode!r}); "
            "use a local file system with shared memory"
        )
    set_up_writer(writer, durability)
    if version < SCHEMA_VERSION:
        _check_nobody_uses(writer, path, version)
        _migrate(writer)
        writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        os.utime(path)  # whoever has it open looks at it again, even if no page could be moved
    check_schema(writer, path, is_current=True)
    check_counters(writer, path)


def _check_nobody_uses(writer: sqlite3.Connection, path: str, version: int) -> None:
    """Refuse to bring a schema up to date under processes that do not know it: they would go on writing as before.

    Executors are known by their locks, on all systems; clients, who have none, by the files that they have open.

    Raises:
        StoreInUse: there is one.
    """
    if version == 0:
        return
    locks = open_executor_locks(path)
    try:
        for executor, pid in writer.execute(SERVING).fetchall():
            with suppress(OSError):  # a number that no executor can have: the file is damaged
                if locks.is_held(executor):
                    raise _in_use(path, version, pid, "serves it")
    finally:
        locks.close()
    for pid in stores_on(path):
        raise _in_use(path, version, pid, "has it open")


def _in_use(path: str, version: int, pid: int, what: str) -> StoreInUse:
    return StoreInUse(
        f"{path!r} has schema version {version} and is to be brought up to {SCHEMA_VERSION}, but "
        f"{describe_process(pid)} {what} with an earlier version of this library: stop all such "
        "processes, make a backup, and start again. Nothing was changed"
    )
