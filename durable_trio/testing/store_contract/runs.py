"""The contract of starting, advancing, releasing, refusing and finishing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.errors import OwnershipLost, RunConflict, RunNotFound
from durable_trio.records import RunStatus
from durable_trio.rows import RunRow
from durable_trio.stores.contract import (
    Advance,
    Finish,
    Operation,
    ParkDamaged,
    ReapExecutor,
    Refuse,
    Release,
    Started,
    Store,
)
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import (
    CountRuns,
    FindRun,
    ListExecutors,
    ListHistory,
    ListRuns,
    ListUnread,
    LoadRun,
    ReadValues,
    RunFilter,
)
from durable_trio.testing.store_contract.kit import (
    STRANGE,
    ContractKit,
    add,
    changed_runs,
    changed_since,
    claim,
    fence_of,
    finish,
    in_status,
    next_due,
    one,
    owned,
    register,
    row_of,
    sent_since,
    stale,
    start,
    start_operation,
    step,
    suspend,
)


class RunContract(ContractKit):
    """Starting, advancing, releasing, refusing and finishing runs."""

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert store.ask(FindRun("run")) is None
        assert store.ask(ListHistory(1)) == ()
        assert store.ask(ListRuns(RunFilter(), limit=10)) == ()
        assert changed_runs(store, RunFilter()) == ()
        cursor = store.ask(FindCursor())
        assert (changed_since(store, cursor), sent_since(store, cursor), store.ask(ListUnread(1))) == (set(), (), ())
        assert (next_due(store, ["work"]), next_due(store, [])) == (None, None)
        assert (store.ask(ListExecutors()), store.ask(ListExecutors(ended=True))) == ((), ())
        assert store.ask(CountRuns()).runs_by_status == {}

    def test_an_empty_batch_has_no_outcomes(self, store: Store) -> None:
        assert store.apply([]) == []

    def test_opening_and_closing_twice_is_nothing(self, store: Store) -> None:
        start(store)
        store.open()
        assert row_of(store).id == "run"
        store.close()
        store.close()

    def test_data_outlives_the_store_that_wrote_it(self, tmp_path: Path, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1))
        before = row_of(store), store.ask(LoadRun(row.run))
        store.close()
        again = self.reopen(tmp_path)
        if again is None:
            pytest.skip("the data of this store lives with the instance")
        again.open()
        try:
            assert (row_of(again), again.ask(LoadRun(row.run))) == before
        finally:
            again.close()

    def test_a_started_run_is_stored_with_all_it_was_given(self, store: Store) -> None:
        outcome = one(
            store,
            start_operation(
                args='["ä", null]', queue="q", priority=-3, tags='{"a": "b"}', created_at=5, due_at=70, ttl_at=90
            ),
        )
        assert outcome == Started(row=row_of(store), created=True, claimed=False)
        expected = RunRow(
            run=outcome.row.run,
            id="run",
            workflow="work",
            status=RunStatus.PENDING,
            args='["ä", null]',
            result=None,
            error=None,
            problem=None,
            queue="q",
            priority=-3,
            tags='{"a": "b"}',
            parent=None,
            parent_id=None,
            seed=b"seed",
            generation=0,
            created_at=5,
            started_at=None,
            finished_at=None,
            wake_at=70,
            ttl_at=90,
            recoveries=0,
            compensation_errors="[]",
            owner=None,
            token=0,
            changed=outcome.row.changed,
        )
        assert outcome.row == expected

    def test_a_pending_run_wakes_at_its_end_of_life_at_the_latest(self, store: Store) -> None:
        assert start(store, created_at=5, due_at=70, ttl_at=30).wake_at == 30

    def test_a_run_started_with_an_owner_is_claimed_in_the_same_transaction(self, store: Store) -> None:
        executor = register(store)
        outcome = one(store, start_operation(owner=executor, created_at=5))
        assert (outcome.created, outcome.claimed) == (True, True)
        row = row_of(store)
        assert row == outcome.row
        assert (row.status, row.owner, row.token, row.started_at, row.wake_at) == (
            RunStatus.RUNNING,
            executor,
            1,
            5,
            None,
        )
        assert claim(store, executor) == ()

    def test_a_run_started_by_an_executor_that_has_ended_is_stored_unowned(self, store: Store) -> None:
        executor = register(store)
        one(store, ReapExecutor(executor=executor, now=1))
        outcome = one(store, start_operation(owner=executor))
        assert (outcome.created, outcome.claimed) == (True, False)
        assert (outcome.row.status, outcome.row.owner, outcome.row.wake_at) == (RunStatus.PENDING, None, 10)
        assert not one(store, start_operation("other", owner=executor + 99)).claimed

    def test_the_same_start_again_gives_the_run_as_it_is_stored(self, store: Store) -> None:
        _, fence = owned(store)
        finish(store, fence, result="7")
        outcome = one(store, start_operation(owner=register(store), created_at=99))
        assert outcome == Started(row=row_of(store), created=False, claimed=False)
        assert outcome.row.status is RunStatus.COMPLETED

    @pytest.mark.parametrize("other", [{"workflow": "another"}, {"args_digest": b"another"}])
    def test_the_same_id_for_something_else_is_a_conflict(self, store: Store, other: dict[str, Any]) -> None:
        row = start(store)
        outcome = one(store, start_operation(**other))
        assert isinstance(outcome, RunConflict)
        assert outcome.run_id == "run"
        assert row_of(store) == row

    def test_a_child_knows_its_parent(self, store: Store) -> None:
        parent = start(store, "parent")
        row = start(store, "child", parent=parent.run)
        assert (row.parent, row.parent_id) == (parent.run, "parent")
        assert row_of(store, "child") == row
        assert isinstance(one(store, start_operation("orphan", parent=parent.run + 99)), RunNotFound)
        assert store.ask(FindRun("orphan")) is None

    def test_children_are_started_with_their_parents_row_or_not_at_all(self, store: Store) -> None:
        parent, fence = owned(store, "parent")
        children = (start_operation("child-1"), start_operation("child-2", owner=fence.owner, tags='{"a": "b"}'))
        assert one(store, Advance(fence=fence, rows=(step(1),), children=children, now=20)) is True
        first, second = row_of(store, "child-1"), row_of(store, "child-2")
        assert {(row.parent, row.parent_id) for row in (first, second)} == {(parent.run, "parent")}
        assert (first.status, first.owner, second.status, second.owner) == (
            RunStatus.PENDING,
            None,
            RunStatus.RUNNING,
            fence.owner,
        )
        taken = (start_operation("child-3"), start_operation("child-1"))
        outcome = one(store, Advance(fence=fence, rows=(step(2, "b"),), children=taken, now=20))
        assert isinstance(outcome, RunConflict)
        assert outcome.run_id == "child-1"
        late = Advance(fence=stale(fence), rows=(step(2, "b"),), children=(start_operation("child-3"),), now=20)
        assert isinstance(one(store, late), OwnershipLost)
        assert isinstance(one(store, attrs.evolve(late, rows=())), OwnershipLost)
        assert store.ask(FindRun("child-3")) is None
        assert len(store.ask(ListHistory(parent.run))) == 1

    def test_advance_sets_status_and_tells_watchers(self, store: Store) -> None:
        row, fence = owned(store)
        assert one(store, Advance(fence=fence, status=RunStatus.COMPENSATING, error='"e"', now=20)) is True
        after = row_of(store)
        assert (after.status, after.error) == (RunStatus.COMPENSATING, '"e"')
        assert after.changed > row.changed
        assert one(store, Advance(fence=fence, rows=(step(1),), now=20)) is True
        assert row_of(store).error == '"e"'

    def test_a_suspended_run_in_memory_stays_owned_with_its_wake_time(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, wake_at=77, waits_for=("go",), now=20))
        row = row_of(store)
        assert (row.status, row.wake_at, row.owner) == (RunStatus.SUSPENDED, 77, fence.owner)
        assert claim(store, register(store), now=100) == ()
        assert next_due(store, ["work"]) is None
        one(store, Advance(fence=fence, rows=(step(1),), now=20))
        assert row_of(store).wake_at == 77
        one(store, Advance(fence=fence, status=RunStatus.RUNNING, wake_at=88, now=20))
        assert row_of(store).wake_at is None

    def test_published_values_are_replaced_by_key_and_tell_watchers(self, store: Store) -> None:
        row, fence = owned(store)
        other, _ = owned(store, "other")
        cursor = store.ask(FindCursor())
        one(store, Advance(fence=fence, published=(("a", "1"), ("b", "null")), now=20))
        one(store, Advance(fence=fence, published=(("a", '"ü"'),), now=20))
        assert store.ask(ReadValues([row.run, other.run])) == {row.run: {"a": '"ü"', "b": "null"}, other.run: {}}
        assert store.ask(LoadRun(row.run)).values == {"a": '"ü"', "b": "null"}
        assert row_of(store).changed > row.changed
        assert changed_since(store, cursor) == {"run"}
        assert store.ask(ReadValues([])) == {}

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPENSATING])
    def test_a_released_run_can_be_claimed_again(self, store: Store, status: RunStatus) -> None:
        _, fence = in_status(store, status)
        assert one(store, Release(fence=fence, status=status, wake_at=30)) is True
        row = row_of(store)
        assert (row.status, row.owner, row.wake_at, row.token) == (status, None, 30, 1)
        assert one(store, Advance(fence=fence, rows=(step(1),), now=31)).__class__ is OwnershipLost
        (again,) = claim(store, register(store))
        assert again.token == 2

    def test_a_run_released_without_a_wake_time_is_not_claimed(self, store: Store) -> None:
        _, fence = owned(store)
        assert suspend(store, fence) is True
        assert claim(store, register(store)) == ()
        assert next_due(store, ["work"]) is None

    def test_a_release_that_keeps_the_status_does_not_tell_watchers(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, now=20))
        changed = row_of(store).changed
        suspend(store, fence)
        assert row_of(store).changed == changed

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
    def test_a_finished_run_keeps_its_outcome(self, store: Store, status: RunStatus) -> None:
        row, fence = owned(store)
        assert finish(store, fence, status, result="1", error='{"e": 1}', compensation_errors="[2]", now=55) is True
        after = row_of(store)
        assert (after.status, after.result, after.error, after.compensation_errors, after.finished_at) == (
            status,
            "1",
            '{"e": 1}',
            "[2]",
            55,
        )
        assert (after.owner, after.wake_at) == (None, None)
        assert after.changed > row.changed
        assert store.ask(LoadRun(row.run)).waits == ()
        assert isinstance(finish(store, fence, RunStatus.FAILED), OwnershipLost)
        assert row_of(store) == after

    def test_nulls_stay_nulls(self, store: Store) -> None:
        _, fence = owned(store)
        finish(store, fence, result=None, error=None)
        row = row_of(store)
        assert (row.result, row.error, row.problem, row.queue, row.ttl_at) == (None,) * 5

    def test_a_stale_token_writes_nothing(self, store: Store) -> None:
        row, fence = owned(store)
        suspend(store, fence, wake_at=1)
        (current,) = claim(store, register(store))
        late = stale(fence_of(current))
        foreign = attrs.evolve(fence_of(current), owner=fence.owner)
        before, cursor = (row_of(store), store.ask(LoadRun(row.run))), store.ask(FindCursor())
        for bad in (fence, late, foreign, attrs.evolve(fence, run=row.run + 99)):
            batch: list[Operation] = [
                Advance(fence=bad, rows=(step(1),), status=RunStatus.FAILED, published=(("a", "1"),), now=70),
                Advance(fence=bad, status=RunStatus.FAILED, now=70),
                Advance(fence=bad, published=(("a", "1"),), now=70),
                Release(fence=bad, status=RunStatus.SUSPENDED, wake_at=None),
                Refuse(fence=bad, code=1, problem="{}", now=70),
                ParkDamaged(fence=bad, problem="{}"),
                Finish(fence=bad, status=RunStatus.FAILED, now=70),
            ]
            outcomes = store.apply(batch)
            assert outcomes is not None
            assert [type(outcome) for outcome in outcomes] == [OwnershipLost] * len(batch)
        assert (row_of(store), store.ask(LoadRun(row.run))) == before
        assert changed_since(store, cursor) == set()

    def test_refused_operations_leave_the_others_of_their_batch_standing(self, store: Store) -> None:
        row, fence = owned(store)
        outcomes = store.apply(
            [
                Advance(fence=fence, rows=(step(1, "a"),), now=20),
                Advance(fence=stale(fence), rows=(step(2, "b"),), now=20),
                Advance(fence=fence, rows=(step(3, "a"),), now=20),
                Advance(fence=fence, rows=(step(4, "c"), step(5, "a"), step(6, "d")), now=20),
                start_operation(workflow="another"),
                start_operation("other"),
                Advance(fence=fence, rows=(step(7, "e"),), now=20),
            ]
        )
        assert outcomes is not None
        types = [bool, OwnershipLost, RunConflict, RunConflict, RunConflict, Started, bool]
        assert [type(outcome) for outcome in outcomes] == types
        assert [entry.key.name for entry in store.ask(ListHistory(row.run))] == ["a", "e"]
        assert store.ask(FindRun("other")) is not None

    def test_strange_strings_are_only_strings(self, store: Store) -> None:
        executor = register(store)
        for text in STRANGE:
            row = start(store, text, workflow=text, queue=text, owner=executor, tags="{}", args=f'["{len(text)}"]')
            one(store, Advance(fence=fence_of(row), published=((text, text),), error=text, now=20))
            assert row_of(store, text).error == text
            assert store.ask(ReadValues([row.run])) == {row.run: {text: text}}
            assert [found.id for found in store.ask(ListRuns(RunFilter(workflow=text), limit=9))] == [text]
            assert [found.id for found in store.ask(ListRuns(RunFilter(queue=text), limit=9))] == [text]
        assert store.ask(CountRuns()).runs_by_status == {RunStatus.RUNNING: len(STRANGE)}
