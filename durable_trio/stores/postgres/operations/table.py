"""Which function applies which operation, of those that are statements of their own."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import (
    ClaimDue,
    ClaimRun,
    ForgetDeadCodes,
    ParkDamaged,
    PutReport,
    ReapExecutor,
    Refuse,
    RegisterExecutor,
    TellDeath,
)
from durable_trio.stores.postgres.operations.claims import claim_due, claim_run
from durable_trio.stores.postgres.operations.codes import forget_dead_codes, park_run, refuse
from durable_trio.stores.postgres.operations.leases import reap_executor, register_executor, tell_death
from durable_trio.stores.postgres.operations.reports import put_report
from durable_trio.stores.postgres.transaction import Handler

__all__ = ["APART", "HANDLERS"]

HANDLERS: Final[dict[type, Handler]] = {
    ClaimDue: claim_due,
    ClaimRun: claim_run,
    Refuse: refuse,
    ParkDamaged: park_run,
    ForgetDeadCodes: forget_dead_codes,
    RegisterExecutor: register_executor,
    ReapExecutor: reap_executor,
    TellDeath: tell_death,
    PutReport: put_report,
}

#: Each of these is a transaction of its own, also within a batch: it must not hold the row of its own executor while it
#: waits for that of another.
APART: Final = frozenset({ReapExecutor})
