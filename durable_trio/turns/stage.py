"""The stages of a durable call, and which may follow which.

A call waits until all recorded rows are delivered, begins, and has its outcome submitted; the commit tells whether that
counts. One whose row is in the history is sealed from the start. Only an open one can be cancelled.

Each event has a table from the stage in which it may come to the one that follows: ``call.stage = BEGIN[call.stage]``.
A pair that is in no table is a fault of ours, and a ``KeyError`` for which the run is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["BEGIN", "CLOSE", "COMMIT", "EVENTS", "FIND", "OPEN", "REOPEN", "SUBMIT", "Stage"]


class Stage(enum.StrEnum):
    """Where a call is between the moment its task waits and the moment its outcome is delivered."""

    WAITING = "waiting"  # it has not begun
    BEGUN = "begun"
    SUBMITTED = "submitted"  # its outcome is on its way, and the body must not go by it before the commit has told
    COMMITTED = "committed"  # in this stay
    SEALED = "sealed"  # its row is in the history; or it ends the history, and has no row


#: Nothing is recorded of its outcome: it can be cancelled.
OPEN: Final = (Stage.WAITING, Stage.BEGUN)

#: It goes live. Again, if a deadline whose time is over has held it up where it had something to begin.
BEGIN: Final[Mapping[Stage, Stage]] = {Stage.WAITING: Stage.BEGUN, Stage.BEGUN: Stage.BEGUN}
#: Its row is in the history.
FIND: Final[Mapping[Stage, Stage]] = {Stage.WAITING: Stage.SEALED}
#: Its outcome is submitted. Again, if that was kept back while a signal waited, or was in conflict with another run.
SUBMIT: Final[Mapping[Stage, Stage]] = {Stage.BEGUN: Stage.SUBMITTED, Stage.SUBMITTED: Stage.SUBMITTED}
#: Its outcome is stored.
COMMIT: Final[Mapping[Stage, Stage]] = {Stage.SUBMITTED: Stage.COMMITTED}
#: Its outcome does not count: a signal came first, or a transaction was rolled back.
REOPEN: Final[Mapping[Stage, Stage]] = {Stage.SUBMITTED: Stage.BEGUN}
#: It ends the history, in place of a row.
CLOSE: Final[Mapping[Stage, Stage]] = {Stage.BEGUN: Stage.SEALED}

EVENTS: Final[Mapping[str, Mapping[Stage, Stage]]] = {
    "begin": BEGIN,
    "find": FIND,
    "submit": SUBMIT,
    "commit": COMMIT,
    "reopen": REOPEN,
    "close": CLOSE,
}
