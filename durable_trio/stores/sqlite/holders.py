"""Who holds a lock of a file or has it open, as far as Linux tells: for messages, and to look less often."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["flock_holder", "lock_holders", "processes_with"]


def lock_holders(path: str, byte: int) -> list[int]:
    """Return the pids of processes that hold a POSIX write lock on a byte of a file, as far as Linux tells.

    The file is never opened for it: closing it again would drop this process's own locks on it.
    """
    pids = []
    for pid, begin, end in _locks("POSIX", "WRITE", path):
        last = int(end) if end.isdigit() else byte  # or EOF
        if int(begin) <= byte <= last:
            pids.append(pid)
    return pids


def flock_holder(descriptor: int) -> int | None:
    """Return the pid of the process that holds the exclusive ``flock`` of an open file, as far as Linux tells."""
    return next((pid for pid, *_ in _locks("FLOCK", "WRITE", descriptor)), None)


def _locks(kind: str, mode: str, file: str | int) -> Iterator[tuple[int, str, str]]:
    """Yield the holders of locks of a file, where they begin and where they end."""
    try:
        status = os.stat(file)
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            lines = locks.read().splitlines()
    except OSError:
        return
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        fields = line.split()
        # 1: POSIX ADVISORY WRITE pid major:minor:inode start end; a waiting one has '->' after the number.
        if len(fields) == 8 and fields[1] == kind and fields[3] == mode and fields[5] == place:
            yield int(fields[4]), fields[6], fields[7]


def processes_with(files: set[str]) -> Iterator[int]:
    """Yield the pids of processes that have one of some files open, given by real paths; those that may be seen."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            descriptors = os.listdir(process / "fd")
        except OSError:
            continue  # it has ended, or is somebody else's
        if any(_target(process / "fd" / descriptor) in files for descriptor in descriptors):
            yield int(process.name)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # it was closed meanwhile
        return ""
