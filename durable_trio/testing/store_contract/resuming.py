"""The contract of what lets a run go on: resume, and forks."""

from __future__ import annotations

from typing import Any

import pytest

from durable_trio.errors import MailboxFull, RunConflict, RunNotFound
from durable_trio.records import RunStatus, StepKind, StepStatus
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.stores.contract import Advance, ForkRun, ReapExecutor, RequestCancel, ResumeRun, Sent, Store
from durable_trio.stores.questions import FindRun, ListHistory, ListUnread
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    claim,
    fence_of,
    finish,
    one,
    owned,
    park,
    register,
    row_of,
    signal,
    start,
    step,
    suspend,
)


def resume(store: Store, run_id: str = "run", now: int = 200) -> Any:
    """Resume a run."""
    return one(store, ResumeRun(run_id=run_id, now=now))


def fork(store: Store, before: Key, run_id: str = "run", new_id: str = "copy") -> Any:
    """Fork a run."""
    return one(store, ForkRun(run_id=run_id, before=before, id=new_id, now=300))


def names(store: Store, row: RunRow) -> list[str]:
    """Return the names of a run's history rows."""
    return [entry.key.name for entry in store.ask(ListHistory(row.run))]


#: Names and ids of signals to a run that is forked.
SIGNALS = (("a", None), ("b", "1"), ("c", None), ("d", "2"), ("e", "3"))


