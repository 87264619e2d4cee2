"""The files of a store: which may be opened, with which permissions, and what is refused without being changed.

The database file itself is never opened here once it has content: closing any descriptor of a file drops all POSIX
locks that the process holds on it, those of SQLite's connections included. So what exists is judged by ``lstat``.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from typing import Final
from urllib.parse import quote

from durable_trio.errors import NotADatabase, StoreError, StoreFull, StoreInUse, StoreReadOnly
from durable_trio.logger import Logger
from durable_trio.processes import describe_process
from durable_trio.stores.sqlite.holders import lock_holders, processes_with
from durable_trio.stores.sqlite.library import FULL_ERRNOS, NOTADB, code_of, sqlite3, translate
from durable_trio.stores.sqlite.tables import APPLICATION_ID, schema_version

__all__ = [
    "check_content",
    "check_path",
    "check_side_files",
    "create_file",
    "move_into_place",
    "move_side_files_away",
    "naming_writers",
    "open_lock_file",
    "remove_leftover",
    "time_of_files",
    "would_show",
    "writers_of",
]

_LOGGER = Logger("durable_trio.store")

_MODE: Final = 0o600
_INDEX_SUFFIX: Final = "-shm"  # made anew from the log
# SQLite's write lock in WAL mode is this byte of the index (os_unix.c: UNIX_SHM_BASE + WAL_WRITE_LOCK).
_INDEX_WRITE_BYTE: Final = 120
_SIDE_SUFFIXES: Final = ("-wal", "-journal", _INDEX_SUFFIX)
_READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
# Two for each connection, and one for each file that is locked or watched; one more for a moment.
_DESCRIPTORS: Final = 15
# Symbolic links are not followed, children do not inherit the descriptor, a FIFO does not block the opening.
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# On Linux CLOCK_REALTIME_COARSE, which Python does not name.
_CLOCK_OF_FILES: Final = 5 if sys.platform == "linux" else time.CLOCK_REALTIME
# Times of files move in ticks of the kernel; on some file systems, such as a small ext4, they are whole seconds.
_TICK_NS: Final = 10_000_000
_SECOND_NS: Final = 1_000_000_000


def check_path(path: str) -> os.stat_result | None:
    """Return the status of an ordinary file of ours or nobody's, ``None`` if there is none; refuse anything else.

    Raises:
        NotADatabase: a directory, device, symbolic link, or a file with a second name.
        StoreReadOnly: it may not be written.
        StoreError: its folder does not exist.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise StoreError(f"the folder {folder!r} does not exist; create it, or choose another path") from None
        return None
    except OSError as error:
        raise translate_os_error(error, path) from error
    if stat.S_ISLNK(status.st_mode):
        raise NotADatabase(f"{path!r} is a symbolic link; give the path of the file itself")
    if stat.S_ISDIR(status.st_mode):
        file = os.path.join(path, "runs.db")
        raise NotADatabase(f"{path!r} is a directory; give the path of a file, such as {file!r}")
    if not stat.S_ISREG(status.st_mode):
        raise NotADatabase(f"{path!r} is not an ordinary file; choose another path")
    if status.st_nlink > 1:
        raise NotADatabase(
            f"{path!r} has {status.st_nlink} names (hard links): the log beside one would not belong to the other; "
            "remove the other names, or copy the file"
        )
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise StoreReadOnly(f"{path!r} may not be read and written by this process; change its permissions")
    return status


def check_side_files(path: str) -> None:
    """Refuse files that SQLite would write to beside a database, unless they are ordinary ones of its or our user.

    Raises:
        NotADatabase: a link, a file with a second name, somebody else's.
    """
    users = _users(path)
    for suffix in _SIDE_SUFFIXES:
        try:
            status = os.lstat(path + suffix)
        except OSError:
            continue
        what = _oddity(status, users)
        if what is not None:
            raise NotADatabase(f"{path + suffix!r}, which belongs to the database, {what}; remove it")


def move_side_files_away(path: str, why: str) -> None:
    """Move the log and journal beside a database out of the way: they are those of another one.

    Raises:
        StoreError: a subclass that says why that cannot be done.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    try:
        for suffix in _SIDE_SUFFIXES:
            name, kept = path + suffix, f"{path}-stale-{stamp}-{os.getpid()}{suffix}"
            if not os.path.lexists(name):
                continue
            if suffix == _INDEX_SUFFIX or os.lstat(name).st_size == 0:
                os.unlink(name)
                continue
            os.rename(name, kept)
            _LOGGER.warning(
                "%r was left of another database (%s); it was not applied, and is kept as %r", name, why, kept
            )
        _sync(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise translate_os_error(error, path) from error


def create_file(path: str) -> None:
    """Create an empty file that only its owner may read; what has that name is removed, never followed.

    Raises:
        StoreError: a subclass that says why it cannot be created.
    """
    remove_leftover(path)
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    except OSError as error:
        raise translate_os_error(error, path) from error
    try:
        os.fchmod(descriptor, _MODE)
    finally:
        os.close(descriptor)


def remove_leftover(path: str) -> None:
    """Remove what has a name that is ours, if something has; a link, not what it leads to.

    Raises:
        StoreError: a subclass that says why it cannot be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise translate_os_error(error, path) from error


