"""The contract of what executors report of their open steps, for a store that ``takes_open_steps``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from durable_trio.records import StepKind
from durable_trio.rows import DeathRow, DeathStage, Key, OpenStepRow
from durable_trio.stores.contract import PutOpenSteps, ReapExecutor, Store
from durable_trio.stores.news_questions import FindCursor
from durable_trio.stores.questions import ListOpenSteps, OpenSteps
from durable_trio.testing.store_contract.kit import STRANGE, ContractKit, changed_since, one, register, start

# Of executors that have died it is kept for so many what they were at.
_DEAD_KEPT = 8


def open_step(executor: int, run: int, name: str = "a", *, started_at: int = 10, branch: str = "") -> OpenStepRow:
    """Return a step that an executor reports."""
    return OpenStepRow(
        run=run,
        token=3,
        key=Key(branch, name, 2),
        kind=StepKind.STEP,
        attempt=4,
        started_at=started_at,
        executor=executor,
        pid=4711,
        thread=2**40,
        is_alive=True,
        is_reported=True,
    )


def put(store: Store, executor: int, *steps: OpenStepRow, unlisted_count: int = 0) -> None:
    """Report steps."""
    assert one(store, PutOpenSteps(executor=executor, steps=steps, unlisted_count=unlisted_count)) is None


class OpenStepContract(ContractKit):
    """What is reported is told as it was reported last, and with whether the executor is there."""

    @pytest.fixture
    def reported(self, store: Store) -> Store:
        """An open store that is told of open steps."""
        if not store.takes_open_steps:
            pytest.skip("it is not told of open steps")
        return store

    def test_what_an_executor_is_at_is_told_as_it_was_reported_last(self, reported: Store) -> None:
        one_executor, other = register(reported), register(reported)
        assert reported.ask(ListOpenSteps()) == OpenSteps(())
        first, second = open_step(one_executor, 1, started_at=10), open_step(one_executor, 2, started_at=30)
        third = open_step(other, 1, started_at=20)
        put(reported, one_executor, first, second, unlisted_count=5)
        put(reported, other, third, unlisted_count=2)
        assert reported.ask(ListOpenSteps()) == OpenSteps((first, third, second), 7)
        assert reported.ask(ListOpenSteps(1)).steps == (first, third)
        assert reported.ask(ListOpenSteps(3)).steps == ()
        put(reported, one_executor, second)
        assert reported.ask(ListOpenSteps()) == OpenSteps((third, second), 2)
        put(reported, other)
        put(reported, one_executor)
        assert reported.ask(ListOpenSteps()) == OpenSteps(())

    def test_a_step_is_told_with_whatever_name_and_branch_it_has(self, reported: Store) -> None:
        executor = register(reported)
        steps = tuple(open_step(executor, 1, name, branch=f"in/{name}") for name in STRANGE)
        put(reported, executor, *steps, open_step(executor, 2, branch="deep#0/" * 500))
        assert set(reported.ask(ListOpenSteps(1)).steps) == set(steps)
        assert [len(step.key.branch) for step in reported.ask(ListOpenSteps(2)).steps] == [3500]

    def test_of_an_executor_that_has_left_nothing_is_told_any_more(self, reported: Store) -> None:
        executor = register(reported)
        put(reported, executor, open_step(executor, 1))
        one(reported, ReapExecutor(executor=executor, crashed=False, now=90))
        put(reported, executor, open_step(executor, 1))  # which was on its way
        put(reported, executor + 100, open_step(executor + 100, 1))
        assert reported.ask(ListOpenSteps()) == OpenSteps(())

    def test_what_the_last_dead_executors_were_at_is_told(self, tmp_path: Path, reported: Store) -> None:
        dying = self.reopen(tmp_path)
        if dying is None:
            pytest.skip("its data end with it")
        with closing(dying):
            dying.open()
            executors = [register(dying) for _ in range(_DEAD_KEPT + 1)]
            for executor in executors:
                put(dying, executor, open_step(executor, executor, started_at=executor), unlisted_count=1)
        living = register(reported)
        put(reported, living, open_step(living, 99, started_at=99), unlisted_count=1)
        for executor in executors:
            death = DeathRow(executor=executor, pid=1, host="h", stage=DeathStage.DIED, teller="a")
            assert one(reported, ReapExecutor(executor=executor, death=death, now=90)) == 0
        told = reported.ask(ListOpenSteps())
        assert [(step.executor, step.is_alive) for step in told.steps] == [
            *((executor, False) for executor in executors[1:]),
            (living, True),
        ]
        assert told.unlisted_count == 1

    def test_who_becomes_another_executor_is_at_nothing_any_more(self, reported: Store) -> None:
        executor = register(reported)
        put(reported, executor, open_step(executor, 1))
        death = DeathRow(executor=executor, pid=1, host="h", stage=DeathStage.SILENT, teller="a")
        one(reported, ReapExecutor(executor=executor, death=death, now=90))
        register(reported)
        assert not any(step.is_alive for step in reported.ask(ListOpenSteps()).steps)

    def test_what_is_reported_of_steps_is_no_change_of_any_run(self, reported: Store) -> None:
        start(reported)
        executor = register(reported)
        cursor = reported.ask(FindCursor())
        put(reported, executor, open_step(executor, 1))
        assert changed_since(reported, cursor) == set()
