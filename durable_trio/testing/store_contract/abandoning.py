"""The contract of ending a run that no code ends."""

from __future__ import annotations

import attrs
import pytest

from durable_trio.errors import OwnershipLost, RunFinished, RunNotFound
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import Key, WaitRow
from durable_trio.rules.run_life import FINAL, UNFINISHED
from durable_trio.stores.contract import Abandoned, Advance, ClaimRun, Finish, RequestCancel, Store
from durable_trio.stores.questions import ListHistory, ListUnread, ListWaits
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    abandon_operation,
    add,
    codes_of,
    fence_of,
    finish,
    in_status,
    one,
    owned,
    park,
    register,
    row_of,
    start_operation,
    step,
)


class AbandonContract(ContractKit):
    """Abandoning runs in each state, their children, their parents, and what they have not undone."""

    @pytest.mark.parametrize("before", sorted(UNFINISHED))
    def test_a_run_is_ended_whoever_owns_it_and_whatever_it_does(self, store: Store, before: RunStatus) -> None:
        row, fence = in_status(store, before)
        outcome = one(store, abandon_operation(now=77))
        assert outcome == Abandoned(row=row, not_undone_count=0, sent=outcome.sent)
        is_told = before in (RunStatus.RUNNING, RunStatus.SUSPENDED)  # whoever has it in hand
        assert [sent.owner for sent in outcome.sent] == [fence.owner] * is_told
        now = row_of(store)
        assert now.changed > row.changed
        assert now == attrs.evolve(
            row,
            status=RunStatus.CANCELLED,
            error='{"type": "X"}',
            finished_at=77,
            owner=None,
            wake_at=None,
            token=row.token + 1,
            changed=now.changed,
        )
        assert isinstance(one(store, Advance(fence=fence, rows=(step(9),), now=80)), OwnershipLost)
        assert isinstance(one(store, Finish(fence=fence, status=RunStatus.COMPLETED, now=80)), OwnershipLost)
        assert row_of(store) == now

    @pytest.mark.parametrize("before", sorted(FINAL))
    def test_a_run_that_has_ended_stays_as_it_is(self, store: Store, before: RunStatus) -> None:
        row, _ = in_status(store, before)
        assert isinstance(one(store, abandon_operation()), RunFinished)
        assert isinstance(one(store, abandon_operation("nobody")), RunNotFound)
        assert row_of(store) == row

    def test_a_parked_run_has_no_problem_and_no_waits_any_more(self, store: Store) -> None:
        _, fence = owned(store)
        wait = WaitRow(key=Key("", "sleep", 0), kind="sleep", due_at=90, started_at=40)
        one(store, Advance(fence=fence, waits=(wait,), now=40))
        park(store, fence)
        assert isinstance(one(store, abandon_operation()), Abandoned)
        now = row_of(store)
        assert (now.status, now.problem) == (RunStatus.CANCELLED, None)
        assert store.ask(ListWaits(now.run)) == ()

    def test_each_compensation_that_has_not_run_gets_a_failed_row_the_last_step_first(self, store: Store) -> None:
        row, fence = owned(store)
        branch = "nursery#0/one#0"
        add(store, fence, step(1, key=Key("", "a", 0), compensates=True))
        add(store, fence, step(2, key=Key("", "b", 0)))
        add(store, fence, step(3, key=Key(branch, "c", 0), compensates=True))
        add(store, fence, step(4, key=Key("", "d", 0), compensates=True))
        undone = step(5, key=Key("compensate", "d", 0), kind=StepKind.COMPENSATION)
        add(store, fence, undone)
        outcome = one(store, abandon_operation(now=77))
        assert outcome.not_undone_count == 2
        new = store.ask(ListHistory(row.run))[5:]
        assert [(item.seq, item.key, item.kind, item.status, item.error) for item in new] == [
            (6, Key(f"compensate/{branch}", "c", 0), StepKind.COMPENSATION, StepStatus.FAILED, '{"type": "Z"}'),
            (7, Key("compensate", "a", 0), StepKind.COMPENSATION, StepStatus.FAILED, '{"type": "Z"}'),
        ]
        assert row_of(store).compensation_errors == '[{"type":"Z"},{"type":"Z"}]'

    def test_compensations_that_have_failed_stay_among_the_errors(self, store: Store) -> None:
        _, fence = in_status(store, RunStatus.COMPENSATING)
        add(store, fence, step(1, key=Key("", "a", 0), compensates=True))
        failed = step(2, key=Key("compensate", "a", 0), kind=StepKind.COMPENSATION, status=StepStatus.FAILED, error="7")
        add(store, fence, failed)
        assert one(store, abandon_operation()).not_undone_count == 0
        assert row_of(store).compensation_errors == "[7]"

    def test_its_children_are_asked_to_cancel_but_those_that_it_let_go_of(self, store: Store) -> None:
        _, fence = owned(store, "parent")
        for number, (child, attempt) in enumerate({"new": 1, "begun": 1, "ended": 1, "detached": 0}.items(), start=1):
            new = step(number, key=Key("", child, 0), kind=StepKind.CHILD, attempt=attempt, result=f'"{child}"')
            one(store, Advance(fence=fence, rows=(new,), children=(start_operation(child, owner=None),), now=40))
        begun, ended = (
            one(store, ClaimRun(owner=register(store), run_id=child, codes=codes_of("work"), now=45))
            for child in ("begun", "ended")
        )
        finish(store, fence_of(ended), now=50)
        outcome = one(store, abandon_operation("parent"))
        assert row_of(store, "new").status is RunStatus.CANCELLED
        assert row_of(store, "new").error == '{"type": "Y"}'
        assert [(entry.kind, entry.payload) for entry in store.ask(ListUnread(begun.run))] == [("cancel", '"why"')]
        assert row_of(store, "begun").status is RunStatus.RUNNING
        assert row_of(store, "ended").status is RunStatus.COMPLETED
        assert row_of(store, "detached").status is RunStatus.PENDING
        assert store.ask(ListUnread(row_of(store, "detached").run)) == ()
        own = row_of(store, "parent").run
        assert sorted(sent.entry.run for sent in outcome.sent) == sorted([own, row_of(store, "new").run, begun.run])

    def test_its_parent_is_told_and_woken(self, store: Store) -> None:
        _, parent = owned(store, "parent")
        new = step(1, key=Key("", "child", 0), kind=StepKind.CHILD, result='"child"')
        one(store, Advance(fence=parent, rows=(new,), children=(start_operation("child", owner=None),), now=40))
        one(store, abandon_operation("child"))
        (entry,) = store.ask(ListUnread(parent.run))
        assert (entry.kind, entry.name, entry.payload) == ("child", "child", '"cancelled"')

    def test_a_request_to_cancel_that_nobody_has_taken_is_no_hindrance(self, store: Store) -> None:
        in_status(store, RunStatus.RUNNING)
        one(store, RequestCancel(run_id="run", reason="null", now=50))
        assert isinstance(one(store, abandon_operation()), Abandoned)
        assert row_of(store).status is RunStatus.CANCELLED