class ResumingContract(ContractKit):
    """Runs that had ended or stood still go on; a fork goes on from a place of another."""

    def test_a_parked_run_resumes_without_its_problem(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1, status=StepStatus.FAILED))
        park(store, fence)
        changed = row_of(store).changed
        after = resume(store)
        assert after == row_of(store)
        assert (after.status, after.problem, after.wake_at) == (RunStatus.SUSPENDED, None, 200)
        assert after.changed > changed
        assert len(store.ask(ListHistory(row.run))) == 1
        assert [found.id for found in claim(store, register(store))] == ["run"]

    def test_a_failed_run_resumes_without_its_last_failure(self, store: Store) -> None:
        row, fence = owned(store, ttl_at=150)
        add(store, fence, step(1, "a", status=StepStatus.FAILED), step(2, "b"), step(3, "c", status=StepStatus.FAILED))
        finish(store, fence, RunStatus.FAILED, error='"e"', result="1")
        after = resume(store)
        assert after == row_of(store)
        assert names(store, row) == ["a", "b"]
        assert (after.status, after.result, after.error, after.finished_at) == (RunStatus.PENDING, None, None, None)
        assert (after.wake_at, after.ttl_at, after.recoveries, after.owner) == (200, None, 0, None)
        (claimed,) = claim(store, register(store))
        assert (claimed.token, claimed.started_at) == (2, row.started_at)

    def test_a_signal_consumed_by_the_failure_is_unread_again(self, store: Store) -> None:
        row, fence = owned(store)
        first, second = signal(store, payload="1").entry, signal(store, payload="2").entry
        one(store, Advance(fence=fence, rows=(step(1, "s"),), taken=((first.id, 1),), now=70))
        failure = step(2, "t", status=StepStatus.FAILED)
        one(store, Advance(fence=fence, rows=(failure,), taken=((second.id, 2),), now=70))
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert store.ask(ListUnread(row.run)) == (second,)

    @pytest.mark.parametrize(("ttl_at", "kept"), [(201, 201), (200, None)])
    def test_a_time_to_live_is_kept_unless_it_is_over(self, store: Store, ttl_at: int, kept: int | None) -> None:
        _, fence = owned(store, ttl_at=ttl_at)
        finish(store, fence, RunStatus.FAILED)
        assert resume(store).ttl_at == kept

    def test_a_last_row_that_is_no_failure_stays(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1, "a"), step(2, "b"))
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert names(store, row) == ["a", "b"]

    @pytest.mark.parametrize("began", [1, 9])
    def test_a_failure_of_a_branch_goes_although_a_sibling_has_ended_after_it(self, store: Store, began: int) -> None:
        row, fence = owned(store)
        first, second = signal(store, payload="1").entry, signal(store, payload="2").entry
        failure = step(2, key=Key("n#0/a#0", "a", 0), status=StepStatus.FAILED, started_at=1, finished_at=9)
        sibling = step(3, key=Key("n#0/b#0", "b", 0), started_at=began, finished_at=9)
        one(store, Advance(fence=fence, rows=(step(1, "x"), failure), taken=((first.id, 2),), now=70))
        one(store, Advance(fence=fence, rows=(sibling,), taken=((second.id, 3),), now=70))
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert names(store, row) == ["x", "b"]
        assert store.ask(ListUnread(row.run)) == (first,)

    @pytest.mark.parametrize(
        "after",
        [
            step(2, key=Key("n#0/a#0", "b", 0), started_at=1),
            step(2, key=Key("", "b", 0), started_at=1),
            step(2, key=Key("n#0/b#0", "b", 0), started_at=10),
            step(2, key=Key("n#1/b#0", "b", 0), started_at=9),
            step(2, key=Key("m#0", "item", 0), started_at=9),
        ],
        ids=["the same branch", "a branch around it", "a sibling later", "another nursery", "a map"],
    )
    def test_a_failure_stays_if_the_body_may_have_gone_on_from_it(self, store: Store, after: HistoryRow) -> None:
        row, fence = owned(store)
        failure = step(1, key=Key("n#0/a#0", "a", 0), status=StepStatus.FAILED, started_at=1, finished_at=9)
        add(store, fence, failure, after)
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert store.ask(ListHistory(row.run)) == (failure, after)

    def test_all_failed_items_of_a_map_go_and_the_others_stay(self, store: Store) -> None:
        row, fence = owned(store)
        failed = [
            step(seq, key=Key("m#0", "item", seq), status=StepStatus.FAILED, started_at=1, finished_at=9)
            for seq in (1, 2, 4)
        ]
        completed = step(3, key=Key("m#0", "item", 3), started_at=1, finished_at=9)
        add(store, fence, *failed[:2], completed, failed[2])
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert store.ask(ListHistory(row.run)) == (completed,)

    @pytest.mark.parametrize("status", [StepStatus.COMPLETED, StepStatus.FAILED])
    def test_ends_of_children_that_nobody_awaited_go_with_the_failure(self, store: Store, status: StepStatus) -> None:
        row, fence = owned(store)
        end = step(3, key=Key("(end)", "child", 0), kind=StepKind.CHILD_END, status=status)
        add(store, fence, step(1, "child", kind=StepKind.CHILD), step(2, "a", status=StepStatus.FAILED), end)
        finish(store, fence, RunStatus.FAILED)
        resume(store)
        assert names(store, row) == ["child"]

    @pytest.mark.parametrize("kind", [StepKind.CANCEL, StepKind.TTL])
    def test_a_cancelled_run_resumes_without_the_cancel_and_what_came_after(self, store: Store, kind: StepKind) -> None:
        row, fence = owned(store)
        early = signal(store, payload="1").entry
        late = signal(store, payload="2").entry
        entry = one(store, RequestCancel(run_id="run", reason="null", now=70)).entry
        add(store, fence, step(1, "a"))
        one(store, Advance(fence=fence, rows=(step(2, "s"),), taken=((early.id, 2),), now=70))
        one(store, Advance(fence=fence, rows=(step(3, "cancel", kind=kind),), taken=((entry.id, 3),), now=70))
        one(store, Advance(fence=fence, rows=(step(4, "t"),), taken=((late.id, 4),), now=70))
        add(store, fence, step(5, "z", status=StepStatus.FAILED))
        finish(store, fence, RunStatus.CANCELLED)
        assert resume(store).status is RunStatus.PENDING
        assert names(store, row) == ["a", "s"]
        assert store.ask(ListUnread(row.run)) == (late,)
        assert one(store, RequestCancel(run_id="run", reason="null", now=210)).created

    def test_a_run_cancelled_while_pending_resumes(self, store: Store) -> None:
        row = start(store)
        one(store, RequestCancel(run_id="run", reason="null", now=70))
        assert resume(store).status is RunStatus.PENDING
        assert store.ask(ListUnread(row.run)) == ()
        assert len(claim(store, register(store))) == 1

    def test_a_compensated_run_does_not_resume(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1, "a"), step(2, "undo", kind=StepKind.COMPENSATION))
        finish(store, fence, RunStatus.FAILED)
        before = row_of(store)
        assert isinstance(resume(store), RunConflict)
        assert (row_of(store), names(store, row)) == (before, ["a", "undo"])

    def test_other_runs_do_not_resume(self, store: Store) -> None:
        assert isinstance(resume(store, "nobody"), RunNotFound)
        start(store, "pending")
        _, _ = owned(store, "running")
        _, fence = owned(store, "sleeping")
        suspend(store, fence, wake_at=900)
        _, fence = owned(store, "completed")
        finish(store, fence)
        for run_id in ("pending", "running", "sleeping", "completed"):
            before = row_of(store, run_id)
            assert isinstance(resume(store, run_id), RunConflict)
            assert row_of(store, run_id) == before

    def test_recoveries_begin_anew_with_a_resumed_run(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, ReapExecutor(executor=fence.owner, now=20))
        (row,) = claim(store, register(store))
        assert row.recoveries == 1
        finish(store, fence_of(row), RunStatus.FAILED)
        assert resume(store).recoveries == 0

    def test_a_fork_has_the_history_before_its_row(self, store: Store) -> None:
        row, fence = owned(store, args="[1]", queue="q", priority=4, tags='{"a": "b"}')
        add(
            store,
            fence,
            step(1, "a", compensates=True),
            step(2, "undo", kind=StepKind.COMPENSATION),
            step(3, "cancel", kind=StepKind.CANCEL),
            step(4, "ttl", kind=StepKind.TTL),
            step(5, "b", status=StepStatus.FAILED, error="1"),
            step(6, "c"),
        )
        signal(store)
        copy = fork(store, Key("", "c", 0))
        assert copy == row_of(store, "copy")
        assert (copy.status, copy.wake_at, copy.created_at, copy.owner, copy.token) == (
            RunStatus.PENDING,
            300,
            300,
            None,
            0,
        )
        assert (copy.args, copy.queue, copy.priority, copy.tags, copy.seed) == ("[1]", "q", 4, '{"a": "b"}', row.seed)
        assert (copy.workflow, copy.result, copy.error, copy.parent) == (row.workflow, None, None, None)
        assert store.ask(ListHistory(copy.run)) == (step(1, "a"), step(5, "b", status=StepStatus.FAILED, error="1"))
        assert store.ask(ListUnread(copy.run)) == ()
        assert len(store.ask(ListHistory(row.run))) == 6
        assert [found.id for found in claim(store, register(store))] == ["copy"]

    def test_a_fork_with_signals_has_those_that_its_history_has_not_taken(self, store: Store) -> None:
        """In order of arrival; and it knows again those with an id that it has."""
        _, fence = owned(store)
        sent = [signal(store, name=name, signal_id=signal_id) for name, signal_id in SIGNALS]
        taken = {0: 1, 1: 1, 2: 2, 3: 2}
        for seq in (1, 2):
            entries = tuple((sent[number].entry.id, seq) for number in taken if taken[number] == seq)
            one(store, Advance(fence=fence, rows=(step(seq, f"s{seq}"),), taken=entries, now=40))
        one(store, RequestCancel(run_id="run", reason="null", now=50))
        copy = one(store, ForkRun(run_id="run", before=Key("", "s2", 0), id="copy", signals=True, now=300))
        assert [entry.name for entry in store.ask(ListUnread(copy.run))] == ["c", "d", "e"]
        assert [entry.name for entry in store.ask(ListUnread(fence.run))] == ["e", "cancel"]
        for name, signal_id in SIGNALS:
            again = signal(store, "copy", name, signal_id=signal_id)
            assert again.created == (signal_id is None)
        assert len(store.ask(ListUnread(copy.run))) == 5
        limited = [signal(store, "copy", "more", unread_max=6) for _ in range(2)]
        assert [type(outcome) for outcome in limited] == [Sent, MailboxFull]

    def test_a_fork_before_the_first_row_is_empty(self, store: Store) -> None:
        _, fence = owned(store)
        add(store, fence, step(1, "a"))
        assert store.ask(ListHistory(fork(store, Key("", "a", 0)).run)) == ()

    def test_a_fork_that_cannot_be_is_refused(self, store: Store) -> None:
        _, fence = owned(store)
        add(store, fence, step(1, "a"))
        assert isinstance(fork(store, Key("", "a", 0), "nobody"), RunNotFound)
        for missing in (Key("", "a", 1), Key("x", "a", 0), Key("", "b", 0)):
            assert isinstance(fork(store, missing), ValueError)
        assert isinstance(fork(store, Key("", "a", 0), new_id="run"), RunConflict)
        assert store.ask(FindRun("copy")) is None
