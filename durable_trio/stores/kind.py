"""What a kind of store has to give so that users can name one by its address (``stores.kinds``)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import attrs

from durable_trio.stores.contract import Store

__all__ = ["Kind"]


class _MakeStore(Protocol):
    def __call__(self, address: str, /, *, durability: str, creates: bool) -> Store: ...


@attrs.frozen(kw_only=True)
class Kind:
    """What is done with addresses of one kind. Each function says in ``stores.kinds`` what it does, and raises."""

    make_store: _MakeStore
    make_reader: Callable[[str], Store]
    readable: Callable[[str], AbstractContextManager[str]]
    migrate: Callable[[str], tuple[int, int]]
    grants: Callable[[str, str], str]
