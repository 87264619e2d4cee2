"""Before a reload the code of the files is rehearsed, by the command that people use."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import trio

from durable_trio import Context, workflow
from durable_trio.engine.workers.parent import Workers
from durable_trio.engine.workers.rehearsing import rehearse
from durable_trio.engine.workers.reloads import ReloadFailed
from tests.engine.harness import PATIENCE_SECONDS, serving

_CAUSE = "recorded is step reserve, the code waits in step charge it first"
_APP = """
from durable_trio import Context, Engine, workflow

async def one() -> int:
    return 1

@workflow
async def order(ctx: Context) -> int:
    await ctx.step("{step}", one)
    return await ctx.wait_signal("go on")

engine = Engine("another.db", workflows=[order])
"""


async def one() -> int:
    return 1


@workflow
async def order(ctx: Context) -> int:
    await ctx.step("reserve", one)
    return int(await ctx.wait_signal("go on"))


@pytest.mark.on_sqlite("the command line opens a file")
async def test_runs_that_would_diverge_are_counted_and_those_that_go_on_are_no_hindrance(
    file_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those that did not before the change, so many of each cause."""
    before = tmp_path / "before.json"
    async with serving(file_path, order) as engine:
        for number in range(2):
            run = await engine.start(order, id=f"order-{number}")
            while not await run.waits():  # noqa: ASYNC110  # no event tells of it
                await trio.sleep(0.01)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    workers = Workers(app="rehearsed_shop:engine", count=1, grace_seconds=1, heartbeat_seconds=1)
    with trio.fail_after(PATIENCE_SECONDS):
        (tmp_path / "rehearsed_shop.py").write_text(_APP.format(step="reserve"))
        await rehearse(workers, file_path)
        (tmp_path / "rehearsed_shop.py").write_text(_APP.format(step="charge it first"))
        with pytest.raises(ReloadFailed) as caught:
            await rehearse(workers, file_path)
        assert str(caught.value).startswith("2 of 2 unfinished runs do not go on with the new code (2 diverge); ")
        group = {"workflow": "order", "version": 0, "verdict": "diverges", "cause": _CAUSE}
        before.write_text(json.dumps({"groups": [{**group, "count": 2}]}))
        await rehearse(workers, file_path, str(before))
        before.write_text(json.dumps({"groups": [{**group, "count": 1}]}))
        with pytest.raises(ReloadFailed, match=r"^1 of 2 unfinished runs .* \(1 diverges\), more than in "):
            await rehearse(workers, file_path, str(before))
        (tmp_path / "rehearsed_shop.py").write_text("import nothing_of_that_name")
        with pytest.raises(ReloadFailed, match=r"could not be rehearsed: .*nothing_of_that_name"):
            await rehearse(workers, file_path)
    assert not (tmp_path / "another.db").exists()
    assert "rehearsed_shop" not in sys.modules
