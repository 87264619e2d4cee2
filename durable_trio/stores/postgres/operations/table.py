"""Which function applies which operation, of those that are statements of their own."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import (
    AbandonRun,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    ForgetDeadCodes,
    ForkRun,
    ParkDamaged,
    Prune,
    PutOpenSteps,
    PutReport,
    ReapExecutor,
    Refuse,
    RegisterExecutor,
    ResumeRun,
    Sweep,
    TellDeath,
)
from durable_trio.stores.postgres.operations.abandoning import abandon_run
from durable_trio.stores.postgres.operations.claims import claim_due, claim_run
from durable_trio.stores.postgres.operations.codes import forget_dead_codes, park_run, refuse
from durable_trio.stores.postgres.operations.forks import copy_history, fork_run
from durable_trio.stores.postgres.operations.generations import continue_as_new
from durable_trio.stores.postgres.operations.leases import reap_executor, register_executor, tell_death
from durable_trio.stores.postgres.operations.removals import delete_run, prune, sweep
from durable_trio.stores.postgres.operations.reports import put_open_steps, put_report
from durable_trio.stores.postgres.operations.resuming import cut_history, resume_run
from durable_trio.stores.postgres.transaction import Handler

__all__ = ["HANDLERS"]

HANDLERS: Final[dict[type, Handler]] = {
    ClaimDue: claim_due,
    ClaimRun: claim_run,
    Refuse: refuse,
    ParkDamaged: park_run,
    ContinueAsNew: continue_as_new,
    AbandonRun: abandon_run,
    ResumeRun: resume_run,
    CutHistory: cut_history,
    ForkRun: fork_run,
    CopyHistory: copy_history,
    DeleteRun: delete_run,
    Prune: prune,
    Sweep: sweep,
    ForgetDeadCodes: forget_dead_codes,
    RegisterExecutor: register_executor,
    ReapExecutor: reap_executor,
    TellDeath: tell_death,
    PutReport: put_report,
    PutOpenSteps: put_open_steps,
}
