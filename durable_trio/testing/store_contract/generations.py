"""The contract of what is kept of a run that continues as new."""

from __future__ import annotations

import pytest

from durable_trio.errors import RunConflict
from durable_trio.limits import GENERATION_ROWS_MAX, UPKEEP_ROWS_MAX
from durable_trio.records import RunStatus, StepStatus
from durable_trio.rows import GenerationRow, HistoryRow, Key
from durable_trio.stores.contract import Advance, ContinueAsNew, DeleteRun, Fence, ForkRun, Prune, Store, Sweep
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.questions import FindRun, ListHistory, LoadRun
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    claim,
    fence_of,
    finish,
    one,
    owned,
    register,
    row_of,
    stale,
    step,
)


def continued(store: Store, fence: Fence, *rows: HistoryRow, kept: int | None = None, now: int = 70) -> Fence:
    """Add rows to a run, let it continue as new and claim it again; return who owns it then."""
    add(store, fence, *rows)
    assert one(store, ContinueAsNew(fence=fence, args="[2]", generations_kept=kept, now=now)) is True
    (row,) = claim(store, register(store), now=max(now, 1000))
    return fence_of(row)


def kept(store: Store, run: int) -> list[int]:
    """Return the numbers of the earlier generations that are kept."""
    return [row.generation for row in store.ask(ListGenerations(run, limit=100))]


