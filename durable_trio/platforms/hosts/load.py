"""Whether a host has work besides its guest: some loops tell, of others it is seen by how long their passes take.

It matters only while a thread works for the guest. Beside a busy loop that thread gets the interpreter's lock late, and
is waited for; beside an idle one it wakes the loop by itself, and waiting for it would only cost.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import Final

from durable_trio.platforms.hosts.host import Host

__all__ = ["HostLoad"]

# A host that cannot tell has work if a pass of it takes longer than so many of its shortest.
_BUSY_PASSES: Final = 1.6
_BUSY_SECONDS: Final = 0.000_015
# A host is busy that has work for so long without a pause; what it does for a burst of calls is over before.
_BUSY_AFTER_SECONDS: Final = 0.005
# What was the shortest pass is forgotten slowly: another machine load, another host. A host that does nothing is never
# as slow as this, else one that is busy for minutes would be taken for one that is slow.
_FORGETS: Final = 1.002
_IDLE_PASS_SECONDS_MAX: Final = 0.000_2


class HostLoad:
    """How busy a host is, as far as its guest can see. In the loop's thread only."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pass_began_at: float | None = None  # while one is measured
        self._shortest_pass = math.inf
        self._last_pass = 0.0
        self._idle_at = 0.0  # when it was last seen to have no work
        self._own_seconds = 0.0  # the guest's, since the pass began

    def pass_begins(self) -> None:
        """A call is put into the host's queue; ``pass_ends`` when it is made. Nothing if one is measured already."""
        if self._pass_began_at is None:
            self._pass_began_at = perf_counter()
            self._own_seconds = 0.0

    def pass_ends(self) -> None:
        """The host has come to a call that was put into its queue."""
        if self._pass_began_at is not None:
            self._last_pass = perf_counter() - self._pass_began_at - self._own_seconds
            self._pass_began_at = None
            self._shortest_pass = min(self._last_pass, self._shortest_pass * _FORGETS, _IDLE_PASS_SECONDS_MAX)

    def was_the_guests(self, seconds: float) -> None:
        """The last so many seconds were no work of the host's. A pass may have begun in them."""
        if self._pass_began_at is not None:
            self._own_seconds += min(seconds, perf_counter() - self._pass_began_at)

    def may_be_busy(self) -> bool:
        """Return whether it is, or another pass has to be seen to tell."""
        return self._host.has_work() is None or self.is_busy()

    def is_busy(self) -> bool:
        """Return whether the host has had work for a while, whenever that was looked at."""
        has_work = self._host.has_work()
        if has_work is None:
            has_work = self._last_pass > max(_BUSY_PASSES * self._shortest_pass, self._shortest_pass + _BUSY_SECONDS)
        if not has_work:
            self._idle_at = perf_counter()
            return False
        return perf_counter() - self._idle_at > _BUSY_AFTER_SECONDS
