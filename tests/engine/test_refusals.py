"""Several codes on one file: a run goes to one that it fits, by itself, and is tried by each other once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, Observer, RunFailed, RunParked, RunStatus, Workflow, workflow
from durable_trio.stores.contract import RegisterExecutor
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked, wait_passivated, wait_until
from tests.kit.stores import store_at
from tests.kit.traces import effects, note, undo

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


def order(step: str, *, fails: bool = False) -> Workflow[[], str]:
    """Return code of the workflow "order" whose step has that name."""

    @workflow(name="order")
    async def made(ctx: Context) -> str:
        await ctx.step(step, note, step, compensate=undo)
        await ctx.wait_signal("go")
        if fails:
            raise ValueError("as it should")
        return step

    return made


def other() -> Workflow[[], str]:
    """Return code of the workflow "order" that no run with a history fits."""

    @workflow(name="order")
    async def made(ctx: Context) -> str:
        await ctx.sleep(0, name="otherwise")
        return "otherwise"

    return made


async def record_some(path: str, count: int, *steps: str) -> None:
    """Have runs begun by several codes, one after the other, and let them wait."""
    for step in steps:
        async with serving(path, order(step), build=step) as engine:
            for number in range(count):
                await engine.start("order", id=f"{step}-{number}")
            await wait_passivated(engine)


async def test_each_run_goes_on_with_the_code_that_it_fits_whoever_claims_it_first(file_path: str) -> None:
    await record_some(file_path, 6, "a", "b")
    effects.clear()
    async with serving(file_path, order("a"), build="a") as first, serving(file_path, order("b"), build="b") as second:
        runs = [first.get(f"{step}-{number}") for step in "ab" for number in range(6)]
        for run in runs:
            await run.signal("go")
        with trio.fail_after(PATIENCE_SECONDS):
            assert [await run.result() for run in runs] == ["a"] * 6 + ["b"] * 6
        assert (await second.status()).parked == ()
    assert not effects, "a step was executed twice"


async def test_what_is_given_back_is_told_quietly_and_what_is_parked_aloud_and_once(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durable_trio.runs")
    parked: list[str] = []

    class Listening(Observer):
        def run_parked(self, event: RunParked) -> None:
            parked.append(event.run_id)

    await record_some(file_path, 1, "a")
    async with (
        serving(file_path, order("b"), build="b", observers=[Listening()]) as first,
        serving(file_path, order("c"), build="c", observers=[Listening()]),
    ):
        run = first.get("a-0")
        await run.signal("go")
        record = await wait_parked(run)
        assert record.problem is not None
        assert (record.problem.kind, record.recoveries) == ("divergence", 0)
        await wait_until(lambda: parked)
    told = [each.event for each in caplog.records if hasattr(each, "event") and each.event.startswith("run_")]
    assert (told, parked) == (["run_given_back", "run_parked"], ["a-0"])


async def test_a_run_that_nobody_fits_rests_until_other_code_comes_beside_them(file_path: str) -> None:
    await record_some(file_path, 3, "a")
    async with serving(file_path, order("b"), build="b") as engine:
        runs = [engine.get(f"a-{number}") for number in range(3)]
        for run in runs:
            await run.signal("go")
            await wait_parked(run)
        before = [(await run.record()).problem for run in runs]
        await engine.send_signal("a-0", "again")
        async with serving(file_path, order("b"), build="b") as twin:
            await wait_passivated(twin)
        assert [(await run.record()).problem for run in runs] == before
        assert sorted((await engine.status()).parked) == ["a-0", "a-1", "a-2"]
        async with serving(file_path, order("a"), build="mended"):
            with trio.fail_after(PATIENCE_SECONDS):
                assert [await run.result() for run in runs] == ["a"] * 3
            assert (await engine.status()).parked == ()


async def test_a_run_that_is_refused_while_it_undoes_its_steps_undoes_them_later(file_path: str) -> None:
    """It stays compensating, so that it neither completes nor begins anew."""
    gate = trio.Event()

    @workflow(name="order")
    async def slow(ctx: Context) -> None:
        await ctx.step("a", note, "a", compensate=wait_for_gate)
        raise ValueError("as it should")

    async def wait_for_gate(_: Any) -> None:
        gate.set()
        await trio.sleep_forever()

    async with serving(file_path, slow, build="slow") as engine:
        await engine.start("order", id="run")
        await gate.wait()
    async with serving(file_path, other(), build="other") as engine:
        record = await wait_parked(engine.get("run"))
        assert record.status is RunStatus.COMPENSATING
        assert [each.id for each in (await engine.list_runs(parked=True)).runs] == ["run"]
        assert await engine.cancel("run") is False

    @workflow(name="order")
    async def mended(ctx: Context) -> None:
        await ctx.step("a", note, "a", compensate=undo)
        raise ValueError("as it should")

    async with serving(file_path, mended, build="mended") as engine:
        with pytest.raises(RunFailed), trio.fail_after(PATIENCE_SECONDS):
            await engine.get("run").result()
    assert list(effects) == ["a", "undo a"]


async def test_a_run_is_parked_when_the_last_code_that_it_fits_is_gone_and_goes_on_when_it_comes_back(
    file_path: str,
) -> None:
    await record_some(file_path, 1, "a")
    async with serving(file_path, other(), build="other") as engine:
        run = engine.get("a-0")
        async with serving(file_path, order("a"), build="a") as fitting:
            await engine.resume("a-0") if (await run.record()).problem else None
            await wait_passivated(fitting)
        await run.signal("go")
        assert (await wait_parked(run)).problem is not None
        async with serving(file_path, order("a"), build="a"):
            with trio.fail_after(PATIENCE_SECONDS):
                assert await run.result() == "a"


async def test_the_death_of_the_last_executor_with_fitting_code_tells_how_many_wait_for_it(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await record_some(file_path, 2, "a")
    async with serving(file_path, order("b"), build="b") as engine:
        store = store_at(file_path)
        store.open()
        codes = (("order", 0, "a"),)
        register = RegisterExecutor(pid=1, host="h", lease=2**60, codes=codes, now=1)
        store.apply([register])
        for number in range(2):
            await engine.get(f"a-{number}").signal("go")
        await wait_until(lambda: [each for each in caplog.records if "given back" in each.getMessage()][1:])
        assert (await engine.status()).parked == ()
        store.close()
        await wait_until(lambda: "2 runs now wait for such code as it had" in caplog.text)
        assert len((await engine.status()).parked) == 2


Ask = Callable[[Engine], Awaitable[Any]]


@pytest.mark.parametrize(
    "ask", [lambda engine: engine.resume("a-0"), lambda engine: engine.cancel("a-0")], ids=["resume", "cancel"]
)
async def test_a_persons_word_is_one_more_try_and_no_more(file_path: str, ask: Ask) -> None:
    await record_some(file_path, 1, "a")
    tries: list[int] = []

    @workflow(name="order")
    async def counted(ctx: Context) -> None:
        tries.append(1)
        await ctx.sleep(0, name="otherwise")

    async with serving(file_path, counted, build="other") as engine:
        run = engine.get("a-0")
        await run.signal("go")
        await wait_parked(run)
        assert len(tries) == 1
        await ask(engine)
        await wait_until(lambda: len(tries) == 2)
        await wait_parked(run)
        await wait_passivated(engine)
        assert len(tries) == 2
