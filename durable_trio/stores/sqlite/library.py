"""Which SQLite library is in use, and what its errors mean.

One process must use one SQLite library for one file: POSIX locks belong to the process, and two libraries cancel each
other's. sqlite-utils takes pysqlite3 where that is installed, so that is done here too, and is what
``durable_trio.sqlite3`` gives to users.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final

from durable_trio.errors import NotADatabase, StoreCorrupt, StoreError, StoreFull, StoreInUse, StoreReadOnly

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        import pysqlite3 as sqlite3
    except ImportError:
        import sqlite3

__all__ = [
    "FULL_ERRNOS",
    "PROBE_BYTES",
    "VERSION_MIN",
    "code_of",
    "is_of_the_schema",
    "is_of_the_store",
    "is_undecodable",
    "note_errno",
    "sqlite3",
    "translate",
    "version_warnings",
]

# STRICT tables came with 3.37, RETURNING with 3.35, memory databases shared by name with 3.36.
VERSION_MIN: Final = (3, 37, 0)

# Primary result codes of SQLite (sqlite.org/rescode.html).
ERROR: Final = 1
PERM: Final = 3
BUSY: Final = 5
LOCKED: Final = 6
READONLY: Final = 8
IOERR: Final = 10
CORRUPT: Final = 11
FULL: Final = 13
CANTOPEN: Final = 14
PROTOCOL: Final = 15
AUTH: Final = 23
NOTADB: Final = 26
_OF_THE_STORE: Final = frozenset({IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOTADB})
# Extended code: a virtual table's own data are inconsistent, such as the index of a full text search.
_CORRUPT_VTAB: Final = 267
# Extended codes of a sync that failed. It is never tried again: the system may have dropped what it could not write.
_FSYNC: Final = frozenset({1034, 1290})

# What the system says where there is no room: on the disk, within a quota, within the limit of a file's size.
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PROBE_BYTES: Final = 64 * 1024


def code_of(error: BaseException) -> int:
    """Return SQLite's primary result code of an error; 0 if it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def is_of_the_store(error: sqlite3.Error) -> bool:
    """Return whether an error inside a write transaction tells of the file, the disk or another program.

    Else it tells of the statement, or of another one of the same connection.
    """
    code = code_of(error)
    if code == BUSY:
        return "in progress" not in str(error)  # such a statement is one of the same connection
    return code in _OF_THE_STORE and getattr(error, "sqlite_errorcode", None) != _CORRUPT_VTAB


def is_of_the_schema(error: BaseException) -> bool:
    """Return whether an error of a statement of the store's own tells of a constraint, a trigger or a foreign key."""
    return isinstance(error, sqlite3.IntegrityError) or (isinstance(error, sqlite3.Error) and code_of(error) == ERROR)


def note_errno(error: sqlite3.Error) -> None:
    """Keep with an error what the operating system has said last in this thread; call it before anything else.

    SQLite has one word, "I/O error", for a broken disk, a quota and a limit of the file size, and Python does not give
    out the system's. It is forgotten here, so that it is never taken for the cause of a later error.
    """
    location = _errno_location()
    if location is not None and "os_errno" not in vars(error):
        vars(error)["os_errno"] = location[0]
        location[0] = 0


def _errno_location() -> Any:
    return None if _locate is None else _locate()


def _find_errno() -> Any:
    library = ctypes.CDLL(None)
    for name in ("__errno_location", "__error", "__errno"):  # Linux; macOS and FreeBSD; other BSDs
        locate = getattr(library, name, None)
        if locate is not None:
            locate.restype = ctypes.POINTER(ctypes.c_int)
            return locate
    return None


_locate: Final = _find_errno()


def _system_says(error: sqlite3.Error) -> str:
    """Return what the operating system calls a want of room: a disk, a quota or a limit that is full."""
    said = vars(error).get("os_errno", 0)
    return f": {os.strerror(said)}" if said in FULL_ERRNOS else ""


def _is_for_want_of_room(error: sqlite3.Error, path: str) -> bool:
    """Return whether an I/O error, or a file that cannot be opened, is one of a disk, quota or limit that is full."""
    if getattr(error, "sqlite_errorcode", 0) in _FSYNC:
        return False
    said = vars(error).get("os_errno", 0)
    if said in FULL_ERRNOS:
        return True
    if said not in (0, errno.ENOENT):  # SQLite tries to open in other ways, too
        return False
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as probed:
        return probed.errno in FULL_ERRNOS
    return False


def is_undecodable(error: BaseException) -> bool:
    """Return whether a text that was read is not UTF-8. SQLite does not care; the module that reads it does."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def translate(error: sqlite3.Error, path: str, *, committing: bool = False) -> StoreError:
    """Return the error of this library that says what SQLite's error means for the store.

    Args:
        committing: the error came out of COMMIT, so that an I/O error leaves the commit in doubt.
    """
    note_errno(error)
    code = code_of(error)
    if code == FULL or (code in (IOERR, CANTOPEN) and _is_for_want_of_room(error, path)):
        return StoreFull(
            "the disk or the database is full, or a quota or a limit of the file size is reached; "
            f"nothing was committed to {path!r}: free some room ({error}{_system_says(error)})"
        )
    if code in (READONLY, PERM):
        return StoreReadOnly(
            f"{path!r} cannot be written; give this process write permission for the file and its folder ({error})"
        )
    if code in (BUSY, LOCKED):
        return StoreInUse(f"another program keeps {path!r} locked; end its transaction and try again ({error})")
    if code == NOTADB:
        return NotADatabase(f"{path!r} is not an SQLite database; choose another path ({error})")
    if code == CANTOPEN:
        return StoreError(
            f"{path!r} or a file beside it cannot be opened; check permissions and free descriptors ({error})"
        )
    if code in (IOERR, CORRUPT):
        doubt = "; whether the last commit took effect is in doubt" if committing else ""
        return StoreCorrupt(
            f"{path!r} is damaged or could not be read or written{doubt}; stop, check the disk, "
            f"and run 'PRAGMA integrity_check' or restore a copy ({error})"
        )
    return StoreError(f"SQLite reports for {path!r}: {error}")


def version_warnings(version: str) -> tuple[str, ...]:
    """Return what users should know about an SQLite version, as sentences.

    Versions 3.7.0 to 3.51.2, except 3.44.6 and 3.50.7 and later of their series, can damage a database in WAL mode
    when two connections write and checkpoint at the same time (fixed in 3.51.3).
    """
    parts = tuple(int(part) for part in version.split(".")[:3])
    is_affected = (3, 7, 0) <= parts < (3, 51, 3)
    is_repaired = (parts[:2] == (3, 44) and parts >= (3, 44, 6)) or (parts[:2] == (3, 50) and parts >= (3, 50, 7))
    if not is_affected or is_repaired:
        return ()
    return (
        f"SQLite {version} has a rare fault that can damage a WAL database when several connections write at once; "
        "processes of this library take turns and are not affected, but other programs writing to the same file are: "
        "install durable-trio[sqlite], which brings SQLite 3.51.3 or later.",
    )
