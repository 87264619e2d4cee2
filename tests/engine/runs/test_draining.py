"""Whoever waits for a process to drain is told for which steps."""

from __future__ import annotations

import logging

import pytest
import trio

from durable_trio import Context, workflow
from durable_trio.engine.runs import draining
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_until

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test need not wait for the first line."""
    monkeypatch.setattr(draining, "LINE_SECONDS", 0.01)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.__dict__.get("event") == "draining"]


async def test_a_drain_says_which_steps_it_waits_for_and_for_how_long_at_most(
    store_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    begun = trio.Event()

    async def ship() -> None:
        begun.set()
        await wait_until(lambda: told(caplog))

    @workflow
    async def order(ctx: Context) -> None:
        await ctx.step("ship", ship)

    with trio.fail_after(PATIENCE_SECONDS):
        async with serving(store_path, order, grace_seconds=PATIENCE_SECONDS) as engine:
            await engine.start(order, id="order-7")
            await begun.wait()
    record = told(caplog)[0]
    assert "draining: waits for step 'ship#0' of run 'order-7', for 0 s; " in record.getMessage()
    assert record.__dict__["seconds_left"] > PATIENCE_SECONDS / 2
    assert record.levelno == logging.INFO


async def test_a_drain_of_nothing_says_nothing(file_path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @workflow
    async def waiting(ctx: Context) -> None:
        await ctx.wait_signal("go")

    async with serving(file_path, waiting) as engine:
        await engine.start(waiting)
        await trio.sleep(0.05)
    assert told(caplog) == []
