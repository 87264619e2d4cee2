"""Each pair of what the turns of a run do and an event has its row, or is refused."""

from __future__ import annotations

from durable_trio.turns.mode import EVENTS, GO_LIVE, LEAVE, MOVE, REST, STAY, Mode
from tests.kit.tables import follows, reached_from

#: What each event makes of each, spelled out: None where it is refused.
FOLLOWS = {
    # go_live, rest, move, leave, stay
    Mode.REPLAYING: (Mode.LIVE, None, None, None, None),
    Mode.LIVE: (None, Mode.RESTING, None, None, Mode.LIVE),
    Mode.RESTING: (None, Mode.RESTING, Mode.LIVE, Mode.LEAVING, Mode.RESTING),
    Mode.LEAVING: (None, None, Mode.LIVE, None, Mode.RESTING),
}


def test_every_pair_has_a_row_or_is_refused() -> None:
    assert follows(EVENTS, Mode) == FOLLOWS


def test_the_events_are_the_tables_that_are_used() -> None:
    assert list(EVENTS.values()) == [GO_LIVE, REST, MOVE, LEAVE, STAY]


def test_each_is_reached_from_the_first() -> None:
    assert reached_from(Mode.REPLAYING, EVENTS) == set(Mode)


def test_a_run_that_is_live_never_replays_again_in_this_stay() -> None:
    assert not any(Mode.REPLAYING in table.values() for table in EVENTS.values())
