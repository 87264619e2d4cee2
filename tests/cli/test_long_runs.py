"""A run with a long history is shown within a screen, unless all of it is asked for."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
import trio

from durable_trio import Context, RunFailed, workflow
from durable_trio.cli.run_view import run_view
from durable_trio.cli.screen import Screen
from durable_trio.records import Problem, RunStatus, StepKind, StepRecord, StepStatus, WaitRecord
from durable_trio.views.run import RunView
from tests.cli.desk import call
from tests.cli.test_top import NOW, record
from tests.engine.harness import serving

ITEMS = 150


async def take(number: int) -> int:
    if number % 50 == 7:
        raise ValueError(f"bad {number}")
    return number


@workflow
async def long(ctx: Context) -> None:
    await ctx.map("map", take, range(ITEMS), return_exceptions=True)
    for number in range(20):
        await ctx.step("each", take, number * 50)
    await ctx.step("last", take, 7)


async def _fill(path: str) -> None:
    async with serving(path, long, durability="normal") as engine:
        run = await engine.start(long, id="long")
        with pytest.raises(RunFailed):
            await run.result()


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("long") / "runs.db")
    trio.run(_fill, path)
    return path


def first_words(out: str) -> list[str]:
    """Return the labels of the timeline."""
    lines = out.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("STEP"))
    return [found[0].strip() for line in lines[begin + 1 :] if (found := re.match(r" *\S+( ×[\d,]+)?", line))]


def test_show_folds_it_by_name_and_status(db: str) -> None:
    said = call("--db", db, "show", "long")
    labels = first_words(said.out)
    assert labels[0] == "map#0"
    assert {"item ×147", "each ×20", "last#0"} <= set(labels)
    assert "item#7" in labels  # three have failed: that is few
    assert "ValueError: bad 107" in said.out
    assert said.out.splitlines()[-1].startswith("what is alike is shown as one; --all shows all")
    assert len(said.out.splitlines()) < 30


def test_show_all_shows_each(db: str) -> None:
    labels = first_words(call("--db", db, "show", "long", "--all").out)
    assert sum(label.startswith("item#") for label in labels) == ITEMS
    assert sum(label.startswith("each#") for label in labels) == 20


def test_show_failed_and_key_show_some_also_as_json(db: str) -> None:
    labels = first_words(call("--db", db, "show", "long", "--failed").out)
    assert [label for label in labels if "#" in label] == [
        "map#0",
        "item#7",
        "item#57",
        "item#107",
        "last#0",
    ]
    for words, keys in [
        (["--failed"], ["map#0/item#107", "map#0/item#57", "map#0/item#7", "last#0"]),
        (["--key", "last#0"], ["last#0"]),
        (["--key", "each"], [f"each#{number}" for number in range(20)]),
        (["--key", "map#0", "--failed"], ["map#0/item#107", "map#0/item#57", "map#0/item#7"]),
    ]:
        document = call("--db", db, "show", "long", *words, "--json").json
        assert sorted(step["key"] for step in document["steps"]) == sorted(keys)
    assert call("--db", db, "show", "long", "--key", "nothing", "--json").code == 1
    assert len(call("--db", db, "show", "long", "--json").json["steps"]) == ITEMS + 21


def _step(key: str, number: int, **fields: Any) -> StepRecord:
    known: dict[str, Any] = {"kind": StepKind.STEP, "status": StepStatus.COMPLETED, "attempt": 1, "result": None}
    began = NOW - timedelta(seconds=900 - number)
    return StepRecord(key=key, error=None, started_at=began, finished_at=began, **(known | fields))


def _view(**fields: Any) -> RunView:
    known: dict[str, Any] = {"record": record("run", status=RunStatus.RUNNING), "steps": (), "waits": (), "unread": ()}
    return RunView(**(known | {"children": (), "owner": None} | fields))


@pytest.mark.parametrize("height", [12, 24, 50])
def test_however_much_there_is_it_stays_within_the_screen(height: int) -> None:
    """Also where nothing can be folded, since all names are different."""
    steps = tuple(_step(f"step {number}#0", number) for number in range(300))
    screen = Screen(height=height)
    lines = [click.unstyle(line) for line in run_view(_view(steps=steps), NOW, screen)]
    assert len(lines) < height
    assert any("lines are left out" in line for line in lines)
    assert any(line.startswith("step 0#0") for line in lines)
    assert any(line.startswith("step 299#0") for line in lines)
    whole = run_view(_view(steps=steps), NOW, screen, is_whole=True)
    assert len(whole) > 300


def test_facts_of_one_kind_and_problems_are_bounded_too() -> None:
    run = record(
        "run",
        status=RunStatus.SUSPENDED,
        values={f"key-{number}": number for number in range(500)},
        problem=Problem(kind="divergence", text="\n".join(f"line {number}" for number in range(300))),
    )
    lines = [
        click.unstyle(line) for line in run_view(_view(record=run), NOW, Screen(height=40), how_to_see_all="press")
    ]
    assert len(lines) < 40
    assert any("… and 490 more; press" in line for line in lines)
    (number, hidden) = next((number, line) for number, line in enumerate(lines) if "more lines; press" in line)
    assert f"line {299 - int(hidden.split()[1])}" in lines[number - 1]
    assert len(run_view(_view(record=run), NOW, Screen(height=40), is_whole=True)) > 800


def test_a_map_that_goes_on_shows_how_far_it_is() -> None:
    steps = tuple(_step(f"load#0/item#{number}", number) for number in range(200))
    began = datetime(2026, 1, 1, tzinfo=UTC)
    going_on = WaitRecord(key="load#0", kind="map", due_at=None, attempt=0, error=None, started_at=began, total=5000)
    lines = [click.unstyle(line) for line in run_view(_view(steps=steps, waits=(going_on,)), NOW, Screen(height=24))]
    assert "load#0  200 of 5,000" in lines
