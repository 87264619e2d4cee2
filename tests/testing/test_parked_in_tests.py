"""A test whose run is parked fails with the reason, instead of waiting for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from durable_trio import Context, Observer, RunParked, open_engine, workflow
from durable_trio.testing.engines import DurableEngine, ParkedRun
from tests.engine.harness import PATIENCE_SECONDS, wait_parked
from tests.testing.test_pytest_plugin import run_tests

pytestmark = pytest.mark.usefixtures("no_leaks")


@workflow(name="order")
async def before(ctx: Context) -> None:
    await ctx.sleep(0, name="old")
    await ctx.wait_signal("go")


@workflow(name="order")
async def after(ctx: Context) -> None:
    await ctx.sleep(0, name="new")
    await ctx.wait_signal("go")


durable_engine = DurableEngine(has_virtual_time=False)


@pytest.fixture
async def path(file_path: str) -> str:
    """The path of a store with a run that ``after`` does not fit."""
    async with open_engine(file_path, workflows=[before]) as engine:
        run = await engine.start(before, id="order-7")
        while not await run.steps():  # noqa: ASYNC110
            await trio.sleep(0.01)
    return file_path


async def test_the_block_that_waits_for_it_ends_with_the_reason(path: str) -> None:
    async def wait() -> None:
        async with durable_engine(after, store=path) as engine:
            await engine.get("order-7").signal("go")
            await engine.get("order-7").result()

    with pytest.raises(ParkedRun) as failure, trio.fail_after(PATIENCE_SECONDS):
        await wait()
    text = str(failure.value)
    assert text.startswith("run 'order-7' of workflow 'order' is parked (divergence), and does not end by itself: ")
    assert "> sleep old#0" in text
    assert "durable_engine(…, may_park=True)" in text


async def test_a_test_that_is_about_it_goes_on(path: str) -> None:
    async with durable_engine(after, store=path, may_park=True) as engine:
        await engine.get("order-7").signal("go")
        record = await wait_parked(engine.get("order-7"))
        assert record.problem is not None


async def test_observers_of_the_test_are_told_as_well(path: str) -> None:
    seen: list[str] = []

    class Seeing(Observer):
        def run_parked(self, event: RunParked) -> None:
            seen.append(event.run_id)

    async def wait() -> None:
        async with durable_engine(after, store=path, observers=[Seeing()]) as engine:
            await engine.get("order-7").signal("go")
            await trio.sleep_forever()

    with pytest.raises(ParkedRun), trio.fail_after(PATIENCE_SECONDS):
        await wait()
    assert seen == ["order-7"]


async def test_what_the_test_itself_raises_comes_out(path: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with durable_engine(after, store=path):
            raise ZeroDivisionError


def test_an_engine_of_a_fixture_fails_its_test_too(tmp_path: Path) -> None:
    said = run_tests(
        tmp_path,
        """
@workflow
async def impatient(ctx: Context) -> None:
    await trio.sleep_forever()

@pytest.fixture
async def engine(durable_engine):
    async with durable_engine(impatient, strict=True) as engine:
        yield engine

async def test_it(engine):
    await engine.run(impatient)
""",
    )
    assert "1 failed" in said or "1 error" in said, said
    assert "of workflow 'impatient' is parked (foreign_wait), and does not end by itself" in said, said
