"""The janitor has sleeping runs forget which code has refused them, once nobody has that code any more."""

from __future__ import annotations

import pytest
import trio

from durable_trio import Context, Engine, Workflow, open_engine, workflow
from durable_trio.engine.services import dead_codes, janitor
from durable_trio.stores.code_questions import ListRefusedSets
from tests.engine.harness import PATIENCE_SECONDS, wait_parked, wait_passivated

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


def order(step: str) -> Workflow[[], None]:
    """Return code whose step has a name that only its closure tells."""

    @workflow(name="order")
    async def made(ctx: Context) -> None:
        await ctx.step(step, lambda: None)
        await ctx.wait_signal("packed")
        await ctx.wait_signal("shipped")

    return made


async def refused(engine: Engine) -> list[set[int]]:
    """Return which sets of codes have refused runs."""
    return [set(each.codes) for each in await engine._client.services_in_use().writer.ask(ListRefusedSets())]


async def deploy(path: str, code: Workflow[[], None], new: Workflow[[], None], run_id: str) -> None:
    """Have new code try a run first, and code that it fits take it on, before both end."""
    async with open_engine(path, workflows=[code]) as engine:
        await engine.start("order", id=run_id)
        await wait_passivated(engine)
    async with open_engine(path, workflows=[new]) as other:
        await other.get(run_id).signal("packed")
        await wait_parked(other.get(run_id))
        async with open_engine(path, workflows=[code]) as engine:
            run = engine.get(run_id)
            with trio.fail_after(PATIENCE_SECONDS):
                while [wait.key for wait in await run.waits()] != ["shipped#0"]:  # noqa: ASYNC110
                    await trio.sleep(0.005)


@pytest.mark.parametrize("pieces_max", [1, 20])
async def test_deploys_leave_no_group_of_runs_behind_for_each(
    file_path: str, monkeypatch: pytest.MonkeyPatch, pieces_max: int
) -> None:
    monkeypatch.setattr(dead_codes, "_PIECES_MAX", pieces_max)
    monkeypatch.setattr(janitor, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(janitor, "_FIRST_LOOK_SECONDS", 3600)
    code = order("charge")
    for day in range(3):
        await deploy(file_path, code, order(f"charge {day}"), f"order-{day}")
    async with Engine(file_path) as client:
        assert list(map(len, await refused(client))) == [1, 1, 1]
    # Of another workflow: nobody may fit them, so they are parked, and people are told why.
    other = workflow(name="other")(order("charge").fn)
    async with open_engine(file_path, workflows=[other]) as engine:
        await dead_codes.forget_dead_codes(engine._client.services_in_use().writer, now=0)
        assert len((await engine.status()).parked) == 3
    monkeypatch.setattr(janitor, "_FIRST_LOOK_SECONDS", 0)
    async with open_engine(file_path, workflows=[code]) as engine:
        with trio.fail_after(PATIENCE_SECONDS):
            while await refused(engine):  # noqa: ASYNC110  # a service tells nobody that it is done
                await trio.sleep(0.005)
        assert [wait.key for wait in await engine.get("order-0").waits()] == ["shipped#0"]
        await engine.get("order-0").signal("shipped")
        await engine.get("order-0").result()
