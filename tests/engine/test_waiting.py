"""Who waits for a run that nobody will execute is warned, once."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from durable_trio import Context, Engine, open_engine, workflow
from durable_trio.engine import waiting
from durable_trio.testing import VirtualClock
from tests.engine.harness import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("no_leaks")

LOGGER = "durable_trio.processes"


@workflow
async def quick(ctx: Context) -> int:
    return 1


@workflow
async def other(ctx: Context) -> None:
    pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.01)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if vars(record).get("event") == "nobody_serves"]


async def wait_warned(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    with trio.fail_after(PATIENCE_SECONDS):
        while not warnings(caplog):  # noqa: ASYNC110
            await trio.sleep(0.002)
    return warnings(caplog)[0]


async def test_a_client_is_told_that_nobody_serves_and_goes_on_waiting(
    impatient: None, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[Any] = []

    async def waits(client: Engine) -> None:
        results.append(await client.run(quick))

    async with Engine(file_path, workflows=[quick]) as client, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(waits, client)
        record = await wait_warned(caplog)
        assert (record.name, record.levelname, vars(record)["workflow"]) == (LOGGER, "WARNING", "quick")
        assert "durable-trio serve" in record.getMessage()
        async with open_engine(file_path, workflows=[quick]):
            with trio.fail_after(PATIENCE_SECONDS):
                while len(results) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.002)
    assert results == [1, 1]
    assert len(warnings(caplog)) == 1


async def test_that_those_who_serve_do_not_know_the_workflow_is_told_too(
    impatient: None, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_engine(file_path, workflows=[other]) as engine:
        run = await engine.start("quick")
        with trio.fail_after(PATIENCE_SECONDS):
            while not await engine._client.services_in_use().reports.read():  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.result)
            record = await wait_warned(caplog)
            nursery.cancel_scope.cancel()
    assert "knows that workflow" in record.getMessage()


async def test_nothing_is_told_where_somebody_serves(
    impatient: None, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow(name="waits")
    async def waits(ctx: Context) -> None:
        await ctx.wait_signal("go")

    async with (
        open_engine(file_path, workflows=[waits]) as engine,
        Engine(file_path, workflows=[waits]) as client,
        trio.open_nursery() as nursery,
    ):
        for side in (engine, client):
            run = await side.start(waits)
            nursery.start_soon(run.result)
        with trio.fail_after(PATIENCE_SECONDS):
            while client._client._waiting._looks_at == -math.inf:  # noqa: ASYNC110
                await trio.sleep(0.002)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert engine._client._waiting._looks_at == -math.inf  # it has the run itself
        nursery.cancel_scope.cancel()
    assert not warnings(caplog)


async def test_virtual_time_has_no_patience(
    autojump_clock: MockClock, file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(file_path, workflows=[quick], clock=VirtualClock()) as client:
        with trio.move_on_after(1000):
            await client.run(quick)
    assert not warnings(caplog)
