"""A file for each executor, which is locked while its process lives: so others see at once that one has died."""

from __future__ import annotations

import fcntl
import glob
import os
from collections.abc import Container
from contextlib import suppress

__all__ = ["ExecutorLocks"]


class ExecutorLocks:
    """The locks of one store's executors, and looks at those of others."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: dict[int, int] = {}

    @property
    def held(self) -> tuple[int, ...]:
        """The executors whose locks are held here."""
        return tuple(self._held)

    def take(self, executor: int) -> None:
        """Take the lock of a new executor. Twice is nothing."""
        if executor not in self._held:
            file = os.open(self._name(executor), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            self._held[executor] = file

    def release(self, executor: int) -> None:
        """Let go of the lock of an executor that has ended; its file goes."""
        with suppress(FileNotFoundError):
            os.unlink(self._name(executor))
        os.close(self._held.pop(executor))

    def tidy(self, living: Container[int], *, below: int) -> None:
        """Remove the files of executors that do not live, of those that there have been."""
        for name in glob.glob(glob.escape(f"{self._path}-executor-") + "*"):
            number = name.rpartition("-")[2]
            if number.isdigit() and int(number) < below and int(number) not in living:
                with suppress(FileNotFoundError):
                    os.unlink(name)

    def close(self) -> None:
        """Let go of all locks. Those executors have not ended in order: others see that they are dead."""
        for file in self._held.values():
            os.close(file)
        self._held.clear()

    def is_held(self, executor: int) -> bool:
        """Return whether somebody holds the lock of an executor."""
        if executor in self._held:
            return True
        try:
            file = os.open(self._name(executor), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look take nobody for alive
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def _name(self, executor: int) -> str:
        return f"{self._path}-executor-{executor}"