class GenerationContract(ContractKit):
    """Histories that have ended are kept apart, as many as are asked for, and go with their run."""

    def test_a_history_that_has_ended_is_that_of_its_generation(self, store: Store) -> None:
        row, fence = owned(store, args="[1]")
        rows = (
            step(1, key=Key("a#0/b#1", "charge", 3), attempt=4, compensates=True, result='{"ä": [1, null]}'),
            step(2, status=StepStatus.FAILED, result=None, error='{"type": "X"}', earlier='[{"attempt": 1}]'),
        )
        again = continued(store, fence, *rows)
        add(store, again, step(7, "later"))
        assert store.ask(ListGeneration(row.run, 0)) == rows
        assert store.ask(ListGeneration(row.run, 1)) == store.ask(ListHistory(row.run)) == (step(7, "later"),)
        assert store.ask(ListGeneration(row.run, 2)) is None
        ended = GenerationRow(0, row.started_at, 70, 0, row.version, "[1]")
        assert store.ask(ListGenerations(row.run, limit=9)) == (ended,)

    def test_what_an_executor_loads_is_the_present_history_alone(self, store: Store) -> None:
        row, fence = owned(store)
        again = continued(store, fence, step(1, "a"), step(2, "b"))
        assert store.ask(LoadRun(row.run)).history == ()
        add(store, again, step(1, "a"))  # the same key as then
        assert store.ask(LoadRun(row.run)).history == (step(1, "a"),)

    def test_a_generation_without_any_row_is_kept_and_is_told_from_one_that_is_not(self, store: Store) -> None:
        row, fence = owned(store)
        continued(store, fence)
        assert store.ask(ListGeneration(row.run, 0)) == ()
        assert store.ask(ListGeneration(999, 0)) is None

    def test_as_many_are_kept_as_are_asked_for_and_the_last_ones(self, store: Store) -> None:
        row, fence = owned(store)
        for number in range(6):
            fence = continued(store, fence, step(number, f"s{number}"), kept=3)
        assert kept(store, row.run) == [5, 4, 3]
        assert store.ask(ListGeneration(row.run, 2)) is None
        assert store.ask(ListGeneration(row.run, 3)) == (step(3, "s3"),)
        assert kept_pages(store, row.run) == [5, 4, 3]

    def test_none_is_kept_where_none_is_wanted(self, store: Store) -> None:
        row, fence = owned(store)
        continued(store, fence, step(1), kept=0)
        assert (kept(store, row.run), store.ask(ListGeneration(row.run, 0))) == ([], None)

    @pytest.mark.parametrize("fewer", [2, 0])
    def test_where_fewer_are_wanted_than_before_some_more_go_each_time(self, store: Store, fewer: int) -> None:
        row, fence = owned(store)
        for number in range(8):
            fence = continued(store, fence, step(number))
        counts = [len(kept(store, row.run))]
        while counts[-1] > fewer:
            fence = continued(store, fence, kept=fewer)
            counts.append(len(kept(store, row.run)))
            assert counts[-1] < counts[-2]
        assert kept(store, row.run) == list(range(row_of(store).generation))[: -fewer - 1 : -1]
        assert counts[1] > fewer  # the work of one is bounded

    def test_of_a_long_history_the_last_rows_are_kept(self, store: Store) -> None:
        row, fence = owned(store)
        count = GENERATION_ROWS_MAX + 3
        rows = [step(number, n=number) for number in range(count)]
        for start in range(0, count, 1000):
            add(store, fence, *rows[start : start + 1000])
        continued(store, fence)
        assert store.ask(ListGeneration(row.run, 0)) == tuple(rows[3:])
        assert [each.left_out for each in store.ask(ListGenerations(row.run, limit=9))] == [3]

    def test_a_stale_token_ends_no_generation_nor_does_a_run_that_compensates(self, store: Store) -> None:
        row, fence = owned(store)
        add(store, fence, step(1))
        one(store, ContinueAsNew(fence=stale(fence), args="[2]", generations_kept=None, now=70))
        one(store, Advance(fence=fence, status=RunStatus.COMPENSATING, now=20))
        outcome = one(store, ContinueAsNew(fence=fence, args="[2]", generations_kept=None, now=70))
        assert isinstance(outcome, RunConflict)
        assert kept(store, row.run) == []
        assert store.ask(ListHistory(row.run)) == (step(1),)

    def test_runs_keep_their_own(self, store: Store) -> None:
        first, fence = owned(store, "one")
        continued(store, fence, step(1, "a"))
        second, fence = owned(store, "two")
        continued(store, fence, step(1, "b"), kept=1)
        assert store.ask(ListGeneration(first.run, 0)) == (step(1, "a"),)
        assert store.ask(ListGeneration(second.run, 0)) == (step(1, "b"),)

    def test_a_fork_has_the_number_of_its_generation_and_none_of_the_earlier_ones(self, store: Store) -> None:
        row, fence = owned(store)
        again = continued(store, fence, step(1, "a"))
        add(store, again, step(1, "b"), step(2, "c"))
        fork = one(store, ForkRun(run_id="run", before=Key("", "c", 0), id="fork", now=80))
        assert (fork.generation, fork.forked_from, fork.forked_before) == (1, "run", "c#0")
        assert kept(store, fork.run) == []
        (claimed,) = claim(store, register(store))
        fence = continued(store, fence_of(claimed), step(9, "d"), kept=1)
        assert store.ask(ListGeneration(fork.run, 1)) == (step(1, "b"), step(9, "d"))
        assert row_of(store, "fork").forked_from == "run"
        assert kept(store, row.run) == [0]

    @pytest.mark.parametrize("how", ["delete", "prune"])
    @pytest.mark.parametrize("generation_count", [2, 2 * UPKEEP_ROWS_MAX // 50])
    def test_they_go_with_their_run_also_where_that_takes_several_transactions(
        self, store: Store, how: str, generation_count: int
    ) -> None:
        row, fence = owned(store)
        for _ in range(generation_count):
            fence = continued(store, fence, *(step(number, n=number) for number in range(50)))
        finish(store, fence, now=100)
        if how == "delete":
            assert one(store, DeleteRun(run_id="run")) is True
        else:
            assert one(store, Prune(before=1000, statuses=(RunStatus.COMPLETED,), limit=9)).count == 1
        assert store.ask(FindRun("run")) is None
        pieces = []
        while (count := one(store, Sweep(hidden_before=1))) != 0:
            pieces.append(count)
        assert all(count <= UPKEEP_ROWS_MAX + 1 for count in pieces)
        assert (kept(store, row.run), store.ask(ListGeneration(row.run, 0))) == ([], None)


def kept_pages(store: Store, run: int) -> list[int]:
    """Return what ``kept`` does, asked for one by one."""
    found: list[int] = []
    before: int | None = None
    while page := store.ask(ListGenerations(run, before=before, limit=1)):
        (row,) = page
        before = row.generation
        found.append(before)
    return found
