"""Who is still there: what the kernel tells of the processes that have come to a database file.

An executor holds a lock for as long as its process runs (``executor_locks``). A process that has only said something of
itself holds none, and is known by what it calls itself: its number, and when it was started.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durable_trio.processes import ProcessIdentity, boot_id, monotonic_now
from durable_trio.stores.sqlite.executor_locks import ExecutorLocks

__all__ = ["Judge", "is_locked", "nobody_can_tell", "process_is_alive", "silent", "teller_is_alive"]

#: Is asked of an executor, the file that its lock was taken in, and its boot, whether its process is there.
Judge = Callable[[int, Any, Any], bool | None]


def nobody_can_tell(executor: int, file: object, boot: object) -> None:
    """Judge without a look at the locks: it cannot be told."""


def is_locked(locks: ExecutorLocks, executor: int, file: Any, boot: object) -> bool | None:
    """Return whether the process of an executor is there; ``None`` if that cannot be told.

    Args:
        file: in which its lock was taken, as its row has it.
        boot: in which it was registered.
    """
    if executor <= 0:  # only a damaged file has such an id
        return False
    is_held = locks.is_held(executor, file)
    if is_held is None and boot != boot_id():
        return False  # whatever has become of its lock
    return is_held


def silent(boot: object, renewed_at: object) -> int | None:
    """Return since when an executor has not renewed its lease, in microseconds; clocks of other boots tell nothing."""
    if boot != boot_id() or type(renewed_at) is not int:
        return None
    return max(0, monotonic_now() - renewed_at)


def process_is_alive(name: str) -> bool | None:
    """Return whether the process that calls itself so is there; ``None`` if none does."""
    try:
        return ProcessIdentity.parse(name).is_alive()
    except ValueError:
        return None


def teller_is_alive(name: str) -> bool:
    """Return whether the process of one that is to tell of a death is there (see ``DeathRow``)."""
    return bool(process_is_alive(name.partition("/")[2]))
