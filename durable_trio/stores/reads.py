"""Who may ask a store when, and where: off the event loop where that may block.

Questions of runs and services have a thread of their own, and those that only people ask another one, so that a list
that takes its time keeps no run waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import trio

from durable_trio.errors import StoreAway, StoreCorrupt, StoreError, StoreRewound
from durable_trio.stores.contract import Store
from durable_trio.stores.outage import Outage
from durable_trio.stores.questions import Question
from durable_trio.stores.threads import Linger, StoreThread

__all__ = ["FINAL", "Reads", "unusable"]

T = TypeVar("T")

#: Errors after which a process must not go on with the store, whoever meets them.
FINAL: Final = (StoreCorrupt, StoreRewound)


class Reads:
    """Asks a store, for the tasks of an engine.

    Args:
        away_seconds_max: how long a question waits for a store that is away.
        failed: told of an error after which nothing can be read or written any more.
    """

    def __init__(
        self, store: Store, linger: Linger, *, away_seconds_max: float, failed: Callable[[StoreError], None]
    ) -> None:
        #: Whether the writer runs, and with it the threads; before and after, a thread of trio's asks.
        self.is_open = False
        #: Whether the writer has failed: then what a question meets is that failure.
        self.has_failed = False
        #: Whether this process is leaving: then nobody waits for a store that is away.
        self.is_leaving = False
        self._store = store
        self._away_seconds_max = away_seconds_max
        self._failed = failed
        self._thread = StoreThread("durable_trio reader", linger)
        self._people_thread = StoreThread("durable_trio answerer")
        self._limiter = trio.CapacityLimiter(1)

    async def call(self, question: Question[Any], fn: Callable[[], T]) -> T:
        """Call what asks the question, where that one is asked; again while the store is away, for some time."""
        store = self._store
        if not store.may_block:
            await trio.lowlevel.checkpoint()
            return fn()
        await trio.lowlevel.checkpoint_if_cancelled()
        outage: Outage | None = None
        while True:
            try:
                if not self.is_open:
                    return await trio.to_thread.run_sync(fn, limiter=self._limiter)
                is_apart = question.is_for_people and store.answers_apart
                return await (self._people_thread if is_apart else self._thread).call(fn)
            except StoreError as error:
                if isinstance(error, FINAL):
                    self._failed(error)
                if not (self.is_open or self.has_failed):  # while the read was on its way
                    raise unusable(None) from error
                outage = outage or Outage(trio.current_time())
                is_over = outage.is_over_patience(trio.current_time(), self._away_seconds_max)
                if is_over or self.is_leaving or not isinstance(error, StoreAway):
                    raise
            await trio.sleep(outage.next_pause())

    def stop(self) -> None:
        """End the threads."""
        self.is_open = False
        self._thread.stop()
        self._people_thread.stop()


def unusable(failure: BaseException | None) -> Exception:
    """Return the error for those who still want something of a store that has failed or is closed."""
    if failure is None:
        return trio.ClosedResourceError("the store is closed")
    if isinstance(failure, StoreError):
        return failure
    error = StoreError(f"the store's writer crashed; whether this was committed is not known: ask again ({failure!r})")
    error.__cause__ = failure
    return error
