"""Whether others have the database open; while nobody has, nobody need look for their commits.

Each process that has it open holds a lock on one byte of its index of the log, for as long as it has
(sqlite.org/walformat.html), and Linux lists locks with their processes. Somebody who comes opens the file, and the
kernel tells that at once (inotify): a descriptor becomes readable, the *bell*. So between looks at the locks nobody can
come unnoticed. Where the system tells neither, or not of all processes (in a container), others are taken to be there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from durable_trio.processes import OWN_PROCESS, read_lock_holders

__all__ = ["Neighbours", "NoNeighbours"]

# Of linux/inotify.h: the file is opened, its own entry in a folder changes, an entry of its folder does.
_OPEN, _ATTRIB, _MOVE_SELF, _DELETE_SELF = 0x20, 0x4, 0x800, 0x400
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_OF_FILE: Final = _OPEN | _ATTRIB | _MOVE_SELF | _DELETE_SELF
_OF_FOLDER: Final = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
# The namespace in which all processes of the machine are seen, by its fixed number in linux/proc_ns.h.
_NAMESPACE_OF_ALL: Final = "pid:[4026531836]"
# The byte that everybody who has the index of the log open holds a read lock on.
_BYTE_OF_ALL: Final = 128
# Locks are listed so often at most, and not before a program that opens stores one after the other has done with it.
_LOOK_SECONDS: Final = 1.0
_SETTLED_SECONDS: Final = 2.0

# Stores of this process, by the place of their file: to each the others are others.
_open_here: Counter[tuple[int, int]] = Counter()
_guard: Final = threading.Lock()


class Neighbours:
    """Tells one open store whether there are others. Used by one thread."""

    def __init__(self, path: str) -> None:
        #: The bell, once somebody has asked whether others are there.
        self.doorbell: int | None = None
        self._path = path
        status = os.stat(path)
        self._place = (status.st_dev, status.st_ino)
        with _guard:
            _open_here[self._place] += 1
        self._opened_at = self._looked_at = time.monotonic()
        self._are_there = True
        self._has_lent = False
        self._can_tell = sys.platform == "linux"

    def lend(self) -> None:
        """A connection is given away: what is committed through it is another's, until nobody knows when."""
        self._has_lent = True

    def are_there(self) -> bool:
        """Return whether somebody else may have the database open; costs microseconds, mostly."""
        now = time.monotonic()
        if self._has_lent or not self._can_tell or now - self._opened_at < _SETTLED_SECONDS:
            return True
        if _open_here[self._place] > 1:
            return True
        if self.doorbell is None:
            self._hang_bell()  # first: whoever comes after the look at the locks rings it
        elif now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._are_there = self._look()
        return self._are_there

    def close(self) -> None:
        """The store is closed."""
        if self.doorbell is not None:
            os.close(self.doorbell)
            self.doorbell = None
        with _guard:
            _open_here[self._place] -= 1
            if not _open_here[self._place]:
                del _open_here[self._place]

    def _hang_bell(self) -> None:
        bell = -1
        try:
            if os.readlink("/proc/self/ns/pid") == _NAMESPACE_OF_ALL:
                bell = _listen({self._path: _OF_FILE, os.path.dirname(self._path): _OF_FOLDER})
        except OSError:
            pass
        self.doorbell = bell if bell >= 0 else None
        self._can_tell = bell >= 0

    def _look(self) -> bool:
        holders = read_lock_holders(f"{self._path}-shm", _BYTE_OF_ALL)
        # Without our own among them they do not tell of this database.
        return OWN_PROCESS.pid not in holders or len(holders) > 1


class NoNeighbours:
    """Of a store that nobody else can open."""

    doorbell: int | None = None

    def lend(self) -> None:
        """It knows of what is committed."""

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