def move_into_place(source: str, target: str) -> None:
    """Give a finished file its name, at once and for good: after a power cut it has all of its content or no name.

    Raises:
        StoreError: a subclass that says why it cannot be done.
    """
    try:
        _sync(source, os.O_RDWR)
        os.replace(source, target)
        _sync(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise translate_os_error(error, target) from error


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_content(path: str) -> None:
    """Refuse a file that is no database, or another program's, or a newer version's, without touching it.

    It is read as immutable: SQLite then takes no locks, and neither creates nor moves a log. What the log holds is
    not seen; our mark never is only there, because a database gets its name when it is complete. ``writable_schema``
    keeps SQLite from refusing a file that is shorter than its first page says: a wal checkpoint that a full disk has
    stopped half-way leaves one, and its log has the rest.

    Raises:
        NotADatabase, SchemaTooNew, StoreCorrupt: as the names say.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA writable_schema = ON")
            application_id = connection.execute("PRAGMA application_id").fetchone()[0]
            schema_version(connection, path)
        finally:
            connection.close()
    except sqlite3.Error as error:
        if code_of(error) == NOTADB:
            raise NotADatabase(
                f"{path!r} is not an SQLite database; it was not changed: choose another path"
            ) from error
        raise translate(error, path) from error
    if application_id != APPLICATION_ID:
        raise NotADatabase(
            f"{path!r} is a database of another program (application_id {application_id}); it was not changed: "
            "choose another path"
        )


def open_lock_file(path: str, database: str) -> int:
    """Open or create a file that only carries kernel locks beside a database, and return its descriptor.

    Raises:
        NotADatabase: there is a link or something else in its place.
        StoreReadOnly: the folder does not allow it.
    """
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT, _MODE)
    except OSError as error:
        if os.path.islink(path):
            raise NotADatabase(f"{path!r}, the lock file, is a symbolic link; remove it") from error
        raise translate_os_error(error, path) from error
    try:
        status = os.fstat(descriptor)
        what = _oddity(status, _users(database))
        if what is not None:
            raise NotADatabase(f"{path!r}, the lock file, {what}; remove it")
        if stat.S_IMODE(status.st_mode) != _MODE and status.st_uid == os.geteuid():
            os.fchmod(descriptor, _MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _users(path: str) -> frozenset[int]:
    """Return whose files may stand beside a database: ours, and those of the database's user."""
    try:
        return frozenset({os.geteuid(), os.lstat(path).st_uid})
    except OSError:
        return frozenset({os.geteuid()})


def _oddity(status: os.stat_result, users: frozenset[int]) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "is not an ordinary file"
    if status.st_nlink > 1:
        return f"has {status.st_nlink} names (hard links)"
    if status.st_uid not in users:
        return f"belongs to another user ({status.st_uid})"
    return None


def translate_os_error(error: OSError, path: str) -> StoreError:
    """Return the error of this library that says what an error of the system means for a store's file."""
    if isinstance(error, PermissionError) or error.errno in _READ_ONLY:
        return StoreReadOnly(
            f"{path!r} cannot be written; give this process permission for its folder ({error.strerror})"
        )
    if error.errno in FULL_ERRNOS:
        return StoreFull(f"there is no room for {path!r}; free some ({error.strerror})")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return NotADatabase(f"{path!r} is no file, or is not in a folder ({error.strerror}); choose another path")
    if error.errno in _NO_DESCRIPTORS:
        return StoreError(
            f"{path!r} cannot be opened ({error.strerror}); an open store needs some {_DESCRIPTORS} file descriptors: "
            "let this process have more (ulimit -n), or close some"
        )
    return StoreError(f"{path!r} cannot be opened: {error.strerror}")


def time_of_files() -> int:
    """Return which time a file gets that is changed now, in nanoseconds.

    It is behind the clock by a tick, and by more than one where a tick comes late.
    """
    return time.clock_gettime_ns(_CLOCK_OF_FILES)


def would_show(status: os.stat_result, now: int) -> bool:
    """Return whether a change after ``now``, told by ``time_of_files``, would give a file another time than it has."""
    return now - status.st_ctime_ns > (_TICK_NS if status.st_ctime_ns % _SECOND_NS else _SECOND_NS)


def naming_writers(error: StoreInUse, path: str) -> StoreInUse:
    """Return an error that says who holds the database, if that can be told."""
    who = ", ".join(describe_process(pid) for pid in writers_of(path))
    return StoreInUse(f"{error}. It is {who}") if who else error


def writers_of(path: str) -> list[int]:
    """Return the pids of processes that hold SQLite's write lock on a database, as far as the system tells."""
    return lock_holders(path + _INDEX_SUFFIX, _INDEX_WRITE_BYTE)


def stores_on(path: str) -> list[int]:
    """Return the pids of other processes that have a store open on a database, as far as the system tells.

    They have the database, or what it was before it was replaced, and its turn file open. Other programs have only the
    first, and whoever waits for its turn to open the database only the second.
    """
    name = os.path.realpath(path)
    names = {f"{name}{suffix}{gone}" for suffix in ("", "-wal", _INDEX_SUFFIX) for gone in ("", " (deleted)")}
    having, turning = (set(processes_with(files)) for files in (names, {f"{name}-turn"}))
    return sorted((having & turning) - {os.getpid()})
