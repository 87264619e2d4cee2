"""The contract of a run's life: its status moves as the table says (``rules.run_life``), or nothing changes at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from durable_trio.errors import OwnershipLost, RunConflict
from durable_trio.records import RunStatus
from durable_trio.rows import Key, RunRow
from durable_trio.rules.run_life import BY_ADVANCE, BY_FINISH, BY_RELEASE, FINAL, LIFE, OWNED, RunEvent, sources
from durable_trio.stores.contract import (
    AbandonRun,
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    DeleteRun,
    Fence,
    Finish,
    ForkRun,
    Operation,
    ParkDamaged,
    Prune,
    ReapExecutor,
    Refuse,
    Release,
    RequestCancel,
    ResumeRun,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    StartRun,
    Store,
)
from durable_trio.stores.questions import FindRun, ListRuns, RunFilter
from durable_trio.testing.store_contract.dice import Dice
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    abandon_operation,
    add,
    codes_of,
    in_status,
    one,
    owned,
    park,
    register,
    row_of,
    start_operation,
    step,
)

_Status = RunStatus | None  # of a run that is there, or is not

# Operations by which an owner says what a run's status is from now on, and which events those are.
SAID_BY: dict[str, tuple[Callable[[Fence, RunStatus], Operation], tuple[RunEvent, ...]]] = {
    "advance": (lambda fence, status: Advance(fence=fence, status=status, now=60), BY_ADVANCE),
    "release": (lambda fence, status: Release(fence=fence, status=status, wake_at=None), BY_RELEASE),
    "finish": (lambda fence, status: Finish(fence=fence, status=status, now=60), BY_FINISH),
}

# All other events, as far as a store can be brought to see them, as operations on the run "run".
CAUSES: dict[RunEvent, Callable[[Fence], Operation]] = {
    RunEvent.START: lambda _: start_operation(),
    RunEvent.START_CLAIMED: lambda fence: start_operation(owner=fence.owner),
    RunEvent.FORK: lambda _: ForkRun(run_id="source", before=Key("", "step", 0), id="run", now=60),
    RunEvent.MESSAGE: lambda _: SendSignal(run_id="run", name="go", payload="1", signal_id=None, now=60),
    RunEvent.ASK_CANCEL: lambda _: RequestCancel(run_id="run", reason="null", now=60),
    RunEvent.CANCEL_UNBEGUN: lambda _: RequestCancel(run_id="run", reason="null", now=60),
    RunEvent.ABANDON: lambda _: abandon_operation(),
    RunEvent.TRY_AGAIN: lambda _: ResumeRun(run_id="run", now=60),
    RunEvent.REVIVE: lambda _: ResumeRun(run_id="run", now=60),
    RunEvent.REMOVE: lambda _: DeleteRun(run_id="run"),
    RunEvent.CLAIM: lambda fence: ClaimRun(owner=fence.owner + 1, run_id="run", codes=codes_of("work"), now=60),
    RunEvent.OWNER_DIED: lambda fence: ReapExecutor(executor=fence.owner, now=60),
    RunEvent.REFUSE: lambda fence: Refuse(fence=fence, code=1, problem="{}", now=60),
    RunEvent.CONTINUE_AS_NEW: lambda fence: ContinueAsNew(fence=fence, args="[2]", now=60),
}
# They come only where nobody owns the run (any more), …
_UNOWNED = (RunEvent.CLAIM,)
# … or where it is parked, if some code has had it.
_PARKED = {
    RunEvent.CANCEL_UNBEGUN: (RunStatus.SUSPENDED,),
    RunEvent.TRY_AGAIN: (RunStatus.SUSPENDED, RunStatus.COMPENSATING),
}
# What the same operation is where the first of these events cannot be.
_OR_ELSE = {
    RunEvent.ASK_CANCEL: RunEvent.CANCEL_UNBEGUN,
    RunEvent.CANCEL_UNBEGUN: RunEvent.ASK_CANCEL,
    RunEvent.TRY_AGAIN: RunEvent.REVIVE,
}


class LifeContract(ContractKit):
    """Every pair of a status and an event; and random operations, one after the other."""

    @pytest.mark.parametrize("before", list(RunStatus))
    @pytest.mark.parametrize("said", list(SAID_BY))
    def test_an_owner_says_only_a_status_that_may_follow(self, store: Store, said: str, before: RunStatus) -> None:
        operation, events = SAID_BY[said]
        for after in RunStatus:
            row, fence = in_status(store, before, f"to be {after}")
            outcome = one(store, operation(fence, after))
            now = row_of(store, row.id)
            if before in sources(after, events):
                assert (outcome, now.status) == (True, after)
            else:
                assert isinstance(outcome, RunConflict if before in OWNED else OwnershipLost), f"{after}: {outcome}"
                assert now == row

    @pytest.mark.parametrize("before", [None, *RunStatus])
    @pytest.mark.parametrize("event", list(CAUSES))
    def test_every_other_event_moves_a_run_as_the_table_says(
        self, store: Store, event: RunEvent, before: _Status
    ) -> None:
        row, fence = None, Fence(99, register(store), 1)
        if before is not None:
            row, fence = in_status(store, before)
        if before in _PARKED.get(event, ()):
            park(store, fence)
        if event in _UNOWNED:
            one(store, ReapExecutor(executor=fence.owner, now=50))
            assert register(store) == fence.owner + 1
        if event is RunEvent.FORK:
            add(store, owned(store, "source")[1], step(1))
        is_refused = before not in LIFE[event]
        # What another event is then: a start that is there already gives it back, a cancel asks, ….
        row = store.ask(FindRun("run"))
        outcome = one(store, CAUSES[event](fence))
        now = store.ask(FindRun("run"))
        if not is_refused:
            assert (now and now.status) == LIFE[event][before], outcome
        elif event in _OR_ELSE:
            assert (now and now.status) == LIFE[_OR_ELSE[event]].get(before, before), outcome
        else:
            assert now == row, outcome

    def test_a_claim_of_what_was_compensating_goes_on_compensating(self, store: Store) -> None:
        for before in OWNED:
            row, fence = in_status(store, before, before.value)
            one(store, Advance(fence=fence, error='{"type": "X"}', now=40))
            one(store, ReapExecutor(executor=fence.owner, now=50))
            claimed = one(store, ClaimRun(owner=register(store), run_id=row.id, codes=codes_of("work"), now=60))
            assert claimed.status is LIFE[RunEvent.CLAIM_UNDOING][before]

    def test_random_operations_move_runs_as_the_table_says(self, store: Store) -> None:
        life = LifeOfRuns(store)
        for seed in range(600):
            life.go_on(random.Random(seed))
        assert len(life.moves) > 20, "the operations were too much alike"


class LifeOfRuns:
    """Applies random operations to a store, and looks after each of them at all runs.

    Attributes:
        moves: from which status to which runs have gone.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dice = Dice()
        self._before: dict[str, RunRow] = {}
        self.moves: set[tuple[_Status, _Status]] = set()

    def go_on(self, numbers: random.Random) -> None:
        """Apply an operation: what it concerns has moved as the table says, all else is as it was."""
        operation = self._dice.operation(self._store, numbers)
        outcome = one(self._store, operation)
        now = {row.id: row for row in self._store.ask(ListRuns(RunFilter(), limit=1000))}
        for run_id in self._before.keys() | now.keys():
            before, after = self._before.get(run_id), now.get(run_id)
            what = f"{operation}\nhas given {outcome}\nand made of {before}\n{after}"
            status_before = None if before is None else before.status
            status = None if after is None else after.status
            self.moves.add((status_before, status))
            allowed = statuses_after(operation, outcome, run_id, self._before)
            if allowed is not None:
                assert status in allowed, f"{what}\nwhich may only be {sorted(map(str, allowed))}"
            elif before is not None and after is not None and _is_relative(before, self._before, now):
                assert status is status_before, what
            else:
                assert after == before, what
        self._before = now


