"""Which status of a run may follow which: the one table of a run's life. Pure.

What may happen to a run is an event. ``LIFE`` says for each of them in which statuses it may come, and which status
follows; ``None`` is a run that is not there. A pair that is not in it is refused, and changes nothing. In short::

    (none) ── START ──▶ pending ── CLAIM ──▶ running ── COMPLETE, FAIL, CANCEL ──▶ completed, failed, cancelled
                                             running ── WAIT, REFUSE ──▶ suspended ── RECORD, CLAIM ──▶ running
                                             running ── COMPENSATE ──▶ compensating ── FAIL, CANCEL ──▶ …
                                             running ── CONTINUE_AS_NEW ──▶ pending
                                             failed, cancelled ── REVIVE ──▶ pending

What a run waits for, when it is due, and who owns it are columns of their own: some events change only those, and
leave the status as it is. Only an owner's events carry a fence; a status in which no run can be owned refuses them for
that reason already. Leaving memory without a word (a crash, a detach) is no event: nothing is written.

A store takes what may follow from this table; a run in memory asks it what it is next.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final

from durable_trio.records import RunStatus

__all__ = [
    "ACTIVE",
    "BY_ADVANCE",
    "BY_FINISH",
    "BY_RELEASE",
    "CLAIMABLE",
    "FINAL",
    "LIFE",
    "OWNED",
    "RECORD",
    "TAKES_CANCEL",
    "TAKES_SIGNALS",
    "UNFINISHED",
    "WAIT",
    "WAITING",
    "RunEvent",
    "changed_by",
    "sources",
]


class RunEvent(enum.StrEnum):
    """What may happen to a stored run."""

    # Anybody:
    START = "start"
    START_CLAIMED = "start_claimed"  # by an executor that has a place for it
    FORK = "fork"  # it is a copy of another
    MESSAGE = "message"  # a signal, or the end of a child; one that waits is due then
    ASK_CANCEL = "ask_cancel"
    CANCEL_UNBEGUN = "cancel_unbegun"  # nobody owns it, and it has done nothing that would have to be undone
    ABANDON = "abandon"  # no code ends it, so somebody does
    TRY_AGAIN = "try_again"  # somebody asks for it: what has refused it is forgotten
    REVIVE = "revive"  # it had ended, and is to go on
    REMOVE = "remove"  # deleted or pruned
    GIVE_UP = "give_up"  # it is damaged, and deleted because nothing else can end it
    PARK = "park"  # its row is found damaged
    # An executor:
    CLAIM = "claim"
    CLAIM_UNDOING = "claim_undoing"  # it has an error already: it was compensating when it was parked
    OWNER_DIED = "owner_died"  # it is set free
    # Its owner, with the fence of the claim:
    RECORD = "record"  # a row of its history, or a value that it publishes
    WAIT = "wait"  # for something outside, in memory or not
    COMPENSATE = "compensate"
    GIVE_BACK = "give_back"  # unchanged, for another to claim
    LEAVE = "leave"  # an inline block is left; what it has stored waits until it is entered again
    REFUSE = "refuse"  # this code does not fit it: for others
    CONTINUE_AS_NEW = "continue_as_new"
    COMPLETE = "complete"
    FAIL = "fail"  # also one whose time to live is over
    CANCEL = "cancel"


_S = RunStatus
_Follows = Mapping[Any, RunStatus | None]

#: What a run in memory asks for with everything that it records, or waits for.
RECORD: Final[Mapping[RunStatus, RunStatus]] = {
    _S.RUNNING: _S.RUNNING,
    _S.SUSPENDED: _S.RUNNING,
    _S.COMPENSATING: _S.COMPENSATING,
}
WAIT: Final[Mapping[RunStatus, RunStatus]] = {
    _S.RUNNING: _S.SUSPENDED,
    _S.SUSPENDED: _S.SUSPENDED,
    _S.COMPENSATING: _S.COMPENSATING,
}


def _unchanged(*statuses: RunStatus) -> _Follows:
    return {status: status for status in statuses}


LIFE: Final[Mapping[RunEvent, _Follows]] = {
    RunEvent.START: {None: _S.PENDING},
    RunEvent.START_CLAIMED: {None: _S.RUNNING},
    RunEvent.FORK: {None: _S.PENDING},
    RunEvent.MESSAGE: _unchanged(_S.PENDING, _S.RUNNING, _S.SUSPENDED, _S.COMPENSATING),
    # A compensation is never cancelled.
    RunEvent.ASK_CANCEL: _unchanged(_S.RUNNING, _S.SUSPENDED),
    RunEvent.CANCEL_UNBEGUN: {_S.PENDING: _S.CANCELLED, _S.SUSPENDED: _S.CANCELLED},
    RunEvent.ABANDON: {
        _S.PENDING: _S.CANCELLED,
        _S.RUNNING: _S.CANCELLED,
        _S.SUSPENDED: _S.CANCELLED,
        _S.COMPENSATING: _S.CANCELLED,
    },
    RunEvent.TRY_AGAIN: _unchanged(_S.SUSPENDED, _S.COMPENSATING),
    RunEvent.REVIVE: {_S.FAILED: _S.PENDING, _S.CANCELLED: _S.PENDING},
    RunEvent.REMOVE: {_S.COMPLETED: None, _S.FAILED: None, _S.CANCELLED: None},
    RunEvent.GIVE_UP: {_S.SUSPENDED: None},
    RunEvent.PARK: {
        _S.PENDING: _S.SUSPENDED,
        _S.RUNNING: _S.SUSPENDED,
        _S.SUSPENDED: _S.SUSPENDED,
        _S.COMPENSATING: _S.SUSPENDED,
    },
    RunEvent.CLAIM: {
        _S.PENDING: _S.RUNNING,
        _S.RUNNING: _S.RUNNING,
        _S.SUSPENDED: _S.RUNNING,
        _S.COMPENSATING: _S.COMPENSATING,
    },
    RunEvent.CLAIM_UNDOING: {
        _S.PENDING: _S.RUNNING,
        _S.RUNNING: _S.RUNNING,
        _S.SUSPENDED: _S.COMPENSATING,
        _S.COMPENSATING: _S.COMPENSATING,
    },
    RunEvent.OWNER_DIED: _unchanged(_S.RUNNING, _S.SUSPENDED, _S.COMPENSATING),
    RunEvent.RECORD: RECORD,
    RunEvent.WAIT: WAIT,
    RunEvent.COMPENSATE: {_S.RUNNING: _S.COMPENSATING, _S.SUSPENDED: _S.COMPENSATING},
    RunEvent.GIVE_BACK: _unchanged(_S.RUNNING, _S.SUSPENDED, _S.COMPENSATING),
    RunEvent.LEAVE: {_S.RUNNING: _S.SUSPENDED, _S.SUSPENDED: _S.SUSPENDED, _S.COMPENSATING: _S.SUSPENDED},
    RunEvent.REFUSE: WAIT,
    # What has begun to undo its steps neither completes nor begins anew: it would be half undone.
    RunEvent.CONTINUE_AS_NEW: {_S.RUNNING: _S.PENDING, _S.SUSPENDED: _S.PENDING},
    RunEvent.COMPLETE: {_S.RUNNING: _S.COMPLETED, _S.SUSPENDED: _S.COMPLETED},
    RunEvent.FAIL: {_S.RUNNING: _S.FAILED, _S.SUSPENDED: _S.FAILED, _S.COMPENSATING: _S.FAILED},
    RunEvent.CANCEL: {_S.RUNNING: _S.CANCELLED, _S.SUSPENDED: _S.CANCELLED, _S.COMPENSATING: _S.CANCELLED},
}

#: By which events an owner says what the status is from now on (``Advance.status``), …
BY_ADVANCE: Final = (RunEvent.RECORD, RunEvent.WAIT, RunEvent.COMPENSATE)
#: … lets the run go (``Release.status``), …
BY_RELEASE: Final = (RunEvent.WAIT, RunEvent.GIVE_BACK, RunEvent.LEAVE)
#: … and ends it (``Finish.status``).
BY_FINISH: Final = (RunEvent.COMPLETE, RunEvent.FAIL, RunEvent.CANCEL)


def sources(after: RunStatus, events: Iterable[RunEvent]) -> frozenset[RunStatus]:
    """Return the statuses from which one of these events leads to ``after``."""
    return frozenset(
        before for event in events for before, follows in LIFE[event].items() if before is not None and follows is after
    )


def changed_by(event: RunEvent) -> frozenset[RunStatus]:
    """Return the statuses that an event changes into others."""
    return frozenset(before for before, follows in LIFE[event].items() if before is not None and follows is not before)


def _from(*events: RunEvent) -> frozenset[RunStatus]:
    return frozenset(status for event in events for status in LIFE[event] if status is not None)


#: It has ended.
FINAL: Final = frozenset(follows for event in BY_FINISH for follows in LIFE[event].values() if follows is not None)
#: It has not.
UNFINISHED: Final = frozenset(RunStatus) - FINAL
#: An executor may take it, if nobody owns it.
CLAIMABLE: Final = _from(RunEvent.CLAIM)
#: It may have an owner.
OWNED: Final = _from(RunEvent.GIVE_BACK)
#: A signal is accepted.
TAKES_SIGNALS: Final = _from(RunEvent.MESSAGE)
#: It has nothing to do before something comes from outside: a message wakes it, and an owner's crash does not.
WAITING: Final = frozenset(LIFE[RunEvent.WAIT].values()) - {_S.COMPENSATING}
#: It can be asked to cancel.
TAKES_CANCEL: Final = _from(RunEvent.ASK_CANCEL, RunEvent.CANCEL_UNBEGUN)
#: Its owner is at work on it: it takes one of the places that the shares are of, and a crash there counts against it.
ACTIVE: Final = OWNED - WAITING
