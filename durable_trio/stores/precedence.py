"""What the writer tells apart in what is submitted: what is committed alone, what stands behind, what is never lost.

A table of kinds; what comes of it is decided in ``stores.submitted`` and ``stores.writer``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from durable_trio.stores.contract import (
    AbandonRun,
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Fence,
    Finish,
    ForgetDeadCodes,
    ForkRun,
    Operation,
    ParkDamaged,
    Prune,
    PutOpenSteps,
    PutReport,
    ReapExecutor,
    Refuse,
    RegisterExecutor,
    Release,
    RenewLease,
    RequestCancel,
    ResumeRun,
    SendSignal,
    SignalWithStart,
    StartRun,
    Sweep,
    TellDeath,
)

__all__ = [
    "ALONE",
    "CALLERS",
    "NEVER_INLINE",
    "OWNERS",
    "SERVICES",
    "STARTS",
    "UPKEEP",
    "Item",
    "Tidy",
    "UserTransaction",
]


@attrs.frozen
class UserTransaction:
    """Asks for a transaction of the user's (see ``Store.transact``)."""

    fence: Fence
    fn: Callable[[Any], Advance]
    seconds_max: float


@attrs.frozen
class Tidy:
    """Asks for ``Store.tidy``."""


Item = Operation | UserTransaction | Tidy

#: No other operation is committed with them.
ALONE: Final = frozenset({UserTransaction, Tidy})
#: Each may take its time, so a batch has few of them (``stores.upkeep``), and the event loop none.
UPKEEP: Final = frozenset(
    {AbandonRun, ResumeRun, CutHistory, ForkRun, CopyHistory, DeleteRun, Prune, Sweep, ForgetDeadCodes}
)
#: Never applied on the event loop.
NEVER_INLINE: Final = UPKEEP | {ContinueAsNew}
#: What stands behind all else.
STARTS: Final = UPKEEP | {StartRun, SignalWithStart}
#: What a run's owner writes of it: the outcome has happened, and must not be lost.
OWNERS: Final = (Advance, ContinueAsNew, Release, Refuse, ParkDamaged, Finish, UserTransaction)
#: What somebody calls for who may decide otherwise, and need not wait for ever for a store that is not there.
CALLERS: Final = (*STARTS, SendSignal, RequestCancel, PutReport, PutOpenSteps)
#: What an executor writes of itself, and what it takes: it waits for the outcome, unless it leaves.
SERVICES: Final = (ClaimDue, ClaimRun, RegisterExecutor, RenewLease, ReapExecutor, TellDeath, Tidy)
