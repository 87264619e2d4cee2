"""A connection that is made anew when it was lost, for whoever needs it next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from durable_trio.stores.postgres.wire import Wire

__all__ = ["Link"]


@attrs.define(eq=False)
class Link:
    """One connection, used by one thread at a time.

    Args:
        make: makes one.
    """

    _make: Callable[[], Wire]
    _wire: Wire | None = None
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    @contextmanager
    def used(self) -> Iterator[Wire]:
        """Around a block that uses the connection; others wait. A transaction that it leaves open is rolled back.

        Raises:
            StoreAway: none can be made.
        """
        with self._lock:
            if self._wire is None or self._wire.is_lost:
                self._wire = None  # also if none can be made
                self._wire = self._make()
            wire = self._wire
            try:
                yield wire
            finally:
                if not wire.is_lost and wire.is_in_transaction:
                    wire.roll_back()

    def hurry(self, seconds_max: float) -> None:
        """Wait for answers no longer than so many seconds from now on."""
        wire = self._wire
        if wire is not None:
            wire.hurry(seconds_max)

    def close(self) -> None:
        """Let go of the connection; the next who needs it has another one made."""
        with self._lock:
            if self._wire is not None:
                self._wire.close()
                self._wire = None
