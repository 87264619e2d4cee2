"""What the writer tells apart in what is submitted: what is committed alone, what stands behind, what is never lost.

A table of kinds; what comes of it is decided in ``stores.writer``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from durable_trio.stores.contract import (
    AbandonRun,
    Advance,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Fence,
    Finish,
    ForgetDeadCodes,
    ForkRun,
    Operation,
    Prune,
    Refuse,
    Release,
    ResumeRun,
    SetAside,
    SignalWithStart,
    StartRun,
    Sweep,
)

__all__ = ["ALONE", "NEVER_INLINE", "OWNERS", "STARTS", "UPKEEP", "Item", "Tidy", "UserTransaction"]


@attrs.frozen
class UserTransaction:
    """Asks for a transaction of the user's (see ``Store.transact``)."""

    fence: Fence
    fn: Callable[[Any], Advance]
    seconds_max: float


@attrs.frozen
class Tidy:
    """Asks for a wal checkpoint."""


Item = Operation | UserTransaction | Tidy

#: No other operation is committed with them.
ALONE: Final = (UserTransaction, Tidy)
#: Each may take its time, so a batch has few of them (``stores.upkeep``), and the event loop none.
UPKEEP: Final = (AbandonRun, ResumeRun, CutHistory, ForkRun, CopyHistory, DeleteRun, Prune, Sweep, ForgetDeadCodes)
#: Never applied on the event loop.
NEVER_INLINE: Final = (*UPKEEP, ContinueAsNew)
#: What stands behind all else.
STARTS: Final = (StartRun, SignalWithStart, *UPKEEP)
#: What a run's owner writes of it: the outcome has happened, and must not be lost.
OWNERS: Final = (Advance, ContinueAsNew, Release, Refuse, SetAside, Finish, UserTransaction)
