"""This process and others, as the system tells of them: on Linux by ``/proc``, elsewhere as far as it goes.

A number of a process is used again, and a kernel lock or a monotonic clock holds within one boot of the machine. So a
process is known by its host, the boot, its number, and when it was started.

Nothing that must be right depends on this module alone: whether an executor is alive its store says.
"""

from __future__ import annotations

import os
import re
import socket
import time
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import attrs

__all__ = [
    "OWN_PROCESS",
    "ProcessIdentity",
    "boot_id",
    "describe_process",
    "monotonic_now",
    "suspended_for",
]

# A clock that goes on while the machine is suspended, and one that stands still: of Linux, and of macOS.
_SUSPENSION_CLOCKS: Final = (
    (getattr(time, "CLOCK_BOOTTIME", None), time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_BOOTTIME")
    else (time.CLOCK_MONOTONIC, getattr(time, "CLOCK_UPTIME_RAW", None))
)
# Three clocks are read within microseconds, unless the processor is taken away in between.
_READING_SECONDS: Final = 0.001
_TRIES: Final = 5
_PID: Final = re.compile(r"[1-9][0-9]{0,8}")
# Of those fields of /proc/<pid>/stat that follow the state: when the process was started, in ticks since the boot.
_STARTED_AT: Final = 18
_STOPPED: Final = "Tt"
_ENDED: Final = "ZX"  # one that nobody has waited for is still there


class _OwnProcess:
    """This process. Its number is told without asking the system, which each commit would have to wait for."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        os.register_at_fork(after_in_child=self._look)

    def _look(self) -> None:
        self.pid = os.getpid()


OWN_PROCESS: Final = _OwnProcess()


@cache
def boot_id() -> str:
    """Return a text that is another one after each boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{int(time.time() - time.monotonic()) // 60}"


def monotonic_now() -> int:
    """Return microseconds of a clock of this boot that also counts while the machine is suspended."""
    clock_id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock_id) // 1000


def suspended_for() -> float:
    """Return for how many seconds this machine was suspended since it was started; 0 where that is not told.

    Not by what the wall clock has gone on: that also jumps when it is set.
    """
    counting, standing = _SUSPENSION_CLOCKS
    if counting is None or standing is None:
        return 0.0
    best = 0.0
    for _ in range(_TRIES):  # one clock after the other: whoever is interrupted in between has read nothing
        before, found, after = (time.clock_gettime(each) for each in (standing, counting, standing))
        best = max(best, found - after)
        if after - before < _READING_SECONDS:
            break
    return best


class _Stat(NamedTuple):
    """What ``/proc/<pid>/stat`` says of a process."""

    name: str
    state: str  # one letter
    started: str  # in the kernel's ticks


def _stat(pid: int) -> _Stat | None:
    """Return what the system tells of a process; ``None`` if there is no such process, or nothing is told here."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    head, _, rest = text.rpartition(")")  # a name may have any marks in it
    state, *numbers = rest.split()
    return _Stat(head.partition("(")[2], state, numbers[_STARTED_AT])


@attrs.frozen
class ProcessIdentity:
    """One process, told from a later one with the same number."""

    host: str
    boot_id: str
    pid: int
    started: str  # empty where the system does not tell

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Return this process's."""
        return cls(socket.gethostname(), boot_id(), os.getpid(), _started(os.getpid()))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        """Return what ``str`` has made a text of.

        Raises:
            ValueError: it has not.
        """
        host, boot, pid, started = text.rsplit("/", 3)
        if not _PID.fullmatch(pid):
            raise ValueError(f"{pid!r} is no number of a process")
        return cls(host, boot, int(pid), started)

    def __str__(self) -> str:
        return f"{self.host}/{self.boot_id}/{self.pid}/{self.started}"

    def is_alive(self) -> bool:
        """Return whether the process still runs, as far as can be told from here."""
        if self.boot_id != boot_id():
            return self.host != socket.gethostname()  # of another machine nothing is known
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _started(self.pid) == self.started


def _started(pid: int) -> str:
    """Return when a process was started; empty where that is not told, or it has ended."""
    found = _stat(pid)
    return "" if found is None or found.state in _ENDED else found.started


def describe_process(pid: int) -> str:
    """Return words for a process, for an error message: its pid, its name, and whether it is stopped."""
    if pid <= 0:
        return "another process"
    if pid == os.getpid():
        return f"this process (pid {pid}), in another thread or store,"
    found = _stat(pid)
    if found is None:
        return f"process {pid}"
    if found.state in _STOPPED:
        return f"process {pid} ({found.name}), which is stopped (state {found.state}),"
    if found.state in _ENDED:
        return f"process {pid} ({found.name}), which has ended (state {found.state}),"
    return f"process {pid} ({found.name}, state {found.state})"
