"""The contract of claims: which runs, in which order, and once only."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio.errors import OwnershipLost, RunConflict, RunFinished, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.stores.contract import (
    Advance,
    ClaimDue,
    ClaimRun,
    ContinueAsNew,
    ParkDamaged,
    ReapExecutor,
    Release,
    RequestCancel,
    ResumeRun,
    Store,
)
from durable_trio.stores.due_questions import FindNextDue, NextDue
from durable_trio.stores.questions import Backlog, CountBacklog, CountRuns, ListOwned, ListSetBack, SetBack
from durable_trio.testing.store_contract.history import wait
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    claim,
    codes_of,
    fence_of,
    finish,
    in_status,
    next_due,
    one,
    owned,
    park,
    register,
    row_of,
    signal,
    start,
    suspend,
)


def claim_one(store: Store, owner: int, run_id: str = "run", workflow: str = "work") -> Any:
    """Claim a run by its id."""
    return one(store, ClaimRun(owner=owner, run_id=run_id, codes=codes_of(workflow), now=70))


def go_home(
    store: Store, *executors: int, now: int = 50, workflows: tuple[str, ...] = ("work",)
) -> tuple[int | None, int]:
    """Return when the next run is due, and how many are in hand."""
    found = store.ask(FindNextDue(codes=codes_of(*workflows), executors=executors, now=now))
    return found.at, found.in_hand_count


class ClaimContract(ContractKit):
    """Claims, and when the next one is due."""

    def test_a_claim_gives_owner_and_next_token(self, store: Store) -> None:
        before = start(store)
        executor = register(store)
        (row,) = claim(store, executor, now=33)
        assert row == row_of(store)
        assert (row.owner, row.token, row.status) == (executor, 1, RunStatus.RUNNING)
        assert (row.started_at, row.wake_at) == (33, None)
        assert row.changed > before.changed

    def test_a_run_is_claimed_once(self, store: Store) -> None:
        start(store)
        outcomes = store.apply(
            [ClaimDue(owner=register(store), codes=codes_of("work"), now=50, limit=9) for _ in range(3)]
        )
        assert outcomes is not None
        assert [len(outcome) for outcome in outcomes] == [1, 0, 0]

    def test_only_due_unowned_runs_of_these_workflows_are_claimed(self, store: Store) -> None:
        executor = register(store)
        start(store, "due", due_at=50)
        start(store, "later", due_at=51)
        start(store, "unknown", workflow="another", due_at=1)
        start(store, "owned", owner=executor)
        _, fence = owned(store, "damaged")
        one(store, ParkDamaged(fence=fence, problem="{}"))
        _, fence = owned(store, "finished")
        finish(store, fence)
        assert [row.id for row in claim(store, executor, now=50)] == ["due"]
        assert claim(store, executor, now=100, workflows=()) == ()
        assert [row.id for row in claim(store, executor, now=100, workflows=("another", "work", "another"))] == [
            "unknown",
            "later",
        ]

    def test_higher_priority_comes_first_then_the_longer_wait_also_across_workflows(self, store: Store) -> None:
        start(store, "a", priority=0, due_at=11)
        start(store, "b", priority=5, due_at=30, workflow="another")
        start(store, "c", priority=5, due_at=20)
        start(store, "d", priority=5, due_at=25, workflow="another")
        start(store, "e", priority=-1, due_at=10)
        start(store, "f", priority=9, due_at=999)
        executor = register(store)
        both = ("work", "another")
        assert [row.id for row in claim(store, executor, now=50, limit=3, workflows=both)] == ["c", "d", "b"]
        assert [row.id for row in claim(store, executor, now=50, limit=1, workflows=both)] == ["a"]
        assert claim(store, executor, now=50, limit=0, workflows=both) == ()
        assert [row.id for row in claim(store, executor, now=50, limit=9, workflows=both)] == ["e"]

    def test_what_has_begun_goes_before_all_first_claims(self, store: Store) -> None:
        """Whatever woke it, and whatever the priority of runs that nobody has begun."""
        for number, run_id in enumerate(("timer", "signal", "cancel", "orphan", "again")):
            _, fence = owned(store, run_id, priority=-number)
            if run_id == "orphan":
                one(store, ReapExecutor(executor=fence.owner, now=40))
            elif run_id == "again":
                one(store, ContinueAsNew(fence=fence, args="[]", now=40))
            else:
                suspend(store, fence, wake_at=40 if run_id == "timer" else None, waits_for=("go",))
        signal(store, "signal", now=40)
        one(store, RequestCancel(run_id="cancel", reason="null", now=40))
        for number in range(5):
            start(store, f"new-{number}", priority=100 + number, due_at=1)
        executor = register(store)
        claimed = [row.id for _ in range(5) for row in claim(store, executor, now=50, limit=2)]
        assert claimed == ["timer", "signal", "cancel", "orphan", "again", "new-4", "new-3", "new-2", "new-1", "new-0"]

    def test_a_run_that_is_woken_again_keeps_its_place(self, store: Store) -> None:
        for run_id in ("first", "second"):
            _, fence = owned(store, run_id)
            suspend(store, fence, waits_for=("go",))
            signal(store, run_id, now=40 if run_id == "first" else 45)
        signal(store, "first", now=48)
        assert [row.id for row in claim(store, register(store), now=50, limit=1)] == ["first"]

    def test_the_longer_wait_comes_first_whatever_the_order_of_workflows(self, store: Store) -> None:
        for number in range(6):
            start(store, f"run-{number}", workflow=("work", "another")[number % 2], due_at=60 - number)
        claimed = claim(store, register(store), limit=4, workflows=("work", "another"))
        assert [row.id for row in claimed] == ["run-5", "run-4", "run-3", "run-2"]

    def test_runs_due_at_the_same_instant_come_in_the_order_of_their_start(self, store: Store) -> None:
        names = [f"run-{number}" for number in range(20)]
        for name in names:
            start(store, name)
        executor = register(store)
        claimed = [row.id for _ in range(4) for row in claim(store, executor, limit=5)]
        assert claimed == names

    def test_a_suspended_run_becomes_running_and_keeps_when_it_began(self, store: Store) -> None:
        _, fence = owned(store, created_at=5)
        suspend(store, fence, wake_at=60)
        assert claim(store, register(store), now=59) == ()
        (again,) = claim(store, register(store), now=60)
        assert (again.status, again.started_at, again.token) == (RunStatus.RUNNING, 5, 2)

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPENSATING])
    def test_a_run_that_was_running_or_compensating_stays_so(self, store: Store, status: RunStatus) -> None:
        _, fence = in_status(store, status)
        one(store, Release(fence=fence, status=status, wake_at=60))
        changed = row_of(store).changed
        (row,) = claim(store, register(store))
        assert (row.status, row.changed) == (status, changed)

    def test_a_run_that_was_set_aside_while_it_compensated_compensates_on(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, Advance(fence=fence, status=RunStatus.COMPENSATING, error='{"type": "X"}', now=50))
        one(store, ParkDamaged(fence=fence, problem="{}"))
        one(store, ResumeRun(run_id="run", now=60))
        assert row_of(store).status is RunStatus.SUSPENDED
        (row,) = claim(store, register(store))
        assert (row.status, row.error) == (RunStatus.COMPENSATING, '{"type": "X"}')

    def test_what_an_executor_owns_is_told_without_what_it_has_let_go(self, store: Store) -> None:
        for name in ("kept", "finished", "released", "waiting"):
            start(store, name, due_at=1 if name != "waiting" else 10_000)
        executor, other = register(store), register(store)
        rows = {row.id: row for row in claim(store, executor, now=10)}
        finish(store, fence_of(rows["finished"]), RunStatus.COMPLETED)
        suspend(store, fence_of(rows["released"]))
        assert [row.id for row in store.ask(ListOwned(executor))] == ["kept"]
        assert store.ask(ListOwned(other)) == ()

    def test_an_executor_that_has_ended_claims_nothing(self, store: Store) -> None:
        start(store)
        executor = register(store)
        one(store, ReapExecutor(executor=executor, now=1))
        assert isinstance(claim(store, executor), OwnershipLost)
        assert isinstance(claim(store, executor + 99), OwnershipLost)
        assert row_of(store).owner is None

    def test_next_due_is_the_earliest_unowned_wake_time_of_these_workflows(self, store: Store) -> None:
        start(store, "a", due_at=70, priority=5)
        start(store, "b", due_at=60)
        start(store, "c", due_at=20, workflow="another")
        assert next_due(store, ["work"]) == 60
        assert next_due(store, ["work", "another", "third"]) == 20
        assert next_due(store, ["third"]) is None
        (row,) = claim(store, register(store), now=60)
        assert row.id == "b"
        assert next_due(store, ["work"]) == 70
        suspend(store, fence_of(row), wake_at=65)
        assert next_due(store, ["work"]) == 65

    def test_suspects_are_passed_over_above_their_limit(self, store: Store) -> None:
        for number in range(3):
            start(store, f"suspect-{number}", due_at=10 + number)
        for _ in range(2):
            dead = register(store)
            assert len(claim(store, dead)) == 3
            one(store, ReapExecutor(executor=dead, now=20))
        for number in range(3):
            start(store, f"new-{number}", due_at=30 + number, priority=-number)
        executor = register(store)

        def claimed(limit: int, suspects_max: int | None) -> list[str]:
            operation = ClaimDue(owner=executor, codes=codes_of("work"), now=99, limit=limit, suspects_max=suspects_max)
            return [row.id for row in one(store, operation)]

        assert claimed(2, 0) == ["new-0", "new-1"]
        assert claimed(9, 1) == ["suspect-0", "new-2"]
        assert claimed(9, 0) == []
        assert claimed(9, None) == ["suspect-1", "suspect-2"]

    def test_the_backlog_counts_what_is_due_and_what_each_executor_has(self, store: Store) -> None:
        nothing = Backlog(executor_count=0, next_due_at=None, due_count=0, owned_counts={})
        assert store.ask(CountBacklog(codes_of("work"), now=50, due_max=9)) == nothing
        for number in range(4):
            start(store, f"due-{number}", due_at=11 + number, priority=number % 2)
        start(store, "later", due_at=60, priority=7)
        start(store, "other", due_at=5, workflow="another")
        backlog = store.ask(CountBacklog(codes_of("work"), now=50, due_max=9))
        assert backlog == Backlog(executor_count=0, next_due_at=11, due_count=4, owned_counts={})
        assert store.ask(CountBacklog(codes_of("work"), now=50, due_max=3)).due_count == 3
        assert store.ask(CountBacklog(codes_of("work", "another", "work"), now=50, due_max=9)).due_count == 5
        assert store.ask(CountBacklog((), now=50, due_max=9)) == nothing
        first, second = register(store), register(store)
        claim(store, first, now=50, limit=1)
        claim(store, second, now=50, limit=2)
        backlog = store.ask(CountBacklog(codes_of("work"), now=50, due_max=9))
        assert (backlog.due_count, backlog.owned_counts, backlog.executor_count) == (1, {first: 1, second: 2}, 2)
        claim(store, first, now=50)
        one(store, ReapExecutor(executor=second, now=50))
        backlog = store.ask(CountBacklog(codes_of("work"), now=50, due_max=9))
        assert (backlog.next_due_at, backlog.owned_counts, backlog.executor_count) == (50, {first: 2}, 1)

    def test_who_may_go_home_is_told_what_is_in_hand_and_when_the_next_run_is_due(self, store: Store) -> None:
        """Of known workflows, whoever has the run, as long as it is to come; and not of runs that wait for no time."""
        executor, other = register(store), register(store)
        assert go_home(store, executor) == (None, 0)
        assert go_home(store, workflows=()) == (None, 0)
        start(store, "unknown", due_at=60, workflow="another")
        start(store, "signalled", due_at=1)
        suspend(store, fence_of(claim_one(store, executor, "signalled")), waits_for=("signal go",))
        assert go_home(store, executor) == (None, 0)
        start(store, "later", due_at=900)
        assert go_home(store, executor) == (900, 0)
        waiting = fence_of(start(store, "waits", owner=other))
        assert go_home(store, executor, other) == (900, 1)
        assert one(store, Advance(fence=waiting, status=RunStatus.SUSPENDED, wake_at=300, now=20)) is True
        assert go_home(store, executor, other) == (300, 0)
        assert go_home(store, executor, other, now=299) == (300, 0)
        assert go_home(store, executor, other, now=300) == (900, 1)
        assert go_home(store, executor, now=300) == (900, 0)
        assert go_home(store, other, workflows=("another",)) == (60, 0)
        start(store, "due", due_at=90)
        assert go_home(store, executor) == (90, 0)
        claim(store, executor, now=100)
        assert go_home(store, executor, now=100) == (300, 1)
        one(store, ReapExecutor(executor=executor, crashed=False, now=110))
        assert go_home(store, executor, now=120) == (110, 0)

    def test_a_run_that_the_code_has_refused_keeps_nobody_from_going_home(self, store: Store) -> None:
        _, fence = owned(store)
        park(store, fence, code=7)
        refused, other = codes_of("work", code=7), codes_of("work", code=8)
        assert store.ask(FindNextDue(codes=refused, executors=(), now=50)) == NextDue(at=None, in_hand_count=0)
        assert store.ask(FindNextDue(codes=other, executors=(), now=50)).at == 40

    def test_a_run_is_claimed_by_its_id_due_or_not(self, store: Store) -> None:
        before = start(store, due_at=900)
        executor = register(store)
        row = claim_one(store, executor)
        assert row == row_of(store)
        assert (row.owner, row.token, row.status, row.started_at) == (executor, 1, RunStatus.RUNNING, 70)
        assert row.changed > before.changed

    def test_a_parked_run_claimed_by_its_id_because_somebody_asks_has_no_problem_any_more(self, store: Store) -> None:
        _, fence = owned(store)
        park(store, fence)
        claim = ClaimRun(owner=register(store), run_id="run", codes=codes_of("work"), is_asked_for=True, now=70)
        row = one(store, claim)
        assert (row.problem, row.status, row.token) == (None, RunStatus.RUNNING, 2)
        assert store.ask(CountRuns()).parked == ()

    def test_a_claim_by_id_that_cannot_be_is_refused(self, store: Store) -> None:
        executor = register(store)
        assert isinstance(claim_one(store, executor, "nobody"), RunNotFound)
        owned_row, fence = owned(store)
        assert isinstance(claim_one(store, executor), RunConflict)
        assert row_of(store) == owned_row
        finish(store, fence)
        assert isinstance(claim_one(store, executor), RunFinished)
        pending = start(store, "pending")
        assert isinstance(claim_one(store, executor, "pending", workflow="another"), RunConflict)
        assert isinstance(claim_one(store, executor + 99, "pending"), OwnershipLost)
        assert row_of(store, "pending") == pending

    def test_runs_whose_due_time_was_stored_before_the_clock_was_set_back_can_be_found(self, store: Store) -> None:
        start(store, "now", due_at=20)
        start(store, "later", due_at=900)
        start(store, "ahead", created_at=500, due_at=700)
        start(store, "of another", created_at=500, due_at=650, workflow="another")
        _, fence = owned(store, "waits")
        one(store, Advance(fence=fence, waits=(wait(due_at=600, started_at=550),), now=550))
        assert store.ask(ListSetBack(["work"], now=100, limit=9)) == (SetBack("ahead", "work", 700, 500),)
        suspend(store, fence, wake_at=600)
        expected = (SetBack("waits", "work", 600, 550), SetBack("ahead", "work", 700, 500))
        assert store.ask(ListSetBack(["work"], now=100, limit=9)) == expected
        assert store.ask(ListSetBack(["work"], now=100, limit=1)) == expected[:1]
        assert store.ask(ListSetBack(["work"], now=600, limit=9)) == ()
        assert store.ask(ListSetBack([], now=100, limit=9)) == ()
