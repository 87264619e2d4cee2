"""Which function applies which operation."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.contract import (
    AbandonRun,
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Finish,
    ForgetDeadCodes,
    ForkRun,
    ParkDamaged,
    Prune,
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
from durable_trio.stores.sqlite.operations.abandoning import abandon_run
from durable_trio.stores.sqlite.operations.claims import claim_due, claim_run
from durable_trio.stores.sqlite.operations.codes import forget_dead_codes, park_run, refuse
from durable_trio.stores.sqlite.operations.forks import copy_history, fork_run
from durable_trio.stores.sqlite.operations.leases import reap_executor, register_executor, renew_lease, tell_death
from durable_trio.stores.sqlite.operations.messages import request_cancel, send_signal, signal_with_start
from durable_trio.stores.sqlite.operations.progress import advance, continue_as_new, finish, release
from durable_trio.stores.sqlite.operations.removals import delete_run, prune, sweep
from durable_trio.stores.sqlite.operations.reports import put_report
from durable_trio.stores.sqlite.operations.resuming import cut_history, resume_run
from durable_trio.stores.sqlite.operations.starts import start_run
from durable_trio.stores.sqlite.transaction import Handler

__all__ = ["HANDLERS"]

HANDLERS: Final[dict[type, Handler]] = {
    StartRun: start_run,
    ClaimDue: claim_due,
    ClaimRun: claim_run,
    Advance: advance,
    Release: release,
    Refuse: refuse,
    ParkDamaged: park_run,
    Finish: finish,
    ContinueAsNew: continue_as_new,
    SendSignal: send_signal,
    SignalWithStart: signal_with_start,
    RequestCancel: request_cancel,
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
    RenewLease: renew_lease,
    ReapExecutor: reap_executor,
    TellDeath: tell_death,
    PutReport: put_report,
}
