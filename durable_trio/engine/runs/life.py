"""How far a run in memory has come to its end, and what may follow what.

Each event has a table from where it may come to what follows: ``resident.life = FINISH[resident.life]``. A pair that is
in no table is a fault of ours, and a ``KeyError`` for which the run is refused. What is *stored* of a run has a table
of its own: ``rules.run_life``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["BODY_END", "COMPENSATE", "END", "EVENTS", "FINISH", "RESETTLE", "TOO_LATE", "Life"]


class Life(enum.StrEnum):
    """Where a run in memory is between its first step and its end."""

    BODY = "body"  # its body goes on
    SETTLING = "settling"  # its body has ended, and its children have not, or there is still something to record
    COMPENSATING = "compensating"
    FINISHING = "finishing"  # its end is on its way to the store: a write behind it would be refused
    ENDED = "ended"  # its end is committed


#: A cancel changes nothing any more.
TOO_LATE: Final = (Life.COMPENSATING, Life.FINISHING, Life.ENDED)

#: Its body has returned or raised.
BODY_END: Final[Mapping[Life, Life]] = {Life.BODY: Life.SETTLING}
#: There is something to undo.
COMPENSATE: Final[Mapping[Life, Life]] = {Life.SETTLING: Life.COMPENSATING}
#: Its end is submitted.
FINISH: Final[Mapping[Life, Life]] = {Life.SETTLING: Life.FINISHING, Life.COMPENSATING: Life.FINISHING}
#: Its end was not stored, for a cancel came first; nobody can cancel what compensates.
RESETTLE: Final[Mapping[Life, Life]] = {Life.FINISHING: Life.SETTLING}
#: Its end is stored.
END: Final[Mapping[Life, Life]] = {Life.FINISHING: Life.ENDED}

EVENTS: Final[Mapping[str, Mapping[Life, Life]]] = {
    "body_end": BODY_END,
    "compensate": COMPENSATE,
    "finish": FINISH,
    "resettle": RESETTLE,
    "end": END,
}
