"""What the files of these tests import, found once in a process.

The code of a workflow is that of all its project: each engine goes through each file of tests that a test imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["found_once"]


def found_once(find: Callable[[Mapping[str, Any], bytes], Iterator[str]]) -> Callable[..., Iterator[str]]:
    """Have what is found in a source kept: it depends on that source and on the package alone."""
    kept: dict[tuple[Any, bytes], tuple[str, ...]] = {}

    def found(names: Mapping[str, Any], source: bytes) -> Iterator[str]:
        key = (names.get("__package__"), source)
        if key not in kept:
            kept[key] = tuple(find(names, source))
        return iter(kept[key])

    return found
