"""Which compensations run, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from durable_trio.rows import Key

T = TypeVar("T")

_PREFIX = "compensate"


def in_order(registered: Iterable[tuple[int, T]]) -> list[T]:
    """Return what was registered as (seq of the step's row, it), in reverse order of recorded completion."""
    return [item for _, item in sorted(registered, key=lambda pair: pair[0], reverse=True)]


def compensation_key(step: Key) -> Key:
    """Return the key under which the outcome of a step's compensation is recorded.

    The branch gets a first part without ``#``, which no branch of a body has, so the keys cannot meet.
    """
    branch = f"{_PREFIX}/{step.branch}" if step.branch else _PREFIX
    return Key(branch, step.name, step.n)


def compensated_step(key: Key) -> Key:
    """Return the key of the step whose compensation is recorded under this one."""
    return Key(key.branch.removeprefix(_PREFIX).removeprefix("/"), key.name, key.n)
