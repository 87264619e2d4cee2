"""The contract of versions: a run keeps the one that it has, until somebody says another."""

from __future__ import annotations

import random

import pytest

from durable_trio.errors import RunConflict
from durable_trio.records import RunStatus
from durable_trio.rows import NO_VERSION, ServedCode
from durable_trio.stores.code_questions import CountRefused, ListCodes, ListServed, RefusedCount, ServedBy
from durable_trio.stores.contract import ClaimDue, ContinueAsNew, ForkRun, ReapExecutor, ResumeRun, Store
from durable_trio.stores.generation_questions import ListGenerations
from durable_trio.stores.questions import CountRuns
from durable_trio.testing.store_contract.codes import Server
from durable_trio.testing.store_contract.kit import (
    ContractKit,
    add,
    fence_of,
    finish,
    one,
    owned,
    row_of,
    start,
    step,
    suspend,
)


def passed_on(
    store: Store, server: Server, versions: dict[str, int], dice: random.Random, *, ends: bool = False
) -> int:
    """Take some runs, and end them, or pass them on as their next generation."""
    rows = server.claim(limit=3)
    for row in rows:
        known = versions[row.id]
        assert row.version == server.codes[0].version == (row.version if known == NO_VERSION else known)
        versions[row.id] = row.version
        if ends or dice.random() < 0.5:
            finish(store, fence_of(row))
        else:
            version = dice.choice((None, 0, 1, 2))
            one(store, ContinueAsNew(fence=fence_of(row), args="[]", version=version, now=95))
            versions[row.id] = row.version if version is None else version
    return len(rows)


