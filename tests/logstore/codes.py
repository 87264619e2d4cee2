"""Codes that refuse runs, and codes that nobody has any more."""

from __future__ import annotations

from durable_trio.errors import OwnershipLost
from durable_trio.limits import UPKEEP_ROWS_MAX
from durable_trio.rules.refused import is_too_much
from durable_trio.rules.run_life import LIFE, RunEvent
from durable_trio.stores.contract import ForgetDeadCodes, ParkDamaged, Refuse, Refused
from tests.logstore.progress import park_damaged
from tests.logstore.state import State

__all__ = ["forget_dead_codes", "refuse"]


def refuse(state: State, operation: Refuse) -> Refused | OwnershipLost:
    """Give a run back that a code does not fit."""
    run = state.owned(operation.fence)
    if run is None:
        return state.ownership_lost(operation.fence)
    living = state.living(run.row.workflow, run.row.version)
    run.refused = {code: said for code, said in run.refused.items() if code in living}
    run.refused[operation.code] = (operation.now, operation.problem)
    if is_too_much(set(run.refused)):
        park_damaged(state, ParkDamaged(fence=operation.fence, problem=operation.problem))
        return Refused(())
    status = LIFE[RunEvent.REFUSE][run.row.status]
    assert status is not None
    run.row.status = status
    run.row.owner = None
    run.row.wake_at = operation.now
    run.waits_for = ()
    state.touch(run)
    return Refused(tuple(sorted(living - run.refused.keys())))


def forget_dead_codes(state: State, operation: ForgetDeadCodes) -> int | None:
    """Forget of runs that sleep which codes have refused them that no executor has."""
    left = operation.codes & state.living(operation.workflow, operation.version)
    if left == operation.codes:
        return None
    after = -1 if operation.after is None else operation.after
    which = (operation.workflow, operation.version, operation.codes)
    found = sorted(
        number
        for number, run in state.unfinished.items()
        if number > after and run.is_refused and (run.row.workflow, run.row.version, frozenset(run.refused)) == which
    )[:UPKEEP_ROWS_MAX]
    for number in found:
        run = state.unfinished[number]
        if run.row.wake_at is None or run.row.wake_at > operation.now:
            run.refused = {code: said for code, said in run.refused.items() if code in left}
    return found[-1] if len(found) == UPKEEP_ROWS_MAX else None
