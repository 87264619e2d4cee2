"""The write turn: at most one process writes to a file, and those that wait come in the order of their arrival.

Theory. SQLite's own waiting is a loop of sleeps that grow: of four busy writers one got thousands of commits, another
one. So writers take turns by two lock files: take Q (the queue), take W (the turn), let go of Q. Whoever waits for W
holds Q, and the kernel wakes those that wait for Q in order; a process that has just had its turn stands behind them.
Whatever moves pages is done inside the turn: journal mode, migrations, writes, wal checkpoints, the last close. The
files are never unlinked: a lock on a file without a name would exclude nobody.

A kernel lock dies with its process, so that a killed writer blocks nobody. A *stopped* one does: ``flock`` cannot time
out, so a thread of its own does the blocking wait, and the caller waits for that thread, for so long as its patience
lasts. A wait that was given up is not begun anew: the next caller takes it over, and a turn that comes when nobody
wants it any more is let go at once. The error names the holder: the kernel tells who that is, or else the turn file,
where a holder that the kernel does not tell leaves its pid.

A process that leaves waits for others once, not once for each thing that it still has to write: from then on there is
one stretch of time that all waits share, those under way included (``Patience``).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Literal, Protocol

from durable_trio.errors import StoreInUse
from durable_trio.processes import OWN_PROCESS, describe_process
from durable_trio.stores.sqlite.files import open_lock_file
from durable_trio.stores.sqlite.holders import flock_holder

__all__ = ["PATIENCE_SECONDS", "FileTurn", "MemoryTurn", "Patience", "WriteTurn"]

# A turn is one transaction: milliseconds, seconds on a bad disk. A process that takes longer is stopped or hung.
PATIENCE_SECONDS: Final = 30.0
_LOCK: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
# In the turn file: at the beginning the holder's pid, perhaps; then a line from whoever had the turn.
_NOTE_AT: Final = 32
_NOTE_BYTES_MAX: Final = 4096


class Patience:
    """How long somebody waits for others: each time for so long, or in a hurry for so long all together."""

    def __init__(self) -> None:
        self._left: float | None = None  # seconds, in a hurry
        self._hurried_at = 0.0
        self.is_short = False  # in a hurry

    def hurry(self, seconds: float) -> None:
        """Let all that is waited from now on take at most so long together; said again it changes nothing."""
        if self._left is None:
            self._hurried_at, self._left, self.is_short = time.monotonic(), seconds, True

    def seconds(self, at_most: float) -> float:
        """Return how long a wait that begins now may take."""
        return at_most if self._left is None else min(at_most, self._left)

    def milliseconds(self, at_most: int) -> int:
        """Return the same in milliseconds."""
        return int(self.seconds(at_most / 1000) * 1000)

    def until(self, began: float, at_most: float) -> float:
        """Return when a wait is to be given up that has begun at some time of the monotonic clock."""
        if self._left is None:
            return began + at_most
        return min(began + at_most, max(began, self._hurried_at) + self._left)

    def spend(self, began: float) -> None:
        """Note that somebody has waited until now."""
        if self._left is not None:
            self._left = max(0.0, self._left - (time.monotonic() - max(began, self._hurried_at)))


class WriteTurn(Protocol):
    """The right to write, taken by one thread of one process at a time."""

    patience: Patience

    @property
    def take_free(self) -> Callable[[], bool]:
        """Takes the turn if it is free, and nobody waits for it; returns whether it has. Nearly always it is."""

    def take(self, *, block: bool = True, patience_seconds: float | None = None) -> bool:
        """Take the turn; ``False`` if ``block`` is false and somebody has it.

        Raises:
            StoreInUse: it was not to be had within ``patience_seconds``.
        """

    def hurry(self, seconds: float) -> None:
        """Let all waits together, also one under way in another thread, take at most so long from now on."""

    def release(self) -> None:
        """Let go of the turn."""

    def close(self) -> None:
        """Give up the turn and everything that was opened for it."""


class MemoryTurn:
    """The turn of a database in memory: only this process has it."""

    def __init__(self) -> None:
        self.patience = Patience()
        self._lock = threading.Lock()
        # Each commit passes here: not a method around them.
        self.take_free = functools.partial(self._lock.acquire, blocking=False)
        self.release = self._lock.release

    def hurry(self, seconds: float) -> None:
        """Let all waits together take at most so long from now on."""
        self.patience.hurry(seconds)

    def take(self, *, block: bool = True, patience_seconds: float | None = None) -> bool:
        """Take the turn (see ``WriteTurn``)."""
        if self._lock.acquire(blocking=False):
            return True
        if not block:
            return False
        if not self._lock.acquire(timeout=PATIENCE_SECONDS if patience_seconds is None else patience_seconds):
            raise StoreInUse("another thread of this process has held the database in memory for too long")
        return True

    def close(self) -> None:
        """Nothing to close."""


class FileTurn:
    """The turn of one database file, shared by all processes that have it open (module docstring).

    Args:
        path: that of the database; the lock files stand beside it.
    """

    def __init__(self, path: str) -> None:
        self.patience = Patience()
        self._path = path
        self._lock = threading.Lock()  # one thread of this store at a time
        self._queue = open_lock_file(f"{path}-turn-queue", path)
        try:
            self._turn = open_lock_file(f"{path}-turn", path)
        except BaseException:
            os.close(self._queue)
            raise
        self._waiter: _Waiter | None = None
        self._signature = b"%-19d\n" % os.getpid()
        self._is_told: bool | None = None  # by the kernel, when this process has the turn; not on each file system
        _open_turns.add(self)

    def take_free(self) -> bool:
        """Take the turn if it is free (see ``WriteTurn``)."""
        if not self._lock.acquire(blocking=False):
            return False
        has_turn = False
        try:
            has_turn = (self._waiter is None or self._waiter.is_idle()) and self._try()
        finally:
            if not has_turn:
                self._lock.release()
        if has_turn and not self._is_told:
            self._sign()
        return has_turn

    def take(self, *, block: bool = True, patience_seconds: float | None = None) -> bool:
        """Take the turn (see ``WriteTurn``)."""
        began = time.monotonic()
        patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        try:
            if not self._lock.acquire(blocking=False):
                if not block:
                    return False
                if not self._lock.acquire(timeout=self.patience.seconds(patience)):
                    raise self._in_use(began)
            try:
                has_turn = self._take_lock(block, began, patience)
            except BaseException:
                self._lock.release()
                raise
        finally:
            self.patience.spend(began)
        if not has_turn:
            self._lock.release()
        elif not self._is_told:
            self._sign()
        return has_turn

    def hurry(self, seconds: float) -> None:
        """Let all waits together take at most so long from now on (see ``WriteTurn``)."""
        self.patience.hurry(seconds)
        waiter = self._waiter
        if waiter is not None:
            waiter.look_again()

    def release(self) -> None:
        """Let go of the turn."""
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        self._lock.release()

    def close(self) -> None:
        """Close the lock files; a wait that was given up and still goes on closes them when it ends."""
        _open_turns.discard(self)
        if self._waiter is not None:
            self._waiter.close()
        else:
            os.close(self._queue)
            os.close(self._turn)
        self._queue = self._turn = -1

    def inodes(self) -> dict[str, tuple[int, int]]:
        """Return what the names of the lock files led to when they were opened."""
        found = {}
        for name, descriptor in ((f"{self._path}-turn", self._turn), (f"{self._path}-turn-queue", self._queue)):
            status = os.fstat(descriptor)
            found[name] = (status.st_dev, status.st_ino)
        return found

    def read_note(self) -> bytes:
        """Return what was left for whoever has the turn; have it yourself."""
        with contextlib.suppress(OSError):
            return os.pread(self._turn, _NOTE_BYTES_MAX, _NOTE_AT).partition(b"\n")[0]
        return b""

    def write_note(self, note: str) -> None:
        """Leave a line for whoever has the turn next, as far as there is room for it; have it yourself."""
        line = note.encode() + b"\n"
        if len(line) <= _NOTE_BYTES_MAX:
            with contextlib.suppress(OSError):
                os.pwrite(self._turn, line, _NOTE_AT)

    def _take_lock(self, block: bool, began: float, patience: float) -> bool:
        if self._waiter is None or self._waiter.is_idle():
            if self._try():
                return True
            if not block:
                return False
            if self._waiter is None:
                self._waiter = _Waiter(self._queue, self._turn)
        if self._waiter.take((lambda: self.patience.until(began, patience)) if block else time.monotonic):
            return True
        if block:
            raise self._in_use(began)
        return False

    def _try(self) -> bool:
        # Q first here too: a newcomer must not pass by the one that waits for W.
        try:
            fcntl.flock(self._queue, _LOCK)
            try:
                fcntl.flock(self._turn, _LOCK)
            finally:
                fcntl.flock(self._queue, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
        return True

    def _sign(self) -> None:
        """Let others know who has the turn, where the kernel does not tell."""
        if self._is_told is None:
            self._is_told = flock_holder(self._turn) == OWN_PROCESS.pid
        if not self._is_told:
            with contextlib.suppress(OSError):  # a full disk must not keep anybody from deleting runs
                os.pwrite(self._turn, self._signature, 0)

    def _in_use(self, began: float) -> StoreInUse:
        pid = flock_holder(self._turn)
        if pid is None:
            try:
                pid = int(os.pread(self._turn, len(self._signature), 0) or b"0")
            except (OSError, ValueError):
                pid = 0
        return StoreInUse(
            f"the write turn of {self._path!r} did not come within {time.monotonic() - began:.3g} s; "
            f"{describe_process(pid)} has it; let that process go on, or kill it"
        )

    def _forget_in_child(self) -> None:
        # A fork shares the lock with its parent: closing leaves it with the parent, unlocking would take it away.
        for descriptor in (self._queue, self._turn):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._queue = self._turn = -1


class _Waiter:
    """A thread that waits for the turn on behalf of callers who may lose patience.

    It is idle, or waits, or the turn was granted and its caller has yet to see it.
    """

    def __init__(self, queue: int, turn: int) -> None:
        self._queue = queue
        self._turn = turn
        self._change = threading.Condition()  # guards what follows
        self._state: Literal["idle", "waiting", "granted"] = "idle"
        self._is_wanted = False
        self._is_closed = False
        threading.Thread(target=self._run, name="durable-trio-turn", daemon=True).start()

    def is_idle(self) -> bool:
        """Return whether no wait is under way."""
        return self._state == "idle"

    def take(self, until: Callable[[], float]) -> bool:
        """Return whether the turn came before a time that may be another at each look; if not, the wait goes on."""
        with self._change:
            if self._state == "idle":
                self._state = "waiting"
                self._change.notify_all()
            self._is_wanted = True
            while not (has_come := self._has_come()) and (seconds := until() - time.monotonic()) > 0:
                self._change.wait(seconds)
            if has_come:
                self._state = "idle"
            self._is_wanted = False
            return has_come

    def _has_come(self) -> bool:
        return self._state == "granted"

    def look_again(self) -> None:
        """Let a wait under way look how long it may still take."""
        with self._change:
            self._change.notify_all()

    def close(self) -> None:
        """Close the lock files, now or when the wait under way has ended, and end the thread."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._is_closed or self._state == "waiting")
                if self._state != "waiting":
                    break
            fcntl.flock(self._queue, fcntl.LOCK_EX)
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            fcntl.flock(self._queue, fcntl.LOCK_UN)
            with self._change:
                if self._is_wanted:
                    self._is_wanted = False
                    self._state = "granted"
                    self._change.notify_all()
                else:
                    fcntl.flock(self._turn, fcntl.LOCK_UN)
                    self._state = "idle"
        os.close(self._queue)
        os.close(self._turn)


_open_turns: weakref.WeakSet[FileTurn] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for turn in list(_open_turns):
        turn._forget_in_child()
    _open_turns.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
