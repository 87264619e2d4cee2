"""Faults and orders to stop that come at awkward moments: while the tree is opened, or while part of it comes back."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from durable_trio import Clock, Context, Engine, StoreCorrupt, StoreError, processes, workflow
from durable_trio.clock import MICROSECONDS
from durable_trio.engine.runs.service import Runs
from durable_trio.engine.services import recovery
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.recovery import Reaper, Recovery
from durable_trio.stores.contract import ClaimDue, Operation, ReapExecutor, RegisterExecutor, StartRun, Store
from durable_trio.stores.questions import Backlog, CountBacklog
from durable_trio.testing.store_contract.kit import codes_of, start_operation
from durable_trio.testing.wrapping import WrappedStore
from durable_trio.workflows import Registry
from tests.engine.harness import PATIENCE_SECONDS, SettableClock, executor_of, serving, wait_until
from tests.kit.stores import store_at

executed: list[str] = []


async def note(name: str) -> None:
    executed.append(name)
    await trio.sleep(0.1)


@workflow
async def two_steps(ctx: Context) -> str:
    await ctx.step("first", note, "first")
    await ctx.step("second", note, "second")
    return "done"


@workflow
async def nothing(ctx: Context) -> str:
    return "done"


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


async def test_when_the_runs_child_crashes_alone_its_runs_are_taken_over(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store lives on, and with it the executor that owned them; nobody else would ever look for them."""
    run, is_lit = Runs.run, trio.Event()

    async def run_until_lit(self: Runs, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(run.__get__(self))
            task_status.started()
            await is_lit.wait()
            raise RuntimeError("the runs child has a fault")

    monkeypatch.setattr(Runs, "run", run_until_lit)
    async with serving(store_path, two_steps) as engine:
        started = await engine.start(two_steps)
        await wait_until(lambda: executed == ["first"])
        before = (await engine.status()).executors
        lit, is_lit = is_lit, trio.Event()
        lit.set()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await started.result() == "done"
        after = (await engine.status()).executors
    assert executed[-1] == "second"
    assert len(before) == len(after) == 1
    assert before[0].id != after[0].id


class CrashingStore(WrappedStore):
    """A store whose next write crashes, as a fault of the program would make it."""

    crashes = False

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Crash, or commit."""
        if self.crashes:
            self.crashes = False
            raise RuntimeError("the writer has a fault")
        return self.inner.apply(batch, block=block)


async def test_a_run_that_is_started_before_the_next_registration_is_executed_once(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the former executor would claim now is taken from it a moment later, with a step in flight."""
    register, is_waiting, may_go_on = Recovery.register, trio.Event(), trio.Event()

    async def register_late(self: Recovery) -> None:
        is_waiting.set()
        await may_go_on.wait()
        await register(self)

    store = CrashingStore(store_at(store_path))
    async with serving(store, two_steps) as engine:  # type: ignore[arg-type]
        monkeypatch.setattr(Recovery, "register", register_late)
        store.crashes = True
        with pytest.raises(StoreError):
            await engine.start(two_steps, id="before")
        with trio.fail_after(PATIENCE_SECONDS):
            await is_waiting.wait()
            run = await engine.start(two_steps, id="between")
            await trio.testing.wait_all_tasks_blocked(0.02)
            may_go_on.set()
            assert await run.result() == "done"
        assert (await run.record()).recoveries == 0
    assert executed == ["first", "second"]


class SlowStore(WrappedStore):
    """A store in which the start of one run waits for a gate."""

    def __init__(self, inner: Store, run_id: str) -> None:
        super().__init__(inner)
        self.run_id = run_id
        self.is_slow = False
        self.is_entered = threading.Event()
        self.gate = threading.Event()

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit, perhaps late; never late on the event loop."""
        if self.is_slow and any(isinstance(item, StartRun) and item.id == self.run_id for item in batch):
            if not block:
                return None
            self.is_entered.set()
            assert self.gate.wait(PATIENCE_SECONDS)
        return self.inner.apply(batch, block=block)


async def test_a_place_that_was_kept_for_nothing_is_filled(file_path: str) -> None:
    """The start of a run that is there already holds the only place while another one becomes due."""
    store = SlowStore(store_at(file_path), "known")
    async with serving(store, nothing, concurrency=1) as engine:  # type: ignore[arg-type]
        with trio.fail_after(PATIENCE_SECONDS):
            await (await engine.start(nothing, id="known")).result()
            due = await engine.start(nothing, id="due", delay=0.1)
            store.is_slow = True
            async with trio.open_nursery() as nursery:

                async def start_again() -> None:
                    await engine.start(nothing, id="known")

                nursery.start_soon(start_again)
                await wait_until(store.is_entered.is_set)
                await trio.sleep(0.3)  # it becomes due, and is looked for in vain
                store.gate.set()
            assert await due.result() == "done"


class CorruptStore(WrappedStore):
    """A store that is found to be damaged by the first claim."""

    def open(self) -> None:
        """Open it with a run that is due."""
        self.inner.open()
        self.inner.apply([start_operation(workflow=nothing.name)])

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Fail for good, or commit."""
        if any(isinstance(item, ClaimDue) for item in batch):
            raise StoreCorrupt("the file is damaged")
        return self.inner.apply(batch, block=block)


async def test_a_final_fault_of_the_store_while_the_tree_is_opened_ends_serve_with_it(store_path: str) -> None:
    engine = Engine(CorruptStore(store_at(store_path)), workflows=[nothing])
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:
        await engine.serve()
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StoreCorrupt)


