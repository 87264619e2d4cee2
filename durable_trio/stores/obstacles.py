"""Says, once each, that what runs have done cannot be stored for now, and that it is stored after all.

It is kept and tried again twice a second, by itself, so that nobody else would learn of it: not whoever looks at the
log, and not the runs, which wait. What is said at once to callers is nothing for the log.
"""

from __future__ import annotations

import errno

from durable_trio.errors import StoreError
from durable_trio.logger import Logger

__all__ = ["Obstacle"]

_LOGGER = Logger("durable_trio.store")


class Obstacle:
    """What keeps a writer from writing: nothing, mostly."""

    def __init__(self) -> None:
        #: Why something was kept the last time; ``None`` if nothing is.
        self.error: StoreError | None = None
        self._began_at = 0.0
        self._kept_count = 0  # the most that were kept; 0 until it was told

    def met(self, error: StoreError, now: float) -> None:
        """Something is kept because of this. ``now``: in seconds, of any clock."""
        if self.error is None:
            self._began_at = now
        self.error = error

    def still_there(self, kept_count: int) -> None:
        """So many writes have been kept for a while: the first time it is told."""
        if self.error is None or not kept_count:
            return
        is_told, self._kept_count = self._kept_count > 0, max(self._kept_count, kept_count)
        if is_told:
            return
        number = getattr(self.error.__cause__, "os_errno", 0)
        _LOGGER.warning(
            "the store cannot be written: %s. What runs have done is kept in memory, and tried again until it "
            "can; %d of their writes wait. Do not stop this process meanwhile: it would be done again",
            self.error,
            kept_count,
            extra={
                "event": "writes_kept",
                "cause": f"{type(self.error).__name__}: {self.error}",
                "errno": errno.errorcode.get(number),
                "waiting": kept_count,
            },
        )

    def gone(self, now: float) -> None:
        """Nothing is kept any more: told if that was."""
        seconds, count = now - self._began_at, self._kept_count
        self.error, self._kept_count = None, 0
        if count:
            text = "the store is written to again; up to %d writes had waited, for %.1f s"
            extra = {"event": "writes_stored", "waiting": count, "seconds": round(seconds, 3)}
            _LOGGER.info(text, count, seconds, extra=extra)
