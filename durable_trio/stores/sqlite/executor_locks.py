"""The kernel locks by which executors are known to be alive: one byte of one file for each. And who has a store open.

An executor is alive as long as its byte is locked; the kernel lets go of it when the process ends, however it ends.
A lock tells something only in the file in which it was taken: if that was removed, a new one has no lock of anybody. So
each executor's row names its file, and where that is another one than here, the lock counts as held: the lease decides.

The locks are *open file description* locks (Linux): unlike POSIX locks they are not dropped when some other descriptor
of the file is closed, and they can be probed without being taken. Where they are missing each executor has a file of
its own with a ``flock``. The file is never unlinked while runs may still be owned by somebody in it.

Each open store, executor or not, shares the lock of one more byte, and touches the file when it has it: so others, who
watch the file, learn that somebody has come, and see then that he is there (``neighbours``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import weakref
from glob import escape, glob
from typing import Final, Protocol

from durable_trio.stores.sqlite.files import open_lock_file

__all__ = ["ByteLocks", "ExecutorLocks", "FileLocks", "MemoryLocks", "open_executor_locks"]

# The byte of all open stores, behind those of all executors.
_PRESENT: Final = 2**62
# struct flock of 64-bit Linux: type, whence, start, length, pid, padded to its alignment.
_FLOCK: Final = struct.Struct("@hhqqi0q")


class ExecutorLocks(Protocol):
    """The locks of one store's executors, and a look at those of others."""

    def take(self, executor: int) -> str | None:
        """Take the lock of a new executor of this store; return which file it is in."""

    def release(self, executor: int) -> None:
        """Release the lock of an executor of this store; that of another is left alone."""

    def is_held(self, executor: int, file: str | None = None) -> bool | None:
        """Return whether somebody, or this store, holds the lock of an executor.

        ``file``: which one it was taken in. ``None`` if that is not there any more, so that nothing can be told.
        """

    def are_any_held(self) -> bool:
        """Return whether somebody else holds the lock of any executor in the file that stands here."""

    def announce(self) -> str | None:
        """Be present until ``close``, and touch the file that tells others; return which it is, ``None`` for none."""

    def has_company(self) -> bool:
        """Return whether others are present, as far as that can be told; costs microseconds."""

    def close(self) -> None:
        """Release all locks of this store."""


class MemoryLocks:
    """Locks of a database in memory: nobody else can be an executor there."""

    def __init__(self) -> None:
        self._own: set[int] = set()

    def take(self, executor: int) -> str | None:
        """Take the lock (see ``ExecutorLocks``)."""
        self._own.add(executor)
        return None

    def release(self, executor: int) -> None:
        """Release the lock."""
        self._own.discard(executor)

    def is_held(self, executor: int, file: str | None = None) -> bool | None:
        """Return whether the executor was registered here and has not ended."""
        return executor in self._own

    def are_any_held(self) -> bool:
        """There is nobody else."""
        return False

    def announce(self) -> str | None:
        """There is nobody to be told."""
        return None

    def has_company(self) -> bool:
        """There is nobody else."""
        return False

    def close(self) -> None:
        """Release all."""
        self._own.clear()


class ByteLocks(MemoryLocks):
    """One byte of the owners file for each executor (module docstring)."""

    def __init__(self, database: str) -> None:
        super().__init__()
        self._path = f"{database}-owners"
        self._file = open_lock_file(self._path, database)
        self._name = _name_of(self._file)
        _open_files.add(self)

    def take(self, executor: int) -> str | None:
        """Take the lock (see ``ExecutorLocks``).

        Raises:
            BlockingIOError: somebody has it; the database gives each id out only once.
        """
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, executor, 1, 0))
        super().take(executor)
        return self._name

    def release(self, executor: int) -> None:
        """Release the lock."""
        if executor in self._own:
            super().release(executor)
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, executor, 1, 0))

    def is_held(self, executor: int, file: str | None = None) -> bool | None:
        """Return whether the byte is locked; a description does not see its own locks, so those are known by heart."""
        if executor in self._own:
            return True
        if file not in (None, self._name):
            return None
        return self._is_locked(executor, 1)

    def are_any_held(self) -> bool:
        """Return whether any byte is locked by others."""
        return self._is_locked(0, _PRESENT)

    def announce(self) -> str | None:
        """Share the lock of the byte of all stores, and touch the file."""
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _PRESENT, 1, 0))
        os.utime(self._file)
        return self._path

    def has_company(self) -> bool:
        """Return whether others share it. In another file than the one that stands there now nothing can be told."""
        try:
            stands_there = str(os.stat(self._path).st_ino) == self._name
        except OSError:
            return True
        return not stands_there or self._is_locked(_PRESENT, 1)

    def _is_locked(self, start: int, length: int) -> bool:
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        found: tuple[int, ...] = _FLOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, probe))
        return found[0] != fcntl.F_UNLCK

    def close(self) -> None:
        """Release all locks by closing the file."""
        super().close()
        _open_files.discard(self)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class FileLocks(MemoryLocks):
    """One file with a ``flock`` for each executor, where OFD locks are missing."""

    def __init__(self, database: str) -> None:
        super().__init__()
        self._database = database
        self._path = f"{database}-owner"
        self._files: dict[int, int] = {}
        _open_files.add(self)

    def take(self, executor: int) -> str | None:
        """Take the lock (see ``ExecutorLocks``)."""
        descriptor = open_lock_file(f"{self._path}-{executor}", self._database)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._files[executor] = descriptor
        super().take(executor)
        return _name_of(descriptor)

    def release(self, executor: int) -> None:
        """Release the lock and remove its file."""
        super().release(executor)
        descriptor = self._files.pop(executor, None)
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}-{executor}")
            os.close(descriptor)

    def is_held(self, executor: int, file: str | None = None) -> bool | None:
        """Return whether the file is there and locked."""
        if executor in self._own:
            return True
        try:
            descriptor = os.open(f"{self._path}-{executor}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False if file is None else None
        try:
            if file not in (None, _name_of(descriptor)):
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def are_any_held(self) -> bool:
        """Return whether any of the files is locked by others."""
        numbers = [name.removeprefix(f"{self._path}-") for name in glob(f"{escape(self._path)}-*")]
        return any(
            self.is_held(int(number)) for number in numbers if number.isdecimal() and int(number) not in self._own
        )

    def has_company(self) -> bool:
        """It cannot be told."""
        return True

    def close(self) -> None:
        """Release all locks."""
        for executor in list(self._files):
            self.release(executor)
        super().close()
        _open_files.discard(self)


def open_executor_locks(path: str) -> ByteLocks | FileLocks:
    """Open the executors' locks of a database file."""
    if sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK"):
        return ByteLocks(path)
    return FileLocks(path)


def _name_of(descriptor: int) -> str:
    # A number is given to another file only once nobody has this one open. Numbers of devices change with mounts.
    return str(os.fstat(descriptor).st_ino)


_open_files: weakref.WeakSet[ByteLocks | FileLocks] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A fork shares the locks with its parent: closing leaves them with the parent, unlocking would take them away.
    for locks in list(_open_files):
        descriptors = [locks._file] if isinstance(locks, ByteLocks) else list(locks._files.values())
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    _open_files.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
