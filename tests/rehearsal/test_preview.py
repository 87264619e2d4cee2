"""A server that begins with code that its store has not seen tells once what of a sample would be refused."""

from __future__ import annotations

import pytest
import trio

from durable_trio import Context, Engine, Workflow, open_engine, workflow
from durable_trio.engine.services import janitor
from durable_trio.rehearsal.preview import Preview
from tests.engine.harness import PATIENCE_SECONDS, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")

CAUSE = "recorded is step charge, the code waits in step charge card"


def order(name: str) -> Workflow[[], None]:
    """Return code whose step has a name that only its closure tells."""

    @workflow(name="order")
    async def made(ctx: Context) -> None:
        await ctx.step(name, lambda: None)
        await ctx.wait_signal("packed")

    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What each server has told when it has looked ahead, which it does at once here."""
    found: list[str] = []
    tell = Preview.tell

    async def noted(self: Preview) -> None:
        caplog.clear()
        await tell(self)
        found.append("; ".join(record.getMessage() for record in caplog.records if "new code" in record.getMessage()))

    monkeypatch.setattr(Preview, "tell", noted)
    monkeypatch.setattr(janitor, "_FIRST_LOOK_SECONDS", 0.0)
    return found


async def serve(path: str, code: Workflow[[], None], told: list[str], *, starts: int = 0) -> str:
    """Serve until that is looked at, and return what was told."""
    count = len(told)
    async with open_engine(path, workflows=[code]) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            while len(told) == count:  # noqa: ASYNC110  # a service tells nobody that it is done
                await trio.sleep(0.005)
        for number in range(starts):
            await engine.start("order", id=f"order-{number}")
        await wait_passivated(engine)
    return told[-1]


async def test_what_new_code_would_refuse_is_told_once(file_path: str, told: list[str]) -> None:
    assert await serve(file_path, order("charge"), told, starts=3) == ""
    found = await serve(file_path, order("charge card"), told)
    assert found.startswith("new code: of a sample of 3 unfinished runs 3 would not go on: 3 of order diverge")
    assert CAUSE in found
    assert "order-0" in found
    assert await serve(file_path, order("charge card"), told) == ""  # by whoever has brought it
    assert await serve(file_path, order("charge"), told) == ""


async def test_new_code_that_fits_is_not_worth_a_line(file_path: str, told: list[str]) -> None:
    @workflow(name="order")
    async def same(ctx: Context) -> None:
        """Other code, which does the same."""
        await ctx.step("charge", lambda: 1)
        await ctx.wait_signal("packed")

    await serve(file_path, order("charge"), told, starts=2)
    assert await serve(file_path, same, told) == ""


async def test_it_executes_and_changes_nothing(file_path: str, told: list[str]) -> None:
    await serve(file_path, order("charge"), told, starts=2)
    await serve(file_path, order("charge card"), told)
    async with Engine(file_path) as client:
        for number in range(2):
            run = client.get(f"order-{number}")
            assert [str(step.key) for step in await run.steps()] == ["charge#0"]
            assert (await run.record()).problem is None


async def test_runs_of_versions_that_other_servers_have_are_not_what_new_code_refuses(
    file_path: str, told: list[str]
) -> None:
    @workflow(name="order", version=1)
    async def newer(ctx: Context) -> None:
        await ctx.step("charge card", lambda: None)

    await serve(file_path, order("charge"), told, starts=2)
    assert await serve(file_path, newer, told) == ""
