"""How long a store is away, when it is tried again, and what those are told who wait for one in vain."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from durable_trio.doors import guarded
from durable_trio.errors import StoreAway
from durable_trio.limits import AWAY_RETRY_SECONDS
from durable_trio.stores.submitted import Entry, Submitted

__all__ = ["Outage", "in_doubt", "tell_away"]


class Outage:
    """A time in which a store cannot be reached. Instants are seconds of any clock that does not go back."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self._pause = AWAY_RETRY_SECONDS[0]

    def next_pause(self) -> float:
        """Return how long to wait now: each time twice as long, and not all processes alike."""
        pause, self._pause = self._pause, min(2 * self._pause, AWAY_RETRY_SECONDS[1])
        return pause * random.uniform(0.75, 1.0)

    def is_over_patience(self, now: float, seconds_max: float) -> bool:
        """Return whether those who call are to be told."""
        return now - self.began_at >= seconds_max


def in_doubt(cause: Exception) -> StoreAway:
    """Return the error for those whose operation was perhaps committed."""
    error = StoreAway(f"it is not known whether this was done; ask for the same again: {cause}", in_doubt=True)
    error.__cause__ = cause
    return error


def tell_away(
    perhaps_done: list[Entry],
    submitted: Submitted,
    waits_no_more: Callable[[Entry], bool],
    error: StoreAway,
    committed_untold: Callable[[Any], None],
) -> None:
    """Tell those who wait no more that the store is away, and whether what they wanted has perhaps happened.

    What has perhaps happened stays in its batch, which is applied again as it is. Nobody waits for it any more, and
    ``committed_untold`` takes what comes of it.
    """
    for number, entry in enumerate(perhaps_done):
        if waits_no_more(entry):
            item, callback = entry
            perhaps_done[number] = item, committed_untold
            guarded(callback, in_doubt(error))
    for _, callback in submitted.take_out(waits_no_more):
        guarded(callback, StoreAway(f"nothing was done: {error}"))
