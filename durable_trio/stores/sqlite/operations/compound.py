"""Operations beside the common ones: a claim by id, and a signal with a start."""

from __future__ import annotations

from typing import Any, Final

import attrs

from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.rows import RunRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.run_life import CLAIMABLE
from durable_trio.stores.contract import ClaimRun, Sent, SignalWithStart, Started
from durable_trio.stores.sqlite.columns import run_from, status_from
from durable_trio.stores.sqlite.operations.claims import claim
from durable_trio.stores.sqlite.operations.damage import update_run
from durable_trio.stores.sqlite.operations.messages import run_not_found, send_signal
from durable_trio.stores.sqlite.operations.starts import FIND_RUN, start_run
from durable_trio.stores.sqlite.transaction import RefusalError, Transaction

__all__ = ["claim_run", "signal_with_start"]

FIND_CLAIMABLE: Final = "SELECT run, status, workflow, owner FROM runs WHERE id = ?"
CLEAR_PROBLEM: Final = "UPDATE runs SET problem = NULL, fingerprint = NULL WHERE run = ?"


def claim_run(
    transaction: Transaction, operation: ClaimRun
) -> RunRow | RunNotFound | RunFinished | RunConflict | OwnershipLost:
    """Claim one run by its id (see ``ClaimRun``)."""
    if not transaction.is_executor_alive(operation.owner):
        return OwnershipLost(f"executor {operation.owner} is not registered, or was declared dead; it claimed nothing")
    found = transaction.execute(FIND_CLAIMABLE, (operation.run_id,)).fetchone()
    if found is None:
        return run_not_found(operation.run_id)
    run, status, workflow, owner = found
    run_id = operation.run_id
    if workflow != operation.workflow:
        return RunConflict(f"run {run_id!r} is of workflow {workflow!r}, not {operation.workflow!r}", run_id=run_id)
    if status_from(status) not in CLAIMABLE:
        return RunFinished(f"run {run_id!r} is {status}", run_id=run_id)
    if owner is not None:
        return RunConflict(f"run {run_id!r} is held by executor {owner}, which is alive", run_id=run_id)
    update_run(transaction, CLEAR_PROBLEM, (run,), run=run)
    values = {"owner": operation.owner, "changed": transaction.change(), "now": operation.now, "run": run}
    row = claim(transaction, values)
    return row if row.damage is None else RunConflict(damaged(run_id, row.damage).text, run_id=run_id)


def signal_with_start(transaction: Transaction, operation: SignalWithStart) -> Any:
    """Store a run and a signal to it, both or neither (see ``SignalWithStart``)."""
    run_id = operation.start.id
    if operation.signal.run_id != run_id:
        return ValueError(f"the signal is for run {operation.signal.run_id!r}, not for {run_id!r}, which is started")
    started = start_run(transaction, attrs.evolve(operation.start, owner=None))
    if not isinstance(started, Started):
        return started
    sent = send_signal(transaction, operation.signal)
    if not isinstance(sent, Sent):
        if started.created:
            raise RefusalError(sent)
        return sent
    if started.created:
        return started
    # The signal may have woken it.
    return attrs.evolve(started, row=run_from(transaction.execute(FIND_RUN, (run_id,)).fetchone()))
