"""Each pair of a run's status and an event has its row, or is refused."""

from __future__ import annotations

import pytest

from durable_trio.records import RunStatus
from durable_trio.rules.run_life import (
    ACTIVE,
    BY_ADVANCE,
    BY_FINISH,
    BY_RELEASE,
    CLAIMABLE,
    FINAL,
    LIFE,
    OWNED,
    TAKES_CANCEL,
    TAKES_SIGNALS,
    UNFINISHED,
    WAITING,
    RunEvent,
    changed_by,
    sources,
)

E = RunEvent
STATUSES = (None, *RunStatus)

P, R, S, C = RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED, RunStatus.COMPENSATING
D, F, X = RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED
no = "refused"

#: What each event makes of each status, spelled out.
FOLLOWS = {
    # status:           None  P   R   S   C   D     F     X
    E.START:           (P,    no, no, no, no, no,   no,   no),
    E.START_CLAIMED:   (R,    no, no, no, no, no,   no,   no),
    E.FORK:            (P,    no, no, no, no, no,   no,   no),
    E.MESSAGE:         (no,   P,  R,  S,  C,  no,   no,   no),
    E.ASK_CANCEL:      (no,   no, R,  S,  no, no,   no,   no),
    E.CANCEL_UNBEGUN:  (no,   X,  no, X,  no, no,   no,   no),
    E.ABANDON:         (no,   X,  X,  X,  X,  no,   no,   no),
    E.TRY_AGAIN:       (no,   no, no, S,  C,  no,   no,   no),
    E.REVIVE:          (no,   no, no, no, no, no,   P,    P),
    E.REMOVE:          (no,   no, no, no, no, None, None, None),
    E.GIVE_UP:         (no,   no, no, None, no, no, no,   no),
    E.PARK:       (no,   S,  S,  S,  S,  no,   no,   no),
    E.CLAIM:           (no,   R,  R,  R,  C,  no,   no,   no),
    E.CLAIM_UNDOING:   (no,   R,  R,  C,  C,  no,   no,   no),
    E.OWNER_DIED:      (no,   no, R,  S,  C,  no,   no,   no),
    E.RECORD:          (no,   no, R,  R,  C,  no,   no,   no),
    E.WAIT:            (no,   no, S,  S,  C,  no,   no,   no),
    E.COMPENSATE:      (no,   no, C,  C,  no, no,   no,   no),
    E.GIVE_BACK:       (no,   no, R,  S,  C,  no,   no,   no),
    E.LEAVE:           (no,   no, S,  S,  S,  no,   no,   no),
    E.REFUSE:          (no,   no, S,  S,  C,  no,   no,   no),
    E.CONTINUE_AS_NEW: (no,   no, P,  P,  no, no,   no,   no),
    E.COMPLETE:        (no,   no, D,  D,  no, no,   no,   no),
    E.FAIL:            (no,   no, F,  F,  F,  no,   no,   no),
    E.CANCEL:          (no,   no, X,  X,  X,  no,   no,   no),
}  # fmt: skip


@pytest.mark.parametrize("event", list(RunEvent))
def test_every_pair_has_a_row_or_is_refused(event: RunEvent) -> None:
    for status, follows in zip(STATUSES, FOLLOWS[event], strict=True):
        assert LIFE[event].get(status, no) == follows, f"{event} of {status}"


def test_a_run_ends_once_and_only_a_revival_lets_it_go_on() -> None:
    for event in RunEvent:
        for status in FINAL & LIFE[event].keys():
            assert event in (E.REVIVE, E.REMOVE)
            assert LIFE[event][status] in (P, None)


def test_every_status_is_reached_and_every_run_can_end() -> None:
    reached: set[RunStatus | None] = {None}
    for _ in STATUSES:
        reached |= {life[status] for life in LIFE.values() for status in reached if status in life}
    assert reached == set(STATUSES)
    ending = set(FINAL)
    for _ in STATUSES:
        ending |= {before for life in LIFE.values() for before, after in life.items() if before and after in ending}
    assert ending == set(RunStatus)


def test_the_sets_are_what_their_names_say() -> None:
    assert {status for status in RunStatus if status.is_final} == FINAL == {D, F, X}
    assert UNFINISHED == CLAIMABLE == TAKES_SIGNALS == {P, R, S, C}
    assert {R, S, C} == OWNED
    assert {P, R, S} == TAKES_CANCEL
    assert {S} == WAITING
    assert {R, C} == ACTIVE
    assert changed_by(E.CLAIM) == changed_by(E.CLAIM_UNDOING) == {P, S}


def test_what_an_owner_may_say_of_each_status() -> None:
    assert [sources(status, BY_ADVANCE) for status in (R, S, C)] == [{R, S}, {R, S}, {R, S, C}]
    assert [sources(status, BY_RELEASE) for status in (R, S, C)] == [{R}, {R, S, C}, {C}]
    assert [sources(status, BY_FINISH) for status in (D, F, X)] == [{R, S}, {R, S, C}, {R, S, C}]
    for events in (BY_ADVANCE, BY_RELEASE, BY_FINISH):
        assert all(LIFE[event].keys() <= OWNED for event in events)
