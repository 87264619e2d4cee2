"""Each pair of how far a run has come to its end and an event has its row, or is refused."""

from __future__ import annotations

from durable_trio.engine.runs.life import BODY_END, COMPENSATE, END, EVENTS, FINISH, RESETTLE, Life
from tests.kit.tables import follows, reached_from

#: What each event makes of each, spelled out: None where it is refused.
FOLLOWS = {
    # body_end, compensate, finish, resettle, end
    Life.BODY: (Life.SETTLING, None, None, None, None),
    Life.SETTLING: (None, Life.COMPENSATING, Life.FINISHING, None, None),
    Life.COMPENSATING: (None, None, Life.FINISHING, None, None),
    Life.FINISHING: (None, None, None, Life.SETTLING, Life.ENDED),
    Life.ENDED: (None, None, None, None, None),
}


def test_every_pair_has_a_row_or_is_refused() -> None:
    assert follows(EVENTS, Life) == FOLLOWS


def test_the_events_are_the_tables_that_are_used() -> None:
    assert list(EVENTS.values()) == [BODY_END, COMPENSATE, FINISH, RESETTLE, END]


def test_each_is_reached_from_the_first() -> None:
    assert reached_from(Life.BODY, EVENTS) == set(Life)


def test_what_has_ended_stays_so() -> None:
    assert not any(Life.ENDED in table for table in EVENTS.values())
