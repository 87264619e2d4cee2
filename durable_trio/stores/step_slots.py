"""Which steps are executing in a process now, in memory that outlives it: one slot for each, written without a commit.

A region belongs to one executor: a header, small slots, and some large ones for steps with long names. A slot is taken
when a step's function begins and given back when it has come out, which costs a microsecond, so each step has one. What
a killed process has left there tells what it was doing.

A reader in another process may look while a slot is being written, and a process may die in the middle of that: what
is written has a checksum, and one that is wrong counts for nothing. (Then the function has not begun.) A region has no
more slots than these; steps beyond are executed like others, and only counted. Nothing that must be right depends on
any of this.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

import attrs

from durable_trio.logger import Logger
from durable_trio.processes import boot_id
from durable_trio.records import StepKind
from durable_trio.rows import Key, OpenStepRow, UntoldRow
from durable_trio.stores.questions import OpenSteps

if TYPE_CHECKING:
    from mmap import mmap

__all__ = [
    "FREE",
    "HEADER_BYTES",
    "HEAD_BYTES",
    "PACK_HEAD",
    "PACK_NOTED",
    "REGION_BYTES",
    "SMALL_MAX",
    "Noted",
    "Region",
    "StepSlots",
    "is_region_of",
    "of_this_process",
    "open_steps",
    "pack_untold",
    "read_region",
]

#: All numbers little-endian. Magic, executor (0: the region is free), process, steps that have no slot, boot.
_HEADER: Final = Struct("<8sqqq40s")
HEADER_BYTES: Final = _HEADER.size
_MAGIC: Final = b"dtsteps1"
_UNLISTED: Final = Struct("<q")
_UNLISTED_AT: Final = 24
# Of a slot: whether it is taken, length and checksum of what it holds, the thread. The last may change meanwhile.
_HEAD: Final = Struct("<BxHIQ")
HEAD_BYTES: Final = _HEAD.size
PACK_HEAD: Final = _HEAD.pack
#: What a slot begins with that nobody has. The checksum goes too: else what was there before would come back with the
#: first byte of what is written next.
FREE: Final = bytes(8)
_THREAD: Final = Struct("<Q")
_THREAD_AT: Final = 8
_LOGGER: Final = Logger("durable_trio.processes")

# Run, token of its claim, when the attempt began (microseconds), which attempt, count of the name. Then text.
_NOTED: Final = Struct("<qqqqq")
PACK_NOTED: Final = _NOTED.pack
_SEPARATOR: Final = "\0"  # no name has one
# Where a step has its kind, in a slot that says what is to be told of a run.
_UNTOLD: Final = "untold"

_SMALL_BYTES: Final = 256
_LARGE_BYTES: Final = 4096
_LARGE_COUNT: Final = 16
# What a slot can hold, in bytes.
SMALL_MAX: Final = _SMALL_BYTES - HEAD_BYTES
_LARGE_MAX: Final = _LARGE_BYTES - HEAD_BYTES
#: A whole number of pages, of 64 KiB as well. More steps than it has slots are more than anybody reads.
REGION_BYTES: Final = 256 * 1024
_LARGE_AT: Final = REGION_BYTES - _LARGE_COUNT * _LARGE_BYTES
_CUT: Final = "…".encode()


class StepSlots:
    """The slots of one executor, as its calls use them. None of it raises, or waits.

    Args:
        buffer: a region, all zero, which outlives the process where somebody else is to see it.
    """

    def __init__(self, buffer: bytearray | mmap, *, executor: int, pid: int, boot_id: str) -> None:
        self.buffer: bytearray | mmap = buffer
        #: Small slots that nobody has: where they begin.
        self.free = list(range(_LARGE_AT - _SMALL_BYTES, 0, -_SMALL_BYTES))
        self.large_at = _LARGE_AT
        self._free_large = list(range(REGION_BYTES - _LARGE_BYTES, _LARGE_AT - 1, -_LARGE_BYTES))
        self._unlisted_count = 0
        self._has_said_so = False
        #: Of the event loop, where most functions run.
        self.thread = threading.get_native_id()
        boot = boot_id.encode(errors="replace")[:40]
        buffer[:HEADER_BYTES] = _HEADER.pack(_MAGIC, executor, pid, 0, boot)

    def take(self, noted: bytes) -> int:
        """Note a step that begins; return its slot, for ``give_back``.

        Args:
            noted: what ``PACK_NOTED`` makes, and kind, name and branch of its key, a zero between them. Or what
                ``pack_untold`` makes: that is no step, and has a slot as one.
        """
        length = len(noted)
        if length <= SMALL_MAX and self.free:
            slot = self.free.pop()
        elif length > SMALL_MAX and self._free_large:
            slot = self._free_large.pop()
            if length > _LARGE_MAX:  # deep in branches: what comes first says the most
                text = noted[_NOTED.size : _LARGE_MAX - len(_CUT)].decode(errors="ignore")
                noted = noted[: _NOTED.size] + text.encode() + _CUT
                length = len(noted)
        else:
            return self._count(1)
        self.buffer[slot : slot + HEAD_BYTES + length] = PACK_HEAD(1, length, crc32(noted), self.thread) + noted
        return slot

    def give_back(self, slot: int) -> None:
        """The step has come out. Calls do the same in place for a small slot: each step passes there."""
        if slot < 0:
            self._count(-1)
            return
        self.buffer[slot : slot + len(FREE)] = FREE
        (self.free if slot < _LARGE_AT else self._free_large).append(slot)

    def is_in_thread(self, slot: int) -> None:
        """The function of that step runs in the calling thread."""
        if slot > 0:
            _THREAD.pack_into(self.buffer, slot + _THREAD_AT, threading.get_native_id())

    def open_steps(self, run: int | None = None) -> OpenSteps:
        """Return what this process is at, of one run if it is given."""
        region = read_region(bytes(self.buffer), run=run)
        return OpenSteps(()) if region is None else open_steps([region], {region.executor: True})

    def close(self) -> None:
        """Write nothing any more where others can see it; who still has a slot does not notice."""
        self.buffer = bytearray(REGION_BYTES)

    def _count(self, change: int) -> int:
        self._unlisted_count += change
        _UNLISTED.pack_into(self.buffer, _UNLISTED_AT, max(0, self._unlisted_count))
        if not self._has_said_so:
            self._has_said_so = True
            _LOGGER.warning(
                "more steps are executing at once in this process than can be noted (%d): of those beyond, nobody is "
                "shown that they are under way; lower the limit of a map, or concurrency",
                _LARGE_AT // _SMALL_BYTES - 1,
                extra={"event": "steps_unlisted"},
            )
        return -1


@attrs.frozen
class Noted:
    """A step that a slot tells of."""

    run: int
    token: int
    key: Key
    kind: StepKind
    attempt: int
    started_at: int
    thread: int


@attrs.frozen
class Region:
    """What a region tells. ``unlisted_count``: what had no slot."""

    executor: int
    pid: int
    boot_id: str
    unlisted_count: int
    steps: tuple[Noted, ...]
    untold: tuple[UntoldRow, ...]


def of_this_process(executor: int) -> StepSlots:
    """Return slots of an executor that nobody else can see."""
    return StepSlots(bytearray(REGION_BYTES), executor=executor, pid=os.getpid(), boot_id=boot_id())


def pack_untold(untold: UntoldRow, run: int) -> bytes:
    """Return what a slot holds that says what is to be told of a run."""
    text = _SEPARATOR.join((_UNTOLD, untold.event, untold.run_id))
    return PACK_NOTED(run, untold.token, 0, 0, 0) + text.encode()


def is_region_of(header: bytes) -> int | None:
    """Return which executor a region's header names; 0 if it is free, ``None`` if it is none."""
    if not any(header[:HEADER_BYTES]):
        return 0
    if len(header) < HEADER_BYTES:
        return None
    magic, executor, *_ = _HEADER.unpack_from(header)
    return int(executor) if magic == _MAGIC and executor >= 0 else None


