"""What the turns of a run do, and what may follow what.

Each event has a table from where it may come to what follows: ``state.mode = REST[state.mode]``. A pair that is in no
table is a fault of ours, and a ``KeyError`` for which the run is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["EVENTS", "GO_LIVE", "LEAVE", "MOVE", "REST", "STAY", "Mode"]


class Mode(enum.StrEnum):
    """What the turns of a run do."""

    REPLAYING = "replaying"  # recorded rows are delivered, and no call begins
    LIVE = "live"  # calls begin, and what becomes of them is recorded
    RESTING = "resting"  # it only waits, and may leave memory: whoever keeps it there is told when it moves
    LEAVING = "leaving"  # it only waits, and its release is on its way


#: All rows are delivered.
GO_LIVE: Final[Mapping[Mode, Mode]] = {Mode.REPLAYING: Mode.LIVE}
#: Nothing is left to deliver, and nothing is due soon. Again, if something came that changed nothing.
REST: Final[Mapping[Mode, Mode]] = {Mode.LIVE: Mode.RESTING, Mode.RESTING: Mode.RESTING}
#: Something was delivered.
MOVE: Final[Mapping[Mode, Mode]] = {Mode.RESTING: Mode.LIVE, Mode.LEAVING: Mode.LIVE}
#: It asks to leave memory.
LEAVE: Final[Mapping[Mode, Mode]] = {Mode.RESTING: Mode.LEAVING}
#: It was told to stay; it may have moved since it asked, and rest again.
STAY: Final[Mapping[Mode, Mode]] = {
    Mode.LEAVING: Mode.RESTING,
    Mode.RESTING: Mode.RESTING,
    Mode.LIVE: Mode.LIVE,
}

EVENTS: Final[Mapping[str, Mapping[Mode, Mode]]] = {
    "go_live": GO_LIVE,
    "rest": REST,
    "move": MOVE,
    "leave": LEAVE,
    "stay": STAY,
}