class VersionContract(ContractKit):
    """What a run's version does, and how it becomes another."""

    def test_a_next_generation_keeps_the_version_or_has_the_one_that_is_given(self, store: Store) -> None:
        row, fence = owned(store, version=3)
        assert one(store, ContinueAsNew(fence=fence, args="[2]", generations_kept=None, now=70)) is True
        assert row_of(store).version == 3
        (claimed,) = Server(store, "code", version=3).claim()
        operation = ContinueAsNew(fence=fence_of(claimed), args="[3]", version=5, generations_kept=None, now=80)
        assert one(store, operation) is True
        assert row_of(store).version == 5
        assert [each.version for each in store.ask(ListGenerations(row.run, limit=9))] == [3, 3]
        assert Server(store, "code", version=3).claim() == []
        assert [each.version for each in Server(store, "code", version=5).claim()] == [5]

    def test_a_fork_has_the_version_of_its_original(self, store: Store) -> None:
        _, fence = owned(store, version=3)
        add(store, fence, step(1))
        assert one(store, ForkRun(run_id="run", before=step(1).key, id="fork", now=80)).version == 3

    @pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED])
    def test_a_run_that_is_resumed_has_the_version_that_is_given(self, store: Store, status: RunStatus) -> None:
        _, fence = owned(store, version=3)
        finish(store, fence, status)
        after = one(store, ResumeRun(run_id="run", version=4, now=90))
        assert (after.version, after.status, after.wake_at) == (4, RunStatus.PENDING, 90)

    def test_a_parked_run_with_another_version_goes_to_code_of_that(self, store: Store) -> None:
        start(store, version=1)
        first, second = Server(store, "code", version=1), Server(store, "code", version=2)
        first.refuse(*first.claim())
        assert row_of(store).problem is not None
        after = one(store, ResumeRun(run_id="run", version=2, now=90))
        assert (after.version, after.problem) == (2, None)
        assert first.claim() == []
        assert [row.id for row in second.claim()] == ["run"]

    def test_a_run_that_waits_gets_another_version_and_is_left_as_it_is_but_for_that(self, store: Store) -> None:
        start(store, "new", version=1, due_at=500)
        _, fence = owned(store, "asleep", version=1)
        suspend(store, fence, wake_at=600, waits_for=("go",))
        for run_id in ("new", "asleep"):
            before = row_of(store, run_id)
            after = one(store, ResumeRun(run_id=run_id, version=2, now=90))
            assert after == row_of(store, run_id)
            assert (after.version, after.status, after.wake_at) == (2, before.status, before.wake_at)
            assert after.changed > before.changed
        server = Server(store, "code", version=2)
        assert server.claim(now=499) == []
        assert sorted(row.id for row in server.claim(now=600)) == ["asleep", "new"]

    def test_no_other_version_for_a_run_that_is_executed_or_has_completed_nor_the_same(self, store: Store) -> None:
        _, fence = owned(store, version=1)
        start(store, "waits", version=1, due_at=500)
        assert isinstance(one(store, ResumeRun(run_id="run", version=2, now=90)), RunConflict)
        assert isinstance(one(store, ResumeRun(run_id="waits", version=1, now=90)), RunConflict)
        finish(store, fence)
        assert isinstance(one(store, ResumeRun(run_id="run", version=2, now=90)), RunConflict)
        assert (row_of(store).version, row_of(store, "waits").version) == (1, 1)

    def test_unfinished_runs_are_counted_by_version(self, store: Store) -> None:
        for number, version in enumerate((0, 0, 1, 2, 2, 2, NO_VERSION)):
            start(store, f"run-{number}", version=version)
        start(store, "other", workflow="other", version=7)
        _, fence = owned(store, "ended", version=2)
        finish(store, fence)
        assert store.ask(CountRuns()).unfinished_by_version == {
            ("work", 0): 2,
            ("work", 1): 1,
            ("work", 2): 3,
            ("work", NO_VERSION): 1,
            ("other", 7): 1,
        }

    def test_who_has_which_code_is_told_until_he_is_reaped(self, store: Store) -> None:
        first, second = Server(store, "one", version=1), Server(store, "two", version=1)
        assert store.ask(ListServed()) == (
            ServedBy(first.executor, ServedCode("work", 1, first.code.code)),
            ServedBy(second.executor, ServedCode("work", 1, second.code.code)),
        )
        one(store, ReapExecutor(executor=first.executor, now=200))
        assert [each.executor for each in store.ask(ListServed())] == [second.executor]
        assert len(store.ask(ListCodes())) == 2

    def test_refused_runs_are_counted_by_the_codes_that_have_refused_them(self, store: Store) -> None:
        for number in range(3):
            start(store, f"run-{number}", version=1)
        first, second = Server(store, "one", version=1), Server(store, "two", version=1)
        for row in first.claim():
            first.refuse(row)
        second.refuse(second.claim(limit=1)[0])
        one_code, two_codes = frozenset({first.code.code}), frozenset({first.code.code, second.code.code})
        assert set(store.ask(CountRefused())) == {
            RefusedCount("work", 1, one_code, 2),
            RefusedCount("work", 1, two_codes, 1),
        }
        second.claim(limit=1)
        assert sum(each.count for each in store.ask(CountRefused())) == 2

    def test_a_run_without_a_version_gets_the_newest_one_of_whoever_takes_it_and_keeps_it(self, store: Store) -> None:
        start(store, version=NO_VERSION)
        server = Server(store, "old", version=1)
        codes = (*server.codes, ServedCode("work", 4, 99), ServedCode("work", 2, 98))
        (row,) = one(store, ClaimDue(owner=server.executor, codes=codes, now=1000, limit=9))
        assert row.version == row_of(store).version == 4

    @pytest.mark.parametrize("seed", range(8))
    def test_nobody_ever_gets_a_run_of_a_version_that_he_has_not(self, store: Store, seed: int) -> None:
        """Executors come and go, runs begin, and are given other versions; in the end each goes where it is served."""
        dice = random.Random(seed)
        living: list[Server] = []
        versions: dict[str, int] = {}
        for number in range(60):
            match dice.randrange(5):
                case 0:
                    living.append(Server(store, "code", version=dice.randrange(3)))
                case 1 if living:
                    living.pop(dice.randrange(len(living))).end()
                case 2 if versions:
                    run_id, version = dice.choice(sorted(versions)), dice.randrange(3)
                    if not isinstance(one(store, ResumeRun(run_id=run_id, version=version, now=90)), RunConflict):
                        versions[run_id] = version
                case 3:
                    versions[f"run-{number}"] = dice.choice((NO_VERSION, 0, 1, 2))
                    start(store, f"run-{number}", version=versions[f"run-{number}"])
                case _ if living:
                    passed_on(store, dice.choice(living), versions, dice)
        for version in range(3):
            server = Server(store, "code", version=version)
            while passed_on(store, server, versions, dice, ends=True):
                pass
        assert store.ask(CountRuns()).unfinished_by_version == {}
