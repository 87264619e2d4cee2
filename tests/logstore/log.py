"""The file: entries one after the other, each with its length and a checksum, written by one process at a time.

What a process was writing when it was killed is the end of the file, and not whole: nobody reads it, and whoever
writes next cuts it off.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct

from durable_trio.errors import NotADatabase, StoreCorrupt, StoreFull, StoreInUse

__all__ = ["Log"]

_MAGIC = b"durable_trio log 1\n"
_HEAD = Struct("<II")
# How often it is tried to be the one who writes.
_TRY_SECONDS = 0.001


class Log:
    """The file as one store has it open. ``position``: up to where it has been read."""

    def __init__(self, path: str, *, is_synced: bool) -> None:
        self._path = path
        self._is_synced = is_synced
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.position = len(_MAGIC)
        try:
            with self.locked(patience_seconds=10.0):
                if os.fstat(self._file).st_size < len(_MAGIC):  # new; or whoever made it was killed
                    os.pwrite(self._file, _MAGIC, 0)
                if os.pread(self._file, len(_MAGIC), 0) != _MAGIC:
                    raise NotADatabase(f"{path!r} is no log of this version")
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    @contextmanager
    def locked(self, *, patience_seconds: float) -> Iterator[None]:
        """Be the one who writes, in the block.

        Raises:
            StoreInUse: somebody else is for too long.
        """
        until = time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreInUse(f"somebody else writes to {self._path!r}") from None
            time.sleep(_TRY_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def has_more(self) -> bool:
        """Return whether anything has been written behind what was read."""
        return os.fstat(self._file).st_size > self.position

    def read_on(self) -> Iterator[bytes]:
        """Give the whole entries behind what was read."""
        while len(head := os.pread(self._file, _HEAD.size, self.position)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            entry = os.pread(self._file, length, self.position + _HEAD.size)
            if len(entry) < length or zlib.crc32(entry) != checksum:
                return
            self.position += _HEAD.size + length
            yield entry

    def append(self, entry: bytes) -> None:
        """Write an entry behind what was read, which is all there is: call it locked.

        Raises:
            StoreFull: there is no room for it; nothing is written.
            StoreCorrupt: it cannot be written; or an entry in the middle of the file is not what was written.
        """
        head = os.pread(self._file, _HEAD.size, self.position)
        if len(head) == _HEAD.size and self.position + _HEAD.size + _HEAD.unpack(head)[0] < self._size():
            raise StoreCorrupt(f"{self._path!r} is damaged at {self.position}; restore a copy of it")
        os.ftruncate(self._file, self.position)
        try:
            self._write(_HEAD.pack(len(entry), zlib.crc32(entry)) + entry)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise StoreCorrupt(f"{self._path!r} cannot be written: {error}") from error
            os.ftruncate(self._file, self.position)
            raise StoreFull(f"there is no room for {self._path!r}") from error

    def _write(self, data: bytes) -> None:
        left, place = memoryview(data), self.position
        while left:
            written = os.pwrite(self._file, left, place)
            left, place = left[written:], place + written
        if self._is_synced:
            os.fdatasync(self._file)

    def _size(self) -> int:
        return os.fstat(self._file).st_size