@contextmanager
def turn_taken(path: str) -> Iterator[None]:
    """Have the write turn of a file, as a process does that is stopped."""
    descriptor = os.open(f"{path}-turn", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@pytest.mark.on_sqlite("another program holds its file")
@pytest.mark.parametrize("how", ["cancelled", "told by a signal"])
async def test_serve_ends_at_once_while_it_waits_for_the_file(file_path: str, how: str) -> None:
    """It would wait for its write turn for half a minute."""
    async with serving(file_path, nothing) as engine:
        await engine.run(nothing)
    began = time.monotonic()
    waiting = Engine(file_path, workflows=[nothing])
    with turn_taken(file_path):
        if how == "cancelled":
            with trio.move_on_after(0.3) as scope:
                await waiting.serve()
            assert scope.cancelled_caught
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: waiting.serve(signals=[signal.SIGUSR1]))
                await trio.sleep(0.3)
                os.kill(os.getpid(), signal.SIGUSR1)
        assert time.monotonic() - began < 25
    with pytest.raises(trio.ClosedResourceError):
        await waiting.serve()
    async with serving(file_path, nothing) as engine:  # what was opened too late is in nobody's way
        assert await engine.run(nothing) == "done"
        assert len((await engine.status()).executors) == 1


async def test_a_service_of_reports_that_finds_no_room_lives_on(file_path: str) -> None:
    """It removes what dead processes have left; that is no fault of its own."""
    engine = Engine(file_path)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            services = engine._client.services
            assert services is not None
            reports = services.reports

            async def refuse(*_: Any) -> None:
                raise StoreError("no room")

            reports._writer = _Writer(refuse)  # type: ignore[assignment]
            await reports._remove_dead()
            nursery.cancel_scope.cancel()


class _Writer:
    """A writer with nothing but answers."""

    def __init__(self, ask: Any) -> None:
        self.ask = ask
        self.store = store_at(":memory:")


async def test_each_run_that_comes_is_yielded_to_others_anew() -> None:
    """Also if the one before was taken by them: else every other run would stay with whoever has most."""
    clock = SettableClock()
    backlogs: list[Backlog] = []

    async def ask(_: CountBacklog) -> Backlog:
        return backlogs.pop(0)

    def backlog(due_count: int) -> Backlog:
        return Backlog(next_due_at=None, due_count=due_count, owned_counts={1: 5}, executor_count=2)

    class Served:
        all = codes_of("work")

    class Full:
        busy_count = 5
        served = Served()

    class Alarms:
        def call_at(self, *_: Any) -> None:
            """It is the test that looks again."""

    class Reaper:
        others_count = 1

    class NotAlone:
        executor = 1
        reaper = Reaper()

    dispatcher = Dispatcher(
        writer=_Writer(ask),  # type: ignore[arg-type]
        runs=Full(),  # type: ignore[arg-type]
        recovery=NotAlone(),  # type: ignore[arg-type]
        timers=Alarms(),  # type: ignore[arg-type]
        clock=clock,
        registry=Registry([nothing]),
    )
    for _ in range(3):
        backlogs += [backlog(1), backlog(0)]
        assert await dispatcher._claimable_count() == 0  # left to the other one
        clock.advance(1)
        assert await dispatcher._claimable_count() == 0  # which has taken it
    backlogs += [backlog(1), backlog(1)]
    assert await dispatcher._claimable_count() == 0
    clock.advance(1)
    assert await dispatcher._claimable_count() == 1  # nobody has


async def test_who_looks_for_the_first_time_gives_the_living_time_to_renew(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was busy for longer than a lease has kept them from it; then somebody comes who has waited too."""
    now = processes.monotonic_now()
    monkeypatch.setattr(recovery, "monotonic_now", lambda: now)
    async with serving(file_path) as engine:
        services = engine._client.services
        assert services is not None
        row = RegisterExecutor(pid=1, host="", lease=MICROSECONDS, now=Clock().now())
        living = await services.writer.write(row)  # its lock is held, as by a process that lives
        now += 60 * MICROSECONDS
        newcomer = Reaper(services.writer, Clock())
        assert not await newcomer.reap_dead(executor_of(engine).id)
        assert newcomer.others_count == 1
        for _ in range(4):
            now += MICROSECONDS // 4
            await newcomer.reap_dead(executor_of(engine).id)
        assert newcomer.others_count == 0  # it had time, and hangs
        # It was done before.
        assert await services.writer.write(ReapExecutor(executor=living, now=Clock().now())) is None


async def test_who_was_declared_dead_goes_on_though_a_step_in_a_thread_goes_on_too(file_path: str) -> None:
    """Its lease was lost; the step is not waited for, and new runs are not held up by it."""
    entered, release = threading.Event(), threading.Event()

    @workflow
    async def slow(ctx: Context) -> str:
        return await ctx.step("slow", enter)

    def enter() -> str:
        entered.set()
        release.wait(PATIENCE_SECONDS)
        return "slept"

    async with serving(file_path, slow, nothing) as engine:
        try:
            run = await engine.start(slow)
            await wait_until(entered.is_set)
            (executor,) = (await engine.status()).executors
            services = engine._client.services
            assert services is not None
            await services.writer.write(ReapExecutor(executor=executor.id, now=0))
            executor_of(engine).recovery.nudge()
            await wait_until(lambda: executor_of(engine).id != executor.id)
            with trio.fail_after(PATIENCE_SECONDS / 2):
                assert await engine.run(nothing) == "done"
        finally:
            release.set()
        with trio.fail_after(PATIENCE_SECONDS):
            assert await run.result() == "slept"
