"""What was claimed and never told is given back, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
import trio

from durable_trio import Context, open_engine, workflow
from durable_trio.errors import StoreAway
from durable_trio.stores.contract import Operation, Release, StartRun
from durable_trio.stores.questions import ListOwned, Question
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, executor_of, noted, wait_until
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")

T = TypeVar("T")


class LookedAtBetween(WrappedStore):
    """Answers which runs an executor owns once a start is committed, and tells of that start only after it."""

    def __init__(self, path: str) -> None:
        super().__init__(store_at(path, durability="normal"))
        self.is_armed = False
        self._is_committed, self._is_listed = threading.Event(), threading.Event()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        is_start = self.is_armed and any(isinstance(operation, StartRun) for operation in batch)
        if is_start and not block:
            return None
        outcomes = self.inner.apply(batch, block=block)
        if is_start:
            self._is_committed.set()
            assert self._is_listed.wait(PATIENCE_SECONDS)
            threading.Event().wait(0.05)  # until the answer is looked at: sooner only shows less
            self.is_armed = False
        return outcomes

    def ask(self, question: Question[T]) -> T:
        is_look = self.is_armed and isinstance(question, ListOwned)
        if is_look:
            assert self._is_committed.wait(PATIENCE_SECONDS)
        answer = self.inner.ask(question)
        if is_look:
            self._is_listed.set()
        return answer


class AwayOnce(WrappedStore):
    """Cannot be reached when it is asked for the first time which runs an executor owns."""

    count = 0

    def ask(self, question: Question[T]) -> T:
        if isinstance(question, ListOwned):
            self.count += 1
            if 2 <= self.count <= 3:  # the first one is that of the beginning
                raise StoreAway("the database does not answer")
        return self.inner.ask(question)


async def test_a_run_that_is_just_being_started_is_not_given_back(file_path: str) -> None:
    done: list[str] = []

    @workflow
    async def steps(ctx: Context) -> str:
        await ctx.step("one", noted, done, ctx.run_id, None)
        return await ctx.step("two", lambda: "done")

    store = LookedAtBetween(file_path)
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(store, workflows=[steps]) as engine:
            await (await engine.start(steps, id="first")).result()
            dispatcher = executor_of(engine).dispatcher
            store.is_armed = True
            dispatcher.look_for_lost()
            run = await engine.start(steps, id="second")
            assert await run.result() == "done"
            assert done == ["first", "second"]


async def test_it_is_looked_again_if_that_look_was_in_vain(file_path: str) -> None:
    @workflow
    async def nothing(ctx: Context) -> None:
        return None

    store = AwayOnce(store_at(file_path, durability="normal"))
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_engine(store, workflows=[nothing], away_seconds_max=0.001) as engine:
            await wait_until(lambda: store.count == 1)
            executor_of(engine).dispatcher.look_for_lost()
            await wait_until(lambda: store.count == 4)


class SlowToGiveBack(WrappedStore):
    """Commits that a run is given back only after a while."""

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        if any(isinstance(operation, Release) for operation in batch):
            if not block:
                return None
            threading.Event().wait(0.2)  # until those have looked that look too early: sooner only shows less
        return self.inner.apply(batch, block=block)


async def test_what_is_given_back_is_looked_for_once_that_is_committed(file_path: str) -> None:
    """Else nobody would look again before something else happens."""

    @workflow
    async def nothing(ctx: Context) -> str:
        return "done"

    async with open_engine(SlowToGiveBack(store_at(file_path, durability="normal")), workflows=[nothing]) as engine:
        services = engine._client.services_in_use()
        operation, _ = engine._client._start_operation(nothing, (), {"id": "lost"}, services)
        operation.owner = executor_of(engine).recovery.executor
        await services.writer.write(operation)
        executor_of(engine).dispatcher.look_for_lost()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("lost").result() == "done"
