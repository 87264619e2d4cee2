"""Says, once each, that what runs have done cannot be stored for now, and that it is stored after all.

It is kept and tried again twice a second, by itself, so that nobody else would learn of it: not whoever looks at the
log, and not the runs, which wait. What is said at once to callers is nothing for the log.
"""

from __future__ import annotations

import errno

from durable_trio.errors import StoreAway, StoreError
from durable_trio.logger import Logger

__all__ = ["Obstacle"]

_LOGGER = Logger("durable_trio.store")


class Obstacle:
    """What keeps a writer from writing: nothing, mostly."""

    def __init__(self) -> None:
        #: Why something was kept the last time; ``None`` if nothing is.
        self.error: StoreError | None = None
        self._began_at = 0.0
        self._kept_count = 0  # the most that were kept
        self._is_told = False

    def met(self, error: StoreError, now: float) -> None:
        """Something is kept because of this. ``now``: in seconds, of any clock."""
        if self.error is None:
            self._began_at = now
        self.error = error

    def still_there(self, kept_count: int) -> None:
        """So many writes have been kept for a while: the first time it is told."""
        if self.error is None or not (kept_count or isinstance(self.error, StoreAway)):
            return
        self._kept_count = max(self._kept_count, kept_count)
        if self._is_told:
            return
        self._is_told = True
        number = getattr(self.error.__cause__, "os_errno", 0)
        waits = (
            f" What runs have done is kept in memory: {kept_count} of their writes wait, and are done again if this "
            "process is stopped meanwhile"
        )
        _LOGGER.warning(
            "the store cannot be written: %s. It is tried again until it can.%s",
            str(self.error).rstrip("."),
            waits if kept_count else "",
            extra={
                "event": "writes_kept",
                "cause": f"{type(self.error).__name__}: {self.error}",
                "errno": errno.errorcode.get(number),
                "waiting": kept_count,
            },
        )

    def gone(self, now: float) -> None:
        """Nothing is kept any more: told if that was."""
        seconds, count, is_told = now - self._began_at, self._kept_count, self._is_told
        self.error, self._kept_count, self._is_told = None, 0, False
        if is_told:
            text = "the store is written to again; up to %d writes had waited, for %.1f s"
            extra = {"event": "writes_stored", "waiting": count, "seconds": round(seconds, 3)}
            _LOGGER.info(text, count, seconds, extra=extra)
