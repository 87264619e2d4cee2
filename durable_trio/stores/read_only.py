"""What a store that is only read does with all that would change it, whatever it is kept in: it refuses."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from durable_trio.errors import StoreError
from durable_trio.stores.contract import Advance, Fence, Operation, Store
from durable_trio.stores.cursors import Cursor

__all__ = ["ReadOnlyStore"]


class ReadOnlyStore(Store):
    """Answers questions; it writes nothing, and nobody learns that it is there."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What it is called in messages."""

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self.name} is only read")

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Refuse: nothing is written."""
        self._refuse()

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Refuse: nothing is written."""
        self._refuse()

    def read_cursor(self, text: str) -> Cursor:
        """Nobody watches here."""
        raise ValueError("a database that is only read has no cursors")

    def foreign_changes(self) -> bool | None:
        """Nobody is told of changes here."""
        return None

    def tidy(self) -> None:
        """Refuse: nothing is moved or removed."""
        self._refuse()
