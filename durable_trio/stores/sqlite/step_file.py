"""The file beside a database in which its executors note what they are executing (``stores.step_slots``).

Each executor maps a region of its own into memory. A region is given back when its executor leaves in order; that of
one that has died is kept for people to look at, until there are some of them. The file is never unlinked, as the lock
files are not; but once nobody has a region it is empty, as they are.

A write to memory that has no disk behind it would kill the process. So a region is filled with zeros before it is used,
which takes its room; and whoever makes the file shorter meanwhile does what he must not do with ``-shm`` either. What
goes wrong otherwise only switches this off, with a line in the log.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from durable_trio.errors import StoreError
from durable_trio.logger import Logger
from durable_trio.processes import boot_id
from durable_trio.rows import UntoldRow
from durable_trio.stores.sqlite.files import open_lock_file
from durable_trio.stores.step_slots import (
    HEADER_BYTES,
    REGION_BYTES,
    Region,
    StepSlots,
    is_region_of,
    of_this_process,
    read_region,
)

__all__ = ["MemorySteps", "StepFile", "untold_of"]

_LOGGER: Final = Logger("durable_trio.store")
# Regions before that of an executor that has died is used again: so many deaths in a row can be looked at.
_KEPT_REGIONS: Final = 8
# 64 MiB. So many executors have better things to do than to be looked at.
_REGIONS_MAX: Final = 256
# How often, and how long apart, it is tried to have the file alone.
_TRIES: Final = 50
_TRY_SECONDS: Final = 0.01
# A slot may be read while it is written; the next look finds it whole.
_LOOKS: Final = 3


class MemorySteps:
    """What the executors of a database in memory note: only this process can see it."""

    def __init__(self) -> None:
        self._own: dict[int, StepSlots] = {}

    def begin(self, executor: int) -> StepSlots | None:
        """Give an executor a region."""
        slots = self._own[executor] = of_this_process(executor)
        return slots

    def end(self, executor: int) -> None:
        """Forget the region of an executor."""
        self._own.pop(executor, None)

    def close(self) -> None:
        """Forget all."""
        self._own.clear()

    def read(self, run: int | None = None) -> tuple[Region, ...]:
        """Return what the executors have noted."""
        found = (read_region(bytes(slots.buffer), run=run) for slots in list(self._own.values()))
        return tuple(region for region in found if region is not None)


def untold_of(regions: Iterable[Region], executor: int) -> tuple[UntoldRow, ...]:
    """Return what an executor has noted to tell."""
    return tuple(untold for region in regions if region.executor == executor for untold in region.untold)


class StepFile:
    """The file of one database. Every call opens it anew: it is needed seldom.

    Args:
        is_alive: returns whether the process of an executor may still run, and write to its region.
    """

    def __init__(self, database: str, is_alive: Callable[[int], bool]) -> None:
        self._database = database
        self._path = f"{database}-steps"
        self._is_alive = is_alive
        self._own: dict[int, tuple[StepSlots, int, tuple[int, int]]] = {}

    def begin(self, executor: int) -> StepSlots | None:
        """Give an executor of this process a region; ``None``, once it was said why, if there is none to be had."""
        try:
            return self._begin(executor)
        except (OSError, ValueError, StoreError) as error:
            _LOGGER.warning("steps under way are not shown: %r cannot be used (%s)", self._path, error)
        return None

    def _begin(self, executor: int) -> StepSlots | None:
        with self._locked(_TRIES) as descriptor:
            index = self._choose(descriptor)
            if index is None:
                _LOGGER.warning("steps under way are not shown: %d executors are, already", _REGIONS_MAX)
                return None
            offset = index * REGION_BYTES
            _fill(descriptor, offset)
            region = mmap.mmap(descriptor, REGION_BYTES, offset=offset)
            slots = StepSlots(region, executor=executor, pid=os.getpid(), boot_id=boot_id())
            status = os.fstat(descriptor)
            self._own[executor] = slots, offset, (status.st_dev, status.st_ino)
            return slots

    def end(self, executor: int) -> None:
        """Free the region of an executor of this process, which has left in order."""
        found = self._own.pop(executor, None)
        if found is None:
            return
        slots, offset, file = found
        slots.close()
        with suppress(OSError, StoreError), self._locked(1) as descriptor:
            status = os.fstat(descriptor)
            header = os.pread(descriptor, HEADER_BYTES, offset)
            if (status.st_dev, status.st_ino) == file and is_region_of(header) == executor:
                os.pwrite(descriptor, bytes(HEADER_BYTES), offset)
                if not any(_headers(descriptor)):  # nobody has any of it mapped
                    os.ftruncate(descriptor, 0)

    def close(self) -> None:
        """Free all regions of this process."""
        for executor in list(self._own):
            self.end(executor)

    def read(self, run: int | None = None) -> tuple[Region, ...]:
        """Return what the executors have noted, of one run if it is given; nothing where nothing can be read."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ()
        try:
            found: dict[int, Region] = {}
            for _ in range(_LOOKS):
                for region in _regions(descriptor, run):
                    before = found.get(region.executor)
                    if before is None or len(region.steps) > len(before.steps):
                        found[region.executor] = region
                if run is None or any(region.steps for region in found.values()):
                    break
            return tuple(found[executor] for executor in sorted(found))
        except OSError:
            return ()
        finally:
            os.close(descriptor)

    def _choose(self, descriptor: int) -> int | None:
        """Return the number of a region that may be written over, or of one beyond the end."""
        dead: list[tuple[int, int]] = []
        count = 0
        for index, header in enumerate(_headers(descriptor)):
            count += 1
            executor = is_region_of(header)
            if executor == 0:
                return index
            if executor is None:  # of another version
                continue
            if executor not in self._own and not self._is_alive(executor):
                dead.append((executor, index))
        if len(dead) >= _KEPT_REGIONS or (dead and count >= _REGIONS_MAX):
            return min(dead)[1]
        return count if count < _REGIONS_MAX else None

    @contextmanager
    def _locked(self, tries: int) -> Iterator[int]:
        """Have the file open, and alone, to give out or free a region: that takes no time.

        Raises:
            BlockingIOError: somebody was stopped in the middle of that, and is not waited for.
        """
        descriptor = open_lock_file(self._path, self._database)
        try:
            for left in range(tries, 0, -1):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if left == 1:
                        raise
                time.sleep(_TRY_SECONDS)
            try:
                yield descriptor
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # what is mapped keeps the file open
        finally:
            os.close(descriptor)


def _fill(descriptor: int, offset: int) -> None:
    """Write zeros, so that there is room for all of it.

    Raises:
        OSError: there is none; what was there before is what it was, or free.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, offset, REGION_BYTES)
    zeros, left = bytes(REGION_BYTES), REGION_BYTES
    while left:
        left -= os.pwrite(descriptor, zeros[:left], offset + REGION_BYTES - left)


def _headers(descriptor: int) -> Iterator[bytes]:
    """Yield the header of each region; an empty one for one that is free."""
    for index in range(os.fstat(descriptor).st_size // REGION_BYTES):
        header = os.pread(descriptor, HEADER_BYTES, index * REGION_BYTES)
        yield header if any(header) else b""


def _regions(descriptor: int, run: int | None) -> Iterator[Region]:
    for index in range(min(_REGIONS_MAX, os.fstat(descriptor).st_size // REGION_BYTES)):
        offset = index * REGION_BYTES
        if is_region_of(os.pread(descriptor, HEADER_BYTES, offset)):
            region = read_region(os.pread(descriptor, REGION_BYTES, offset), run=run)
            if region is not None:
                yield region
