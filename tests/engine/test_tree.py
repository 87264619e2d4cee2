"""The supervision tree at work: what crashes is started again, and who depends on it goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, StoreError, workflow
from durable_trio.engine.services.dispatcher import Dispatcher
from durable_trio.engine.services.feed import Feed
from durable_trio.engine.services.janitor import Janitor
from durable_trio.engine.services.recovery import Recovery
from durable_trio.engine.services.timers import Timers
from durable_trio.stores.contract import ClaimDue, Store
from durable_trio.testing.wrapping import WrappedStore
from tests.engine.harness import PATIENCE_SECONDS, executor_of, serving, wait_until
from tests.kit.stores import store_at

executed: list[str] = []


async def note(name: str) -> str:
    executed.append(name)
    return name


@workflow
async def everything(ctx: Context, name: str) -> str:
    """Steps, a sleep and a signal: each service has something to do."""
    await ctx.step("first", note, f"{name}/first")
    await ctx.sleep(0.05)
    greeting = await ctx.wait_signal("greeting", str)
    await ctx.step("last", note, f"{name}/last")
    return greeting


@workflow
async def slow(ctx: Context, seconds: float) -> str:
    await ctx.step("first", note, "first")
    await ctx.step("nap", trio.sleep, seconds)
    return "done"


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


class CrashingStore(WrappedStore):
    """A store whose ``apply`` crashes, as a fault of the program would make it, when it is told to."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.crashes: list[str] = []

    def apply(self, batch: Sequence[Any], *, block: bool = True) -> list[Any] | None:
        """Crash before or after the commit."""
        if "before" in self.crashes:
            self.crashes.remove("before")
            raise RuntimeError("the writer has a fault")
        outcomes = self.inner.apply(batch, block=block)
        is_claim = any(isinstance(operation, ClaimDue) for operation in batch)
        for when in ("after", "after a claim"):
            if when in self.crashes and outcomes is not None and (is_claim or when == "after"):
                self.crashes.remove(when)
                raise RuntimeError("the writer has a fault")
        return outcomes


async def ask_again(call: Any, *args: Any, **options: Any) -> Any:
    """Ask until there is an answer: the store's error says that it is not known what was done."""
    while True:
        try:
            return await call(*args, **options)
        except StoreError:
            await trio.sleep(0.02)


@pytest.mark.parametrize("when", ["before", "after", "after a claim"])
async def test_when_the_store_crashes_runs_go_on_under_another_executor(store_path: str, when: str) -> None:
    """Callers get ``StoreError`` or their answer, nobody hangs, nothing is lost."""
    store = CrashingStore(store_at(store_path))
    results: dict[str, str] = {}

    async def ask(engine: Engine, name: str) -> None:
        await ask_again(engine.start, everything, name, id=name, delay=0.02)
        await ask_again(engine.send_signal, name, "greeting", f"hello {name}", id="one")
        results[name] = await ask_again(engine.get(name).result)

    async with serving(store, everything) as engine:  # type: ignore[arg-type]
        with trio.fail_after(PATIENCE_SECONDS):
            await engine.start(everything, "early", id="early")
            await wait_until(lambda: "early/first" in executed)
            before = (await engine.status()).executors
            store.crashes.append(when)
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(ask, engine, f"run-{number}")
                nursery.start_soon(ask, engine, "early")
            assert not store.crashes
            after = (await engine.status()).executors
    assert len(results) == 11
    assert all(result == f"hello {name}" for name, result in results.items())
    assert [one.is_self for one in before] == [one.is_self for one in after] == [True]
    assert before[0].id != after[0].id


SERVICES: dict[str, Any] = {
    "timers": Timers,
    "recovery": Recovery,
    "feed": Feed,
    "dispatcher": Dispatcher,
    "janitor": Janitor,
}


class Bomb:
    """Makes a service crash, wherever it happens to be."""

    def __init__(self, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.start_count = 0
        self._run = service.run
        self._lit = trio.Event()
        bomb = self

        async def run(self: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with trio.open_nursery() as nursery:
                if service is Janitor:
                    nursery.start_soon(bomb._run, self)
                else:
                    await nursery.start(bomb._run, self)
                task_status.started()
                bomb.start_count += 1
                await bomb._lit.wait()
                raise RuntimeError("the service has a fault")

        monkeypatch.setattr(service, "run", run)

    async def explode(self) -> None:
        """Make the service crash, and wait until it has been started again."""
        count = self.start_count
        self._lit.set()
        self._lit = trio.Event()
        await wait_until(lambda: self.start_count > count)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_crashes_is_started_again(
    store_path: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait for it go on waiting, and workflows work as before."""
    bomb = Bomb(SERVICES[service], monkeypatch)
    async with serving(store_path, everything) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            waiting = await engine.start(everything, "waiting", id="waiting")
            results: list[str] = []
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    results.append(await waiting.result())

                nursery.start_soon(wait)
                await wait_until(lambda: executed == ["waiting/first"])
                for _ in range(3):
                    await bomb.explode()
                await waiting.signal("greeting", "hello")
            assert results == ["hello"]
            later = await engine.start(everything, "later", id="later", delay=0.02)
            await later.signal("greeting", "again")
            assert await later.result() == "again"
    assert executed == ["waiting/first", "waiting/last", "later/first", "later/last"]


async def test_a_dispatcher_that_crashes_between_claim_and_start_loses_no_run(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(file_path, slow) as engine:
        runs = executor_of(engine).runs
        start, crashes = runs.start, [True, True]

        def start_or_crash(*args: Any) -> None:
            if crashes:
                crashes.pop()
                raise RuntimeError("the dispatcher has a fault")
            start(*args)

        monkeypatch.setattr(runs, "start", start_or_crash)
        async with Engine(file_path) as client:
            started = [await client.start("slow", 0.01, id=f"run-{number}") for number in range(5)]
            with trio.fail_after(PATIENCE_SECONDS):
                for run in started:
                    assert await run.result() == "done"
        assert not crashes


_PROGRAM = """
import sys, trio
from durable_trio import Context, Engine, workflow
from tests.kit import stores
from durable_trio.engine.services.{module} import {name}

async def broken(self, **_):
    raise ZeroDivisionError("a fault that comes back")

{name}.run = broken
stores.offer()
trio.run(Engine(sys.argv[1]).serve)
"""


@pytest.mark.parametrize(
    ("module", "name", "child"),
    [("feed", "Feed", "feed"), ("timers", "Timers", "timers"), ("dispatcher", "Dispatcher", "dispatcher")],
)
def test_too_many_crashes_end_the_program_and_name_the_child(
    file_path: str, tmp_path: Path, module: str, name: str, child: str
) -> None:
    program = tmp_path / "app.py"
    program.write_text(_PROGRAM.format(module=module, name=name))
    ended = subprocess.run(
        [sys.executable, str(program), file_path],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={"PYTHONPATH": ":".join(item for item in sys.path if item)},
    )
    assert ended.returncode != 0
    assert "ExceptionGroup" in ended.stderr
    assert f"engine/services/{child}" in ended.stderr
    assert "a fault that comes back" in ended.stderr


async def test_too_many_crashes_of_the_store_end_serve_with_a_group(file_path: str) -> None:
    store = CrashingStore(store_at(file_path))
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with trio.open_nursery() as nursery:
            await nursery.start(Engine(store, workflows=[slow], lease_seconds=0.3).serve)
            store.crashes += ["before"] * 1000
    text = repr(caught.value)
    assert "RestartIntensityExceeded" in text
    assert "store" in text
