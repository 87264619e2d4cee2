"""What there is to do, said beforehand: the same for the same seed, so that the checker can say it again for itself."""

from __future__ import annotations

import enum
import itertools
import os
import random
from pathlib import Path
from typing import Final

import attrs

from demo_parts.workflows import Order, SourceFile

_SKIPPED_FOLDERS: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})
_ITEMS: Final = ("bicycle bell", "coffee mill", "compass", "desk lamp", "kettle", "teapot", "trident", "umbrella")
_DECLINED_PART: Final = 0.15
_SENT_TWICE_PART: Final = 0.2


class Trouble(enum.Enum):
    """What is done to several machines, or to their server."""

    KILL = "a machine's process is killed"
    CRASH = "the server crashes"
    BLINK = "a machine is cut off, for less than anybody notices"
    CUT = "a machine is cut off until the others take over"


@attrs.frozen(kw_only=True)
class PlannedOrder:
    """An order, and what becomes of it. ``starts`` and ``answered`` are parts of the mirroring done by then."""

    order: Order
    starts: float
    answered: float
    is_declined: bool
    is_sent_twice: bool  # the warehouse's signal is sent again, with the same id


@attrs.frozen(kw_only=True)
class Plan:
    """All that is to be done."""

    files: tuple[SourceFile, ...]
    orders: tuple[PlannedOrder, ...]
    kills: tuple[float, ...]  # parts of the mirroring done, in order
    troubles: tuple[Trouble, ...] = ()  # on several machines, each is one of these

    @property
    def noun(self) -> str:
        """What each of them is called."""
        return "trouble" if self.troubles else "kill"

    @property
    def chunk_count(self) -> int:
        """How many chunks all files have."""
        return sum(file.chunk_count for file in self.files)

    @property
    def size_bytes(self) -> int:
        """How large all files are."""
        return sum(file.size_bytes for file in self.files)


def make_plan(tree: Path, *, files: int, orders: int, kills: int, seed: int, has_machines: bool = False) -> Plan:
    """Return the plan for a seed: at most so many files, so many orders and kills, or troubles of several machines."""
    chance = random.Random(seed)
    found = python_files(tree)
    chosen = chance.sample(found, min(files, len(found)))
    # A file's chunks go one after the other, so the longest ones begin first.
    chosen.sort(key=lambda file: -file.chunk_count)
    planned = tuple(_order(chance, number) for number in range(1, orders + 1))
    if not has_machines:
        parts = tuple(sorted(chance.uniform(0.02, 0.95) for _ in range(kills)))
        return Plan(files=tuple(chosen), orders=planned, kills=parts)
    # Each kind as often as the others. The files come in portions, one more than there are troubles (``Show``): each
    # trouble comes in the middle of one.
    troubles = [kind for kind, _ in zip(itertools.cycle(Trouble), range(kills), strict=False)]
    chance.shuffle(troubles)
    parts = tuple((number + chance.uniform(0.3, 0.7)) / (kills + 1) for number in range(kills))
    return Plan(files=tuple(chosen), orders=planned, kills=parts, troubles=tuple(troubles))


def python_files(tree: Path) -> list[SourceFile]:
    """Return the Python files of a tree in the order of their paths, without installed packages and caches."""
    found = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                found.append(SourceFile(path.relative_to(tree).as_posix(), path.stat().st_size))
    return found


def _order(chance: random.Random, number: int) -> PlannedOrder:
    pieces = chance.randint(1, 5)
    order = Order(f"order-{number:04}", chance.choice(_ITEMS), pieces, pieces * chance.randint(500, 9900))
    starts = chance.uniform(0, 0.8)
    # Some signals are sent before their run waits for them, most soon after, some late.
    wait = chance.choice((0.0, chance.expovariate(30), chance.expovariate(8)))
    return PlannedOrder(
        order=order,
        starts=starts,
        answered=min(0.98, starts + wait),
        is_declined=chance.random() < _DECLINED_PART,
        is_sent_twice=chance.random() < _SENT_TWICE_PART,
    )


def mirror_id(file: SourceFile) -> str:
    """Return the id of the run that mirrors a file."""
    return f"mirror:{file.path}"
