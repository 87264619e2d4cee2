"""Whether others have the database open; while nobody has, nobody need look for their commits.

Each open store holds a lock for as long as it is open, and touches the file in which it holds it (``executor_locks``).
Linux tells at once that a file was touched (inotify): a descriptor becomes readable, the *bell*. So between two looks
at the lock nobody can come unnoticed. It rings as well when the database is opened by somebody else, or is another
file. Where the system tells neither, others are taken to be there.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any, Final

from durable_trio.stores.sqlite.executor_locks import ExecutorLocks

__all__ = ["Neighbours", "NoNeighbours"]

# Of linux/inotify.h: the file is opened, its own entry in a folder changes, an entry of its folder does.
_OPEN, _ATTRIB, _MOVE_SELF, _DELETE_SELF = 0x20, 0x4, 0x800, 0x400
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_OF_FILE: Final = _OPEN | _ATTRIB | _MOVE_SELF | _DELETE_SELF
_OF_FOLDER: Final = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
# A program that opens stores one after the other has done with it by then, and needs no bell.
_SETTLED_SECONDS: Final = 2.0


class Neighbours:
    """Tells one open store whether there are others. Used by one thread."""

    def __init__(self, path: str, locks: ExecutorLocks) -> None:
        #: The bell, once somebody has asked whether others are there.
        self.doorbell: int | None = None
        self._path = path
        self._locks = locks
        self._touched = locks.announce()
        self._opened_at = time.monotonic()

    def are_there(self) -> bool:
        """Return whether others may have the database open; costs microseconds."""
        if self._touched is None or time.monotonic() - self._opened_at < _SETTLED_SECONDS:
            return True
        if self.doorbell is None:  # first: whoever comes after the look at the lock rings it
            self._hang_bell(self._touched)
            return True
        return self._locks.has_company()

    def close(self) -> None:
        """The store is closed."""
        if self.doorbell is not None:
            os.close(self.doorbell)
            self.doorbell = None

    def _hang_bell(self, touched: str) -> None:
        watched = {self._path: _OF_FILE, touched: _OF_FILE, os.path.dirname(self._path): _OF_FOLDER}
        bell = _listen(watched)
        if bell >= 0:
            self.doorbell = bell
        else:
            self._touched = None  # nothing rings here


class NoNeighbours:
    """Of a store that nobody else can open."""

    doorbell: int | None = None

    def are_there(self) -> bool:
        """Return that nobody is."""
        return False

    def close(self) -> None:
        """Nothing is open."""


def _listen(what: dict[str, int]) -> int:
    """Return a descriptor that is readable once something of this has happened; -1 where there is none."""
    import ctypes  # some milliseconds, which a command that only lists something need not take

    library: Any = ctypes.CDLL(None, use_errno=True)
    with suppress(AttributeError):
        bell = int(library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if bell < 0:
            return -1
        if all(library.inotify_add_watch(bell, os.fsencode(path), mask) >= 0 for path, mask in what.items()):
            return bell
        os.close(bell)
    return -1
