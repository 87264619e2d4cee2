"""Who waits for a run that is in memory here is told of its end by the run itself, and reads nothing for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from durable_trio import Context, Engine, Run, RunStatus, open_engine, workflow
from durable_trio.engine.runs import resident as resident_module
from durable_trio.engine.runs.inbox import Notice
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.rules import residency
from durable_trio.stores.contract import Store
from durable_trio.stores.questions import FindRun, MailboxLook, Question
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_status, wait_until
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")


class CountingStore(WrappedStore):
    """Counts the reads of a whole run."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.reads = 0

    def ask(self, question: Question[Any]) -> Any:
        self.reads += isinstance(question, FindRun)
        return super().ask(question)


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


async def test_the_end_of_a_run_in_memory_is_not_read(store_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    store = CountingStore(store_at(store_path))
    async with open_engine(store, workflows=[waits]) as engine:
        run = await engine.start(waits)
        await run.signal("go", 1)
        assert await run.result() == 1
        assert store.reads == 0

        run = await engine.start(waits)
        results: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_result, run, results)
            await trio.testing.wait_all_tasks_blocked()
            await run.signal("go", 2)
        assert results == [2]
        assert store.reads == 0


async def _note_result(run: Any, results: list[Any]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        results.append(await run.result())


async def test_who_waits_for_a_run_that_leaves_memory_sees_its_end_after_that(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "IDLE_SECONDS", 0.0)
    async with serving(store_path, waits) as engine:
        run = await engine.start(waits)
        results: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_result, run, results)
            runs = executor_of(engine).runs
            await wait_status(run, RunStatus.SUSPENDED)
            await wait_until(lambda: runs.resident_count == 0)
            await run.signal("go", 3)
        assert results == [3]


async def test_an_end_is_told_though_a_task_of_the_run_takes_its_time_to_leave(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at its mailbox is one: a busy disk may take long for it, and the run is not to be waited for."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    async with serving(store_path, waits) as engine:
        run = await engine.start(waits)
        with _reading_slowly(monkeypatch) as reads:
            resident = await _only_resident(engine, run)
            resident.inbox.post(Notice.MAILBOX)
            await reads.wait()
            await run.signal("go", 4)
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == 4
            assert executor_of(engine).runs.has(resident.row.run)


async def test_the_end_of_a_run_that_was_removed_is_not_told_of_the_next_one_of_its_id(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last task leaves while the next one is in memory, which goes on: also the other runs do."""
    monkeypatch.setattr(residency, "IDLE_SECONDS", PATIENCE_SECONDS)
    async with serving(store_path, waits) as engine:
        runs = executor_of(engine).runs
        run = await engine.start(waits, id="same")
        with _reading_slowly(monkeypatch) as reads:
            before = await _only_resident(engine, run)
            before.inbox.post(Notice.MAILBOX)
            await reads.wait()
            await run.signal("go", "before")
            assert await run.result() == "before"
            assert await engine.prune(before=datetime.max.replace(tzinfo=UTC)) == 1
            run = await engine.start(waits, id="same")
        results: list[Any] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_result, run, results)
            await wait_until(lambda: not runs.has(before.row.run))
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            await run.signal("go", "after")
        assert results == ["after"]


async def _only_resident(engine: Engine, run: Run[Any]) -> ResidentRun:
    await wait_status(run, RunStatus.SUSPENDED)
    (resident,) = executor_of(engine).runs._actors.values()
    return resident


@contextmanager
def _reading_slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[trio.Event]:
    """Have a look at a mailbox take as long as the block; set the event once there is one."""
    reads, done = trio.Event(), trio.Event()

    async def read_slowly(self: ResidentRun) -> MailboxLook:
        with trio.CancelScope(shield=True):
            reads.set()
            await done.wait()
        return MailboxLook(0, ())

    with monkeypatch.context() as patch:
        patch.setattr(resident_module.ResidentRun, "read_mailbox", read_slowly)
        yield reads
    done.set()
