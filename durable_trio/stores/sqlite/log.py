"""Whether the log ends as its index says, and the parts of files that may be read without closing them.

SQLite keeps in the index (``-shm``) how many frames of the log are valid, and trusts it for as long as anybody has the
database open. If the log is cut short or written over meanwhile it is written on where its end was: what is committed
then stands behind a hole, and nobody can ever read it. So before each transaction the last frame is looked at: the
index has its checksum, in which all frames before it are counted. A log that SQLite itself cuts, or begins anew, is no
such case: then the index was changed first (sqlite.org/walformat.html, "The WAL-Index Header").

Closing any descriptor of the database or the index drops all POSIX locks that the process holds on it, those of
SQLite's connections included. So both are read by a descriptor that the process has anyhow: that of SQLite.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import Final

__all__ = [
    "Generation",
    "Log",
    "is_cut_short",
    "log_is_spoilt",
    "read_generation",
    "read_header",
    "schema_in_log",
]

# Of one of the two copies of the index's header: whether it is filled in, the page size (1 for 65536), how many frames,
# and the checksum of the last one.
_INDEX: Final = struct.Struct("=12xBxHI4xII")
_COPY_BYTES: Final = 48
# Behind both copies: how many of these frames were moved into the database.
_MOVED: Final = struct.Struct("=96xI")
_SALTS: Final = slice(32, 40)
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
# Of the log's header: how often it was begun anew, and two numbers for each time. The first grows by one each time.
_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_GENERATION: Final = struct.Struct(">12xIII8x")
# In a frame's header: its checksum.
_CHECKSUM: Final = struct.Struct(">16xII")


# A number that a log keeps from its creation on, how often it was begun anew, and a number for that time.
Generation = tuple[int, int, int]


class Log:
    """The log of a database that this process has open; ``close`` it before the database."""

    def __init__(self, path: str) -> None:
        self._index_path = f"{path}-shm"
        self._log: int | None = None
        self._index: int | None = None
        #: Others whenever the log was begun anew.
        self.salts = b""
        with suppress(OSError):
            self._index = _find_descriptor(self._index_path)
            self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def is_spoilt(self) -> bool:
        """Return whether the log does not end as its index says. Two calls of the system."""
        if self._log is None or self._index is None:
            return False
        while True:
            header = os.pread(self._index, 2 * _COPY_BYTES, 0)
            self.salts = header[_SALTS]
            if _ends_with(self._log, header):
                return False
            if header == os.pread(self._index, 2 * _COPY_BYTES, 0):
                break
        # A descriptor that was somebody else's may be that of another file by now.
        return _inode(os.fstat(self._index)) == _inode(os.stat(self._index_path))

    def find_rest(self) -> bytes | None:
        """Return by what the present state of the log is known if the database holds all of it; else ``None``."""
        if self._index is None:
            return None
        header = os.pread(self._index, _MOVED.size, 0)
        if len(header) < _MOVED.size or header[:_COPY_BYTES] != header[_COPY_BYTES : 2 * _COPY_BYTES]:
            return None
        is_filled_in, _, frame_count, *_ = _INDEX.unpack_from(header)
        return header if is_filled_in and _MOVED.unpack(header)[0] == frame_count else None

    def close(self) -> None:
        """Close what was opened here."""
        if self._log is not None:
            os.close(self._log)
        self._log = self._index = None


def read_generation(path: str) -> Generation | None:
    """Return of what log a file is, and since when it was not begun anew; ``None`` if there is none in it.

    Closing a descriptor of the log drops no locks: SQLite has none on it.
    """
    with suppress(OSError), open(f"{path}-wal", "rb", buffering=0) as log:
        header = log.read(_LOG_HEADER_BYTES)
        if len(header) == _LOG_HEADER_BYTES and header.startswith(_MAGIC):
            count, first, second = _GENERATION.unpack(header)
            return (first - count) % 2**32, count, second
    return None


def log_is_spoilt(path: str) -> bool:
    """Return whether the log of a database that could not be read does not end as its index says."""
    with suppress(OSError), open(f"{path}-wal", "rb") as log:
        return not _ends_with(log.fileno(), read_header(f"{path}-shm", 2 * _COPY_BYTES))
    return False


def _ends_with(log: int, header: bytes) -> bool:
    """Return whether a log has the last frame that the header of its index tells of, if that tells of one."""
    if len(header) < 2 * _COPY_BYTES or header[:_COPY_BYTES] != header[_COPY_BYTES:]:
        return True  # it is being changed
    is_filled_in, page_size, frame_count, first, second = _INDEX.unpack_from(header)
    if not is_filled_in or frame_count == 0:
        return True
    frame_bytes = _FRAME_HEADER_BYTES + (65536 if page_size == 1 else page_size)
    frame = os.pread(log, frame_bytes, _LOG_HEADER_BYTES + (frame_count - 1) * frame_bytes)
    return len(frame) == frame_bytes and _CHECKSUM.unpack_from(frame) == (first, second)


def _find_descriptor(path: str) -> int | None:
    """Return a descriptor of this process for a file, if it has one; leave it open.

    Raises:
        OSError: the file is not there.
    """
    wanted = _inode(os.stat(path))
    for name in os.listdir("/dev/fd"):
        with suppress(OSError, ValueError):
            if _inode(os.fstat(int(name))) == wanted:
                return int(name)
    return None


def read_header(path: str, count: int) -> bytes:
    """Return the first bytes of a file of SQLite's, and keep the locks that this process may have on it."""
    descriptor = _find_descriptor(path)
    if descriptor is not None:
        return os.pread(descriptor, count, 0)
    with open(path, "rb", buffering=0) as file:
        return file.read(count)


def is_cut_short(path: str, size: int) -> bool:
    """Return whether a database is shorter than its first page says (sqlite.org/fileformat.html)."""
    header = read_header(path, 32)
    page_size, page_count = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    return size < (65536 if page_size == 1 else page_size) * page_count


def schema_in_log(path: str) -> int | None:
    """Return the schema version in the last first page that a log has committed, if any (sqlite.org/walformat.html)."""
    logged = pending = None
    with suppress(OSError), open(path, "rb") as file:
        header = file.read(32)
        page_size, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        while len(frame := file.read(24)) == 24 and frame[8:16] == salts:
            if int.from_bytes(frame[:4], "big") == 1:
                pending = int.from_bytes(file.read(page_size)[40:44], "big")
            else:
                file.seek(page_size, os.SEEK_CUR)
            if any(frame[4:8]):  # it commits
                logged = pending
    return logged


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
