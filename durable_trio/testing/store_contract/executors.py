"""The contract of executors: registration, leases, and what becomes of the runs of a dead one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from durable_trio.errors import OwnershipLost
from durable_trio.processes import ProcessIdentity
from durable_trio.records import RunStatus
from durable_trio.rows import DeathRow, DeathStage, ExecutorRow, UntoldRow
from durable_trio.stores.contract import (
    Advance,
    PutReport,
    ReapExecutor,
    RegisterExecutor,
    RenewLease,
    Store,
    TellDeath,
)
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import ListDeaths, ListExecutors, ListHistory, ListReports
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    changed_since,
    claim,
    fence_of,
    one,
    owned,
    register,
    row_of,
    signal,
    start,
    start_operation,
    step,
)


def reap(store: Store, executor: int, **options: Any) -> Any:
    """Declare an executor dead."""
    return one(store, ReapExecutor(executor=executor, **({"now": 90} | options)))


def executor_of(store: Store, executor: int) -> ExecutorRow:
    """Return the row of an executor that has not ended."""
    (row,) = (row for row in store.ask(ListExecutors()) if row.id == executor)
    return row


def deaths(store: Store) -> tuple[DeathRow, ...]:
    """Return the deaths that are to be told of, without what the store judges of those concerned."""
    return tuple(attrs.evolve(row, is_locked=None, is_teller_alive=True) for row in store.ask(ListDeaths()))


class ExecutorContract(ContractKit):
    """One owner per run, and none for the runs of the dead."""

    def test_an_executor_is_stored_as_it_registered(self, store: Store) -> None:
        executor = one(store, RegisterExecutor(pid=7, host="höst", lease=30, now=3))
        (row,) = store.ask(ListExecutors())
        assert attrs.evolve(row, is_locked=None, silent=None) == ExecutorRow(
            id=executor,
            pid=7,
            host="höst",
            started_at=3,
            renewals=row.renewals,  # from wherever it begins
            is_locked=None,
            lease=30,
            silent=None,
            ended_at=None,
        )
        assert row.may_live
        assert row.silent is None or row.silent >= 0

    def test_executor_ids_are_never_used_again(self, store: Store) -> None:
        seen = []
        for _ in range(5):
            executor = register(store)
            seen.append(executor)
            reap(store, executor)
        assert seen == sorted(set(seen))
        assert store.ask(ListExecutors()) == ()

    def test_an_executor_whose_store_is_open_is_never_said_to_have_ended(self, tmp_path: Path, store: Store) -> None:
        """Whoever asks. And of one whose store was closed nobody says that its process is there."""
        executors = [register(store), register(store)]
        again = self.reopen(tmp_path)
        if again is None:
            assert [row.may_live for row in store.ask(ListExecutors())] == [True, True]
            return
        again.open()
        try:
            own = register(again)
            for looker in (store, again):
                assert {row.id: row.may_live for row in looker.ask(ListExecutors())} == dict.fromkeys(
                    [*executors, own], True
                )
            reap(again, executors[0], renewals=executor_of(store, executors[0]).renewals)
            assert [row.id for row in again.ask(ListExecutors())] == [executors[1], own]
            store.close()
            found = {row.id: row.is_locked for row in again.ask(ListExecutors())}
            assert found[executors[1]] is not True
            assert found[own] is not False
        finally:
            again.close()

    def test_each_renewal_is_another_number_until_the_executor_is_declared_dead(self, store: Store) -> None:
        executor, other = register(store, lease=10), register(store, lease=20)
        seen = [executor_of(store, executor).renewals]
        before = executor_of(store, other)
        for _ in range(3):
            assert one(store, RenewLease(executor=executor)) is True
            seen.append(executor_of(store, executor).renewals)
        assert store.apply([RenewLease(executor=executor)] * 2) == [True, True]
        seen.append(executor_of(store, executor).renewals)
        assert seen == sorted(set(seen))
        assert executor_of(store, executor).lease == 10
        assert executor_of(store, other).renewals == before.renewals
        assert executor_of(store, other).lease == 20
        reap(store, executor)
        assert one(store, RenewLease(executor=executor)) is False
        assert one(store, RenewLease(executor=executor + 9)) is False

    def test_a_lease_is_also_renewed_from_a_thread_beside(self, store: Store) -> None:
        """Of one whose event loop is blocked nobody else would."""
        executor, dead = register(store, lease=10), register(store, lease=10)
        before = executor_of(store, executor).renewals
        reap(store, dead)
        with ThreadPoolExecutor(1) as thread:

            def renewed(number: int) -> bool:
                answer = None
                while answer is None:  # not just then
                    answer = thread.submit(store.renew_meanwhile, number).result()
                return answer

            assert renewed(executor)
            assert not renewed(dead)
            assert not renewed(executor + 9)
        assert executor_of(store, executor).renewals == before + 1
        assert one(store, RenewLease(executor=executor)) is True

    def test_nothing_else_that_an_executor_writes_is_a_renewal(self, store: Store) -> None:
        row, fence = owned(store)
        before = executor_of(store, fence.owner).renewals
        add(store, fence, step(1))
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, wake_at=500, now=20))
        assert row.owner == fence.owner
        assert executor_of(store, fence.owner).renewals == before

    def test_a_renewal_that_comes_first_wins(self, store: Store) -> None:
        row, fence = owned(store)
        seen = executor_of(store, fence.owner).renewals
        assert one(store, RenewLease(executor=fence.owner)) is True
        assert reap(store, fence.owner, renewals=seen) is None
        assert row_of(store) == row
        assert one(store, RenewLease(executor=fence.owner)) is True  # and nothing of it is lost
        seen = executor_of(store, fence.owner).renewals
        assert reap(store, fence.owner, renewals=seen) == 1
        assert row_of(store).owner is None
        assert one(store, RenewLease(executor=fence.owner)) is False

    def test_in_one_batch_too_what_comes_first_wins(self, store: Store) -> None:
        (_, spared), (_, reaped) = owned(store, "spared"), owned(store, "reaped")
        renew, reap_it = (
            [RenewLease(executor=fence.owner) for fence in (spared, reaped)],
            [
                ReapExecutor(executor=fence.owner, renewals=executor_of(store, fence.owner).renewals, now=90)
                for fence in (spared, reaped)
            ],
        )
        assert store.apply([renew[0], reap_it[0], reap_it[1], renew[1]]) == [True, None, 1, False]
        assert [row_of(store, run_id).owner for run_id in ("spared", "reaped")] == [spared.owner, None]

    def test_of_two_observers_that_have_seen_the_same_one_reaps(self, tmp_path: Path, store: Store) -> None:
        _, fence = owned(store)
        seen = executor_of(store, fence.owner).renewals
        other = self.reopen(tmp_path)
        if other is None:
            assert [reap(store, fence.owner, renewals=seen) for _ in range(2)] == [1, None]
            return
        other.open()
        try:
            assert executor_of(other, fence.owner).renewals == seen
            assert reap(other, fence.owner, renewals=seen) == 1
            assert reap(store, fence.owner, renewals=seen) is None
            assert one(store, RenewLease(executor=fence.owner)) is False
        finally:
            other.close()

    def test_an_orderly_end_asks_for_no_renewals(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, RenewLease(executor=fence.owner))
        assert reap(store, fence.owner, crashed=False) == 1
        assert reap(store, fence.owner, crashed=False) is None

    def test_a_dead_executor_writes_nothing_any_more(self, store: Store) -> None:
        row, fence = owned(store)
        assert reap(store, fence.owner) == 1
        assert isinstance(one(store, Advance(fence=fence, rows=(step(1),), now=91)), OwnershipLost)
        assert store.ask(ListHistory(row.run)) == ()
        assert isinstance(claim(store, fence.owner), OwnershipLost)

    def test_a_death_is_stored_with_the_reaping_until_its_teller_has_told_it(self, store: Store) -> None:
        executor = owned(store, "run")[1].owner
        untold = (UntoldRow(event="run_failed", run_id="run", token=3),)
        death = DeathRow(executor=executor, pid=7, host="höst", stage=DeathStage.SILENT, untold=untold, teller="a")
        seen = executor_of(store, executor).renewals
        one(store, RenewLease(executor=executor))
        assert reap(store, executor, renewals=seen, death=death) is None  # it lives
        assert store.ask(ListDeaths()) == ()
        assert reap(store, executor, death=death) == 1
        stored = attrs.evolve(death, runs=1)
        assert deaths(store) == (stored,)
        assert reap(store, executor, death=attrs.evolve(death, teller="b")) is None  # another one was first
        watched = attrs.evolve(stored, stage=DeathStage.WATCHED, teller="c")
        assert one(store, TellDeath(executor=executor, teller="b", becomes=watched)) is False
        assert one(store, TellDeath(executor=executor, teller="a", becomes=watched)) is True
        assert deaths(store) == (watched,)
        assert one(store, TellDeath(executor=executor, teller="a", becomes=None)) is False
        assert one(store, TellDeath(executor=executor, teller="c", becomes=None)) is True
        assert one(store, TellDeath(executor=executor, teller="c", becomes=None)) is False
        assert store.ask(ListDeaths()) == ()

    def test_reaping_sets_its_runs_free_and_no_others(self, store: Store) -> None:
        executor = register(store)
        for run_id in ("a", "b"):
            one_run, _ = owned(store, run_id)
            reap(store, one_run.owner or 0, crashed=False)
        assert len(claim(store, executor)) == 2
        other, _ = owned(store, "other")
        assert reap(store, executor, now=90) == 2
        assert [row_of(store, run_id).owner for run_id in ("a", "b")] == [None, None]
        assert [row_of(store, run_id).wake_at for run_id in ("a", "b")] == [90, 90]
        assert row_of(store, "other") == other
        before = row_of(store, "a")
        assert reap(store, executor) is None
        assert reap(store, 999) is None
        assert row_of(store, "a") == before
        assert (before.status, before.token) == (RunStatus.RUNNING, 2)

    def test_at_an_orderly_end_only_the_runs_that_caused_it_are_counted(self, store: Store) -> None:
        executor = register(store)
        for run_id in ("a", "b"):
            one_run, _ = owned(store, run_id)
            reap(store, one_run.owner or 0, crashed=False)
        assert len(claim(store, executor)) == 2
        causes = frozenset({row_of(store, "a").run, 999})
        assert reap(store, executor, crashed=False, crashed_runs=causes) == 2
        assert [row_of(store, run_id).recoveries for run_id in ("a", "b")] == [1, 0]
        assert [row_of(store, run_id).owner for run_id in ("a", "b")] == [None, None]

    @pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.COMPENSATING])
    def test_crashes_without_progress_are_counted(self, store: Store, status: RunStatus) -> None:
        row, fence = owned(store)
        one(store, Advance(fence=fence, status=status, now=20))
        for expected in (1, 2, 3):
            reap(store, fence.owner)
            assert row_of(store).recoveries == expected
            (row,) = claim(store, register(store))
            fence = fence_of(row)
        add(store, fence, step(1))
        reap(store, fence.owner)
        assert row_of(store).recoveries == 1
        (row,) = claim(store, register(store))
        reap(store, fence_of(row).owner)
        assert row_of(store).recoveries == 2

    def test_an_orderly_end_counts_no_crash(self, store: Store) -> None:
        _, fence = owned(store)
        assert reap(store, fence.owner, crashed=False, now=91) == 1
        row = row_of(store)
        assert (row.recoveries, row.wake_at, row.owner) == (0, 91, None)

    @pytest.mark.parametrize("wake_at", [None, 500])
    def test_a_suspended_orphan_is_not_woken_before_its_time(self, store: Store, wake_at: int | None) -> None:
        _, fence = owned(store)
        suspended = Advance(fence=fence, status=RunStatus.SUSPENDED, wake_at=wake_at, waits_for=("go",), now=20)
        one(store, suspended)
        assert reap(store, fence.owner, now=90) == 1
        row = row_of(store)
        assert (row.status, row.owner, row.wake_at, row.recoveries) == (RunStatus.SUSPENDED, None, wake_at, 0)
        signal(store, name="other", now=95)
        assert row_of(store).wake_at == wake_at
        signal(store, name="go", now=96)
        assert row_of(store).wake_at == 96

    def test_a_suspended_orphan_with_mail_is_woken(self, store: Store) -> None:
        _, fence = owned(store)
        one(store, Advance(fence=fence, status=RunStatus.SUSPENDED, wake_at=500, waits_for=("go",), now=20))
        signal(store, name="other")
        reap(store, fence.owner, now=90)
        assert row_of(store).wake_at == 90

    def test_an_executor_that_ends_in_a_batch_owns_nothing_that_comes_after_in_it(self, store: Store) -> None:
        executor = register(store)
        outcomes = store.apply(
            [
                start_operation("before", owner=executor),
                ReapExecutor(executor=executor, now=20),
                start_operation("after", owner=executor),
            ]
        )
        assert outcomes is not None
        assert (outcomes[0].claimed, outcomes[1], outcomes[2].claimed) == (True, 1, False)
        assert [row_of(store, run_id).owner for run_id in ("before", "after")] == [None, None]

    def test_ended_executors_are_listed_only_while_they_own_runs(self, store: Store) -> None:
        executor = register(store)
        living = register(store)
        reap(store, executor)
        assert [row.id for row in store.ask(ListExecutors())] == [living]
        assert [row.id for row in store.ask(ListExecutors(ended=True))] == [living]

    def test_a_report_is_kept_until_it_is_replaced_or_removed(self, store: Store) -> None:
        def found() -> list[tuple[str, int, str]]:
            return [(row.process, row.updated_at, row.report) for row in store.ask(ListReports())]

        assert found() == []
        assert one(store, PutReport(process="b", report='{"n": 1}', now=5)) is None
        one(store, PutReport(process="a", report="{}", now=6))
        one(store, PutReport(process="b", report='{"n": 2}', now=7))
        assert found() == [("a", 6, "{}"), ("b", 7, '{"n": 2}')]
        one(store, PutReport(process="b", report=None, now=8))
        one(store, PutReport(process="never there", report=None, now=8))
        assert found() == [("a", 6, "{}")]

    def test_a_process_that_reports_or_is_to_tell_of_a_death_is_alive(self, tmp_path: Path, store: Store) -> None:
        """As long as it is there, whoever asks."""
        own = str(ProcessIdentity.own())
        one(store, PutReport(process=own, report="{}", now=5))
        executor = owned(store, "run")[1].owner
        death = DeathRow(executor=executor, pid=7, stage=DeathStage.DIED, teller=f"a/{own}")
        assert reap(store, executor, death=death) == 1
        again = self.reopen(tmp_path)
        if again is not None:
            again.open()
        try:
            for looker in (store, *([] if again is None else [again])):
                assert [row.is_alive for row in looker.ask(ListReports())] == [True]
                assert [row.is_teller_alive for row in looker.ask(ListDeaths())] == [True]
        finally:
            if again is not None:
                again.close()

    def test_a_report_is_no_change_of_any_run(self, store: Store) -> None:
        start(store)
        cursor = store.ask(FindCursor())
        one(store, PutReport(process="a", report="{}", now=6))
        assert changed_since(store, cursor) == set()

    def test_registering_in_a_batch_with_a_refused_operation_holds(self, store: Store) -> None:
        _, fence = owned(store)
        add(store, fence, step(1, "a"))
        outcomes = store.apply(
            [
                RegisterExecutor(pid=1, host="h", lease=1, now=1),
                Advance(fence=fence, rows=(step(2, "b"), step(3, "a")), now=20),
                RegisterExecutor(pid=2, host="h", lease=1, now=1),
            ]
        )
        assert outcomes is not None
        assert outcomes[0] != outcomes[2]
        found = [(row.id, row.may_live) for row in store.ask(ListExecutors())]
        assert found == [(fence.owner, True), (outcomes[0], True), (outcomes[2], True)]