def read_region(data: bytes | bytearray, *, run: int | None = None) -> Region | None:
    """Return what a region tells, of one run if it is given; ``None`` if it is free, or none at all."""
    if len(data) < REGION_BYTES or not is_region_of(bytes(data[:HEADER_BYTES])):
        return None
    _, executor, pid, unlisted_count, boot = _HEADER.unpack_from(data)
    found = tuple(_noted(data, run))
    steps = (each for each in found if isinstance(each, Noted))
    return Region(
        executor=executor,
        pid=pid,
        boot_id=boot.rstrip(b"\0").decode(errors="replace"),
        unlisted_count=max(0, unlisted_count),
        steps=tuple(sorted(steps, key=lambda step: step.started_at)),
        untold=tuple(each for each in found if isinstance(each, UntoldRow)),
    )


def open_steps(regions: Iterable[Region], alive: Mapping[int, bool]) -> OpenSteps:
    """Return what is under way of what executors have noted. ``alive``: which of them are."""
    rows = [
        OpenStepRow(
            run=step.run,
            token=step.token,
            key=step.key,
            kind=step.kind,
            attempt=step.attempt,
            started_at=step.started_at,
            executor=region.executor,
            pid=region.pid,
            thread=step.thread,
            is_alive=alive[region.executor],
        )
        for region in regions
        for step in region.steps
    ]
    unlisted_count = sum(region.unlisted_count for region in regions if alive[region.executor])
    return OpenSteps(tuple(sorted(rows, key=lambda row: row.started_at)), unlisted_count)


def _noted(data: bytes | bytearray, run: int | None) -> Iterator[Noted | UntoldRow]:
    for slot in (*range(_SMALL_BYTES, _LARGE_AT, _SMALL_BYTES), *range(_LARGE_AT, REGION_BYTES, _LARGE_BYTES)):
        if not data[slot]:
            continue
        room = (_SMALL_BYTES if slot < _LARGE_AT else _LARGE_BYTES) - _HEAD.size
        _, length, checksum, thread = _HEAD.unpack_from(data, slot)
        noted = bytes(data[slot + _HEAD.size : slot + _HEAD.size + length])
        if not _NOTED.size <= length <= room or crc32(noted) != checksum:
            continue
        of_run, token, since, attempt, n = _NOTED.unpack_from(noted)
        if run is not None and of_run != run:
            continue
        kind, _, path = noted[_NOTED.size :].decode(errors="replace").partition(_SEPARATOR)
        name, _, branch = path.partition(_SEPARATOR)
        if kind == _UNTOLD:
            yield UntoldRow(event=name, run_id=branch, token=token)
            continue
        try:
            yield Noted(of_run, token, Key(branch, name, n), StepKind(kind), attempt, since, thread)
        except ValueError:  # of a later version
            continue
