"""Transactions of the user's that a store commits beside the batches, on connections of their own: some at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from outcome import Outcome, capture

from durable_trio.errors import OwnershipLost, StoreError
from durable_trio.stores.contract import Store
from durable_trio.stores.precedence import UserTransaction
from durable_trio.stores.submitted import Entry
from durable_trio.stores.threads import StoreThread

__all__ = ["Beside", "transact"]


def transact(store: Store, transaction: UserTransaction) -> Any:
    """Call a transaction and return its outcome; only an error of the store's is raised."""
    try:
        return store.transact(transaction.fence, transaction.fn, seconds_max=transaction.seconds_max)
    except OwnershipLost as error:
        return error
    except StoreError:
        raise
    except Exception as error:
        return error


class Beside:
    """Calls transactions in threads.

    Args:
        ended: called on the event loop with one that has come back, and what came of it.
    """

    def __init__(self, store: Store, ended: Callable[[Entry, Outcome[Any]], None]) -> None:
        self.under_way: list[Entry] = []
        self._store = store
        self._ended = ended
        self._idle: list[StoreThread] = []

    def begin(self, queue: deque[Entry]) -> None:
        """Begin those that stand first in the queue, as many as may be under way."""
        while queue and len(self.under_way) < self._store.transact_concurrency:
            entry = queue.popleft()
            transaction = entry[0]
            assert isinstance(transaction, UserTransaction)
            self.under_way.append(entry)
            thread = self._idle.pop() if self._idle else StoreThread("durable_trio transaction")
            outcomes: list[Outcome[Any]] = []
            call = partial(self._call, transaction, outcomes)
            thread.hand_over(call, partial(self._came_back, thread, entry, outcomes))

    def stop(self) -> None:
        """End the threads that have nothing to do; each of the others ends when it has come back."""
        while self._idle:
            self._idle.pop().stop()

    def _call(self, transaction: UserTransaction, outcomes: list[Outcome[Any]]) -> None:
        outcomes.append(capture(transact, self._store, transaction))

    def _came_back(self, thread: StoreThread, entry: Entry, outcomes: list[Outcome[Any]]) -> None:
        self.under_way.remove(entry)
        self._idle.append(thread)
        self._ended(entry, outcomes[0])