def _is_relative(row: RunRow, before: Mapping[str, RunRow], now: Mapping[str, RunRow]) -> bool:
    """Return whether a child of it has ended, which is a message; or its parent is there no more, which it forgets."""
    ended = [other for other in now.values() if other.status in FINAL and before[other.id].status not in FINAL]
    return any(other.parent == row.run for other in ended) or (row.parent_id in before and row.parent_id not in now)


def statuses_after(
    operation: Operation, outcome: Any, run_id: str, before: Mapping[str, RunRow]
) -> frozenset[_Status] | None:
    """Return which statuses a run may have after an operation with that outcome; ``None`` if it is not concerned.

    Args:
        before: the runs before it, by id.
    """
    row = before.get(run_id)
    if isinstance(outcome, Exception) or outcome is None or outcome is False:
        return None
    match operation:
        case StartRun() | SignalWithStart():
            return _after_start(operation, outcome, run_id, row)
        case Advance() if any(child.id == run_id for child in operation.children):
            return _follows(None, RunEvent.START, RunEvent.START_CLAIMED)
        case ForkRun() if run_id == operation.id:
            return _follows(None, RunEvent.FORK)
        case _ if row is None:
            return None
        case Advance() | Release() | Finish() if row.run == operation.fence.run:
            return _after_owners_word(operation, row)
        case Refuse() if row.run == operation.fence.run:
            return _follows(row, RunEvent.REFUSE)
        case ParkDamaged() if row.run == operation.fence.run:
            return _follows(row, RunEvent.PARK)
        case ContinueAsNew() if row.run == operation.fence.run:
            return _follows(row, RunEvent.CONTINUE_AS_NEW)
        case ClaimDue() if any(claimed.id == run_id for claimed in outcome):
            return _follows(row, RunEvent.CLAIM if row.error is None else RunEvent.CLAIM_UNDOING)
        case ClaimRun() if run_id == operation.run_id:
            return _follows(row, RunEvent.CLAIM if row.error is None else RunEvent.CLAIM_UNDOING)
        case SendSignal() if run_id == operation.run_id:
            return _follows(row, RunEvent.MESSAGE) if isinstance(outcome, Sent) and outcome.created else None
        case RequestCancel() if run_id == operation.run_id:
            at_once = row.owner is None and (row.status is RunStatus.PENDING or row.problem is not None)
            return _follows(row, RunEvent.ASK_CANCEL, *([RunEvent.CANCEL_UNBEGUN] if at_once else []))
        case AbandonRun() if run_id == operation.run_id:
            return _follows(row, RunEvent.ABANDON)
        case AbandonRun() if row.parent_id == operation.run_id:
            return _follows(row, RunEvent.ASK_CANCEL, RunEvent.CANCEL_UNBEGUN) | {row.status}
        case ResumeRun() if run_id == operation.run_id:
            return _follows(row, RunEvent.REVIVE if row.status in FINAL else RunEvent.TRY_AGAIN)
        case DeleteRun() if run_id == operation.run_id:
            return _follows(row, RunEvent.REMOVE, RunEvent.GIVE_UP)
        case Prune() if row.status in operation.statuses and outcome.count:
            return _follows(row, RunEvent.REMOVE) | {row.status}
        case ReapExecutor() if row.owner == operation.executor:
            return _follows(row, RunEvent.OWNER_DIED)
    return None


def _follows(row: RunRow | None, *events: RunEvent) -> frozenset[_Status]:
    status = None if row is None else row.status
    return frozenset(LIFE[event][status] for event in events if status in LIFE[event])


def _after_start(
    operation: StartRun | SignalWithStart, started: Started, run_id: str, row: RunRow | None
) -> frozenset[_Status] | None:
    start = operation.start if isinstance(operation, SignalWithStart) else operation
    if run_id != start.id:
        return None
    if started.created:
        return _follows(row, RunEvent.START_CLAIMED if started.claimed else RunEvent.START)
    return _follows(row, RunEvent.MESSAGE) if isinstance(operation, SignalWithStart) else None


def _after_owners_word(operation: Advance | Release | Finish, row: RunRow) -> frozenset[_Status]:
    events = {Advance: BY_ADVANCE, Release: BY_RELEASE, Finish: BY_FINISH}[type(operation)]
    if operation.status is None:
        return frozenset({row.status})
    return frozenset({operation.status} if row.status in sources(operation.status, events) else ())
