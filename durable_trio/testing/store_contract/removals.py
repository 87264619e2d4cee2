"""The contract of removing runs: delete and prune."""

from __future__ import annotations

from durable_trio.errors import RunConflict, RunNotFound
from durable_trio.records import RunStatus, StepKind
from durable_trio.rows import Key, WaitRow
from durable_trio.stores.contract import Advance, DeleteRun, Prune, Pruned, Store
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import CountRuns, FindRun, ListUnread, LoadRun
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    changed_since,
    finish,
    one,
    owned,
    park,
    row_of,
    sent_since,
    signal,
    start,
    step,
)

ALL = tuple(RunStatus)


def prune(store: Store, before: int, statuses: tuple[RunStatus, ...] = ALL, limit: int = 9) -> int:
    """Remove ended runs, step by step, and return how many."""
    count = 0
    position = None
    while True:
        pruned: Pruned = one(store, Prune(before=before, statuses=statuses, limit=limit - count, after=position))
        count += pruned.count
        position = pruned.position
        if position is None or count == limit:
            return count


class RemovalContract(ContractKit):
    """What is removed leaves nothing behind, and takes nothing with it that is still asked for."""

    def test_deleting_a_final_run_removes_all_its_rows(self, store: Store) -> None:
        row, fence = owned(store)
        other, _ = owned(store, "other")
        signal(store)
        signal(store, "other")
        nap = WaitRow(key=Key("", "nap", 0), kind="sleep", started_at=1)
        one(store, Advance(fence=fence, rows=(step(1),), waits=(nap,), published=(("k", "1"),), now=20))
        finish(store, fence)
        cursor = store.ask(FindCursor())
        assert one(store, DeleteRun(run_id="run")) is True
        assert store.ask(FindRun("run")) is None
        gone = store.ask(LoadRun(row.run))
        assert (gone.history, gone.waits, gone.unread, gone.values) == ((), (), (), {})
        assert len(store.ask(ListUnread(other.run))) == 1
        assert isinstance(one(store, DeleteRun(run_id="run")), RunNotFound)
        assert (sent_since(store, cursor), changed_since(store, cursor)) == ((), set())
        again = start(store)
        assert changed_since(store, cursor) == {"run"}
        assert again.run > other.run
        assert store.ask(LoadRun(again.run)).history == ()

    def test_a_run_that_goes_on_is_not_deleted(self, store: Store) -> None:
        start(store, "pending")
        _, fence = owned(store, "parked")
        park(store, fence)
        owned(store, "running")
        for run_id in ("pending", "parked", "running"):
            assert isinstance(one(store, DeleteRun(run_id=run_id)), RunConflict)
            assert store.ask(FindRun(run_id)) is not None

    def test_prune_spares_an_ended_child_while_its_parent_may_ask_for_it(self, store: Store) -> None:
        """Until the parent has ended, or has begun a new history, in which the child does not occur."""
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        add(store, parent_fence, step(1, kind=StepKind.CHILD, result='"child"'))
        finish(store, child_fence)
        assert prune(store, 1000, ALL, 9) == 0
        assert store.ask(FindRun("child")) is not None
        finish(store, parent_fence)
        assert prune(store, 1000, ALL, 9) == 2

    def test_prune_removes_an_ended_child_that_is_not_in_the_history_of_its_parent(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        add(store, parent_fence, step(1, kind=StepKind.CHILD, result='"another"'))
        finish(store, child_fence)
        assert prune(store, 1000, ALL, 9) == 1
        assert store.ask(FindRun("child")) is None

    def test_an_ended_child_can_be_deleted_by_name(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        add(store, parent_fence, step(1, kind=StepKind.CHILD, result='"child"'))
        finish(store, child_fence)
        assert one(store, DeleteRun(run_id="child")) is True

    def test_spared_children_do_not_count_for_the_limit_of_prune(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        add(store, parent_fence, step(1, kind=StepKind.CHILD, result='"child"'))
        for run_id, owner, now in (("child", parent.run, 50), ("other", None, 60)):
            _, fence = owned(store, run_id, parent=owner)
            finish(store, fence, now=now)
        assert prune(store, 1000, ALL, 1) == 1
        assert (store.ask(FindRun("child")) is None, store.ask(FindRun("other")) is None) == (False, True)

    def test_a_child_outlives_its_deleted_parent(self, store: Store) -> None:
        parent, parent_fence = owned(store, "parent")
        _, child_fence = owned(store, "child", parent=parent.run)
        finish(store, parent_fence)
        assert one(store, DeleteRun(run_id="parent")) is True
        child = row_of(store, "child")
        assert (child.parent, child.parent_id) == (None, "parent")
        assert finish(store, child_fence) is True

    def test_prune_removes_the_oldest_ended_runs_and_spares_the_others(self, store: Store) -> None:
        for number in range(6):
            _, fence = owned(store, f"run-{number}")
            add(store, fence, step(1))
            finish(store, fence, RunStatus.FAILED if number == 2 else RunStatus.COMPLETED, now=100 - number)
        start(store, "pending", created_at=1)
        _, fence = owned(store, "running")
        _, fence = owned(store, "parked")
        park(store, fence)
        completed = (RunStatus.COMPLETED,)
        assert prune(store, 100, completed, 2) == 2
        assert (store.ask(FindRun("run-5")), store.ask(FindRun("run-4"))) == (None, None)
        assert prune(store, 100, completed, 0) == 0
        assert prune(store, 100, completed, 9) == 2
        assert store.ask(FindRun("run-2")) is not None
        assert store.ask(FindRun("run-0")) is not None
        assert prune(store, 1000, (), 9) == 0
        assert prune(store, 1000, ALL, 9) == 2
        assert sorted(store.ask(CountRuns()).runs_by_status.items()) == [
            (RunStatus.PENDING, 1),
            (RunStatus.RUNNING, 1),
            (RunStatus.SUSPENDED, 1),
        ]
