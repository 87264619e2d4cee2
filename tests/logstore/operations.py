"""Which function applies which operation. Each looks first and writes then: what is refused has written nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

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
from tests.logstore.claims import claim_due, claim_run
from tests.logstore.codes import forget_dead_codes, refuse
from tests.logstore.endings import abandon_run, cut_history, resume_run
from tests.logstore.executors import (
    put_open_steps,
    put_report,
    reap_executor,
    register_executor,
    renew_lease,
    tell_death,
)
from tests.logstore.forks import continue_as_new, copy_history, fork_run
from tests.logstore.messages import request_cancel, send_signal, signal_with_start
from tests.logstore.progress import advance, finish, park_damaged, release
from tests.logstore.removals import delete_run, prune, sweep
from tests.logstore.starts import start_run
from tests.logstore.state import State

__all__ = ["OPERATIONS"]

OPERATIONS: Final[dict[type, Callable[[State, Any], Any]]] = {
    StartRun: start_run,
    ClaimDue: claim_due,
    ClaimRun: claim_run,
    Advance: advance,
    Release: release,
    Refuse: refuse,
    ParkDamaged: park_damaged,
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
    PutOpenSteps: put_open_steps,
}
