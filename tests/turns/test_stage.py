"""Each pair of a call's stage and an event has its row, or is refused."""

from __future__ import annotations

from durable_trio.turns.stage import BEGIN, CLOSE, COMMIT, EVENTS, FIND, OPEN, REOPEN, SUBMIT, Stage
from tests.kit.tables import follows, reached_from

S = Stage

#: What each event makes of each stage, spelled out: None where it is refused.
FOLLOWS = {
    # stage: begin, find, submit, commit, reopen, close
    S.WAITING: (S.BEGUN, S.SEALED, None, None, None, None),
    S.BEGUN: (S.BEGUN, None, S.SUBMITTED, None, None, S.SEALED),
    S.SUBMITTED: (None, None, S.SUBMITTED, S.COMMITTED, S.BEGUN, None),
    S.COMMITTED: (None, None, None, None, None, None),
    S.SEALED: (None, None, None, None, None, None),
}


def test_every_pair_has_a_row_or_is_refused() -> None:
    assert follows(EVENTS, Stage) == FOLLOWS


def test_the_events_are_the_tables_that_the_turns_use() -> None:
    assert list(EVENTS.values()) == [BEGIN, FIND, SUBMIT, COMMIT, REOPEN, CLOSE]


def test_what_is_stored_or_sealed_is_never_open_again() -> None:
    """No path leads from there to where a call can be cancelled."""
    for stage in (Stage.COMMITTED, Stage.SEALED):
        assert stage not in OPEN
        assert not any(stage in table for table in EVENTS.values())


def test_every_stage_is_reached_from_the_first() -> None:
    assert reached_from(Stage.WAITING, EVENTS) == set(Stage)
