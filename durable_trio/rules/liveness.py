"""Which executors are dead, as an observer judges it by what it has seen of them. Pure.

No clock is compared with another one's: neither those of two machines, nor that of now with what was stored before the
machine was started again. An observer counts by its own for how long it has *seen* an executor not renew: from one of
its looks to the next, as long as the database has answered. A new observer has seen nothing yet.

A long time between two looks tells of the observer, which was stopped, as perhaps the machine was with all others on
it; or of a database that could not be reached, by them neither. So of each no more counts than would leave who lives
time to renew.

======================  ======================  ===============
its process             seen not to renew       so it
======================  ======================  ===============
has ended, past doubt   for however long        has ended
is there, or may be     for less than a lease   lives
is there, or may be     for a lease             is silent
======================  ======================  ===============

A server of a database knows of a process only by a connection. Who has lost it is soon there again by another one, and
has not ended: so it must be seen to have none for a while, the *doubt* of its store, which is nothing where the kernel
tells (``Store.doubt_seconds``).

The row of one of which something is damaged tells nothing of its renewals: it lives until its process has ended.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from durable_trio.clock import MICROSECONDS

__all__ = ["COUNTED_MAX", "RENEWALS_OF_A_LEASE", "Liveness", "Silence", "counted", "judge", "watched"]

#: So many times within its lease an executor renews.
RENEWALS_OF_A_LEASE: Final = 3
#: So much (microseconds) of the time between two looks counts; of a short lease less.
COUNTED_MAX: Final = MICROSECONDS


class Liveness(enum.Enum):
    """What an observer takes an executor for."""

    LIVES = "lives"
    SILENT = "silent"  # its process is there, or may be, and is stopped, hangs, or is cut off
    ENDED = "ended"


@attrs.frozen
class Silence:
    """For how long (microseconds) an executor was seen not to renew, since it had done so ``renewals`` times.

    ``gone_for``: for how long of it, to the last look, its process was seen to have ended; ``None``: it was not.
    """

    renewals: int
    seen_for: int = 0
    gone_for: int | None = None


def counted(passed: int, lease: int) -> int:
    """Return how much of the time between two looks counts against an executor with such a lease (microseconds)."""
    return min(max(passed, 0), COUNTED_MAX, lease // RENEWALS_OF_A_LEASE)


def watched(
    before: Silence | None, renewals: int, *, passed: int, lease: int, is_locked: bool | None = None
) -> Silence:
    """Return what an observer knows of an executor after another look.

    Args:
        before: what it knew after the look before; ``None`` if it did not see it then.
        renewals: as it sees them now. Fewer than before are another number too.
        passed: microseconds since the look before, by its own clock.
        is_locked: whether its process is there, as the store judges it.
    """
    is_gone = is_locked is False
    if before is None or before.renewals != renewals:
        return Silence(renewals, gone_for=0 if is_gone else None)
    more = counted(passed, lease)
    gone_for = 0 if before.gone_for is None else before.gone_for + more
    return Silence(renewals, before.seen_for + more, gone_for if is_gone else None)


def judge(is_locked: bool | None, silence: Silence | None, *, lease: int, doubt: int = 0) -> Liveness:
    """Return what an executor is taken for.

    Args:
        is_locked: whether its process is there, as the store judges it (``ExecutorRow``).
        silence: ``None`` if its row cannot be read.
        doubt: for how long (microseconds) its process must have been seen to have ended; of a short lease less.
    """
    doubt = min(doubt, lease // RENEWALS_OF_A_LEASE)
    if is_locked is False and (silence is None or (silence.gone_for or 0) >= doubt):
        return Liveness.ENDED
    if silence is not None and silence.seen_for >= lease > 0:
        return Liveness.SILENT
    return Liveness.LIVES
