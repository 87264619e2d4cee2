"""Who has a lock, in words for an error message. Best effort: where the system does not tell, so does the message."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["describe_process", "foreign_writers"]

# SQLite's write lock in WAL mode is this byte of the -shm file (os_unix.c: UNIX_SHM_BASE + WAL_WRITE_LOCK).
_SHM_WRITE_BYTE: Final = 120


def describe_process(pid: int) -> str:
    """Return words for a process: its pid, its name, and whether it is stopped."""
    if pid <= 0:
        return "another process"
    if pid == os.getpid():
        return f"this process (pid {pid}), in another thread or store,"
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return f"process {pid}"
    name = text[text.find("(") + 1 : text.rfind(")")]
    state = text[text.rfind(")") + 2 : text.rfind(")") + 3]
    if state in ("T", "t"):
        return f"process {pid} ({name}), which is stopped (state {state}),"
    if state in ("Z", "X"):
        return f"process {pid} ({name}), which has ended (state {state}),"
    return f"process {pid} ({name}, state {state})"


def foreign_writers(path: str) -> list[int]:
    """Return the pids of processes that hold SQLite's write lock on a file, as far as Linux tells.

    The -shm file is never opened for it: closing it again would drop this process's own locks on it.
    """
    try:
        status = os.stat(f"{path}-shm")
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = []
    for line in lines:
        fields = line.split()
        # 1: POSIX ADVISORY WRITE pid major:minor:inode start end; a waiting one has '->' after the number.
        if len(fields) != 8 or fields[1] != "POSIX" or fields[3] != "WRITE" or fields[5] != place:
            continue
        last = int(fields[7]) if fields[7].isdigit() else _SHM_WRITE_BYTE  # or EOF
        if int(fields[6]) <= _SHM_WRITE_BYTE <= last:
            pids.append(int(fields[4]))
    return pids
