"""Which runs stand for all: a sample with its share of each kind, and of each kind at least one, if there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["sample_of", "spread"]

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return ``count`` of some items, or all that there are, evenly from their beginning to their end."""
    if count >= len(items):
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]


def sample_of(kinds: Mapping[Any, Sequence[Item]], count: int) -> list[Item]:
    """Return ``count`` items, or all that there are, of which each kind has the same share.

    Where that would be less than one item of a kind, it has one; if there are more kinds than items, the largest have.
    """
    total = sum(map(len, kinds.values()))
    if count >= total:
        return [item for items in kinds.values() for item in items]
    largest = sorted(kinds.values(), key=len, reverse=True)[:count]
    shares = [max(1, len(items) * count // total) for items in largest]
    # What was rounded goes to the largest, which also give what the smallest have above their share.
    for index in range(len(largest)):
        left = count - sum(shares)
        shares[index] = max(1, min(len(largest[index]), shares[index] + left))
    return [item for items, share in zip(largest, shares, strict=True) for item in spread(items, share)]
