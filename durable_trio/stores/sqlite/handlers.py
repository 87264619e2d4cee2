"""Which function applies which operation."""

from __future__ import annotations

from typing import Final

from durable_trio.stores.base import (
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    CopyHistory,
    CutHistory,
    DeleteRun,
    Finish,
    ForkRun,
    Park,
    Prune,
    PutReport,
    ReapExecutor,
    RegisterExecutor,
    Release,
    RenewLease,
    RequestCancel,
    ResumeRun,
    SendSignal,
    SignalWithStart,
    StartRun,
    Sweep,
    Unpark,
)
from durable_trio.stores.sqlite.claim_operations import claim_due
from durable_trio.stores.sqlite.compound_operations import claim_run, signal_with_start
from durable_trio.stores.sqlite.copy_operations import copy_history, fork_run
from durable_trio.stores.sqlite.executor_operations import reap_executor, register_executor, renew_lease
from durable_trio.stores.sqlite.message_operations import request_cancel, send_signal
from durable_trio.stores.sqlite.removal_operations import delete_run, prune, sweep
from durable_trio.stores.sqlite.report_operations import put_report
from durable_trio.stores.sqlite.run_operations import advance, continue_as_new, finish, park, release
from durable_trio.stores.sqlite.start_operations import start_run
from durable_trio.stores.sqlite.transaction import Handler
from durable_trio.stores.sqlite.upkeep_operations import cut_history, resume_run, unpark

__all__ = ["HANDLERS"]

HANDLERS: Final[dict[type, Handler]] = {
    StartRun: start_run,
    ClaimDue: claim_due,
    ClaimRun: claim_run,
    Advance: advance,
    Release: release,
    Park: park,
    Finish: finish,
    ContinueAsNew: continue_as_new,
    SendSignal: send_signal,
    SignalWithStart: signal_with_start,
    RequestCancel: request_cancel,
    ResumeRun: resume_run,
    CutHistory: cut_history,
    ForkRun: fork_run,
    CopyHistory: copy_history,
    DeleteRun: delete_run,
    Prune: prune,
    Sweep: sweep,
    Unpark: unpark,
    RegisterExecutor: register_executor,
    RenewLease: renew_lease,
    ReapExecutor: reap_executor,
    PutReport: put_report,
}
