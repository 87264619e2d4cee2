"""A watch of overdue runs tells each once, when it becomes so, and costs next to nothing meanwhile."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Engine, open_engine
from durable_trio.engine import overdue as watching
from durable_trio.limits import OVERDUE_SECONDS
from durable_trio.stores.overdue_questions import ListOverdue
from durable_trio.stores.sqlite.answers import overdue
from durable_trio.testing import VirtualClock
from durable_trio.testing.wrapping import WrappedStore
from tests.cli.desk import call, command_line, surroundings
from tests.engine.watching.kit import gather, overdue_store, quick
from tests.kit.stores import store_at
from tests.kit.traces import virtual

pytestmark = pytest.mark.usefixtures("no_leaks")

_CAUGHT: Any = {"capture_output": True, "text": True, "timeout": 60, "check": True, "env": surroundings()}


async def seconds_until_told(changes: Any, run_id: str) -> float:
    began = trio.current_time()
    record = await anext(changes)
    assert record.id == run_id
    return trio.current_time() - began


async def test_a_run_is_told_when_it_becomes_overdue_and_once(autojump_clock: MockClock) -> None:
    """Nobody serves its workflow."""
    async with virtual(quick) as engine:
        await engine.start("nobody's", id="first")
        await engine.start("nobody's", id="later", delay=1000)
        async with engine.watch(overdue=True) as changes:
            assert await seconds_until_told(changes, "first") == pytest.approx(OVERDUE_SECONDS, abs=0.01)
            assert not changes.is_present
            await engine.start("nobody's", id="second")
            assert await seconds_until_told(changes, "second") == pytest.approx(OVERDUE_SECONDS, abs=0.01)
            assert await seconds_until_told(changes, "later") == pytest.approx(1000 - OVERDUE_SECONDS, abs=0.01)
            with trio.move_on_after(10_000) as scope:
                await anext(changes)
            assert scope.cancelled_caught


async def test_it_tells_why_nobody_takes_a_run(autojump_clock: MockClock) -> None:
    async with virtual(quick) as engine:
        await engine.start("nobody's", id="first")
        async with engine.watch(overdue=True) as changes:
            (record,) = await gather(changes, 1)
    (wait,) = record.waits_for
    assert wait.kind == "executor"
    assert wait.reason is not None
    assert "nobody's" in wait.reason


async def test_what_is_taken_or_left_out_is_not_told(autojump_clock: MockClock) -> None:
    async with virtual(quick) as engine:
        await engine.run(quick, 1, id="taken")
        await engine.start("nobody's", id="other")
        await engine.start("nobody's", id="tagged", tags={"a": "b"})
        for since in (None, "beginning"):
            async with engine.watch(overdue=True, tags={"a": "b"}, since=since) as changes:
                assert [record.id for record in await gather(changes, 1)] == ["tagged"]
        async with engine.watch(overdue=True, workflow="nobody's", since="now") as changes:
            with trio.move_on_after(1000) as scope:
                await anext(changes)
            assert scope.cancelled_caught


class CountingStore(WrappedStore):
    """Counts looks for overdue runs."""

    looks = 0

    def ask(self, question: Any) -> Any:
        self.looks += isinstance(question, ListOverdue)
        return super().ask(question)


async def test_an_hour_in_which_nothing_is_due_costs_two_looks_a_minute(autojump_clock: MockClock) -> None:
    store = CountingStore(store_at(":memory:"))
    async with open_engine(store, workflows=[quick], clock=VirtualClock()) as engine:
        await engine.start("nobody's", id="far", delay=3600 - OVERDUE_SECONDS)
        async with engine.watch(overdue=True) as changes:
            assert (await anext(changes)).id == "far"
    assert store.looks <= 2 * 60 + 3


@pytest.mark.parametrize("page", [1, 7, 200])
async def test_over_restarts_of_the_watcher_each_is_told_once_and_in_order(
    page: int, file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_PAGE_RUNS", page)
    ids = overdue_store(file_path, 90)
    generator, told = random.Random(page), list[str]()
    async with Engine(file_path) as client:
        since: str | None = None
        while len(told) < len(ids):
            async with client.watch(overdue=True, since=since) as changes:
                for record in await gather(changes, min(generator.randrange(1, 30), len(ids) - len(told))):
                    told.append(record.id)
                    assert changes.is_present
                since = changes.cursor  # what it holds besides is lost
        assert told == ids
        assert Counter(told).most_common(1)[0][1] == 1
        async with client.watch(overdue=True, since=since) as changes:
            with trio.move_on_after(0.05) as scope:
                await anext(changes)
            assert scope.cancelled_caught


@pytest.mark.parametrize("since", ["", "x", "1-1", "due-", "due-1", "due-x-1", "DUE-1-1"])
async def test_what_is_no_cursor_of_such_a_watch_is_refused(since: str, file_path: str) -> None:
    async with Engine(file_path) as client:
        with pytest.raises(ValueError, match="is no cursor of a watch"):
            client.watch(overdue=True, since=since)
        with pytest.raises(ValueError, match="is no cursor of a watch"):
            client.watch(since="due-1-1")
        with pytest.raises(ValueError, match="leave out overdue"):
            client.watch(overdue=True, run_id="r")


@pytest.mark.on_sqlite("the plans of its statements")
@pytest.mark.parametrize("name", ["FIRST_PRIORITY", "NEXT_PRIORITY"])
def test_the_ranges_in_line_are_found_by_seeks(name: str, tmp_path: Path) -> None:
    assert_seeks(tmp_path, getattr(overdue, name))


@pytest.mark.on_sqlite("the plans of its statements")
@pytest.mark.parametrize("within", overdue.RANGES)
@pytest.mark.parametrize("sql", [overdue.DUE, overdue.NEXT_DUE])
def test_what_is_due_is_found_by_seeks(sql: str, within: str, tmp_path: Path) -> None:
    assert_seeks(tmp_path, sql.format(range=within))


def assert_seeks(tmp_path: Path, sql: str) -> None:
    store = store_at(tmp_path / "runs.db")
    store.open()
    connection = store.connect()
    values = dict.fromkeys(
        ["workflow", "version", "refused", "line", "priority", "after", "after_run", "until", "limit"], 1
    )
    plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    connection.close()
    store.close()
    assert any(step.startswith("SEARCH runs USING") for step in plan)
    assert not any("SCAN runs" in step or "TEMP B-TREE" in step for step in plan), plan


@pytest.mark.on_sqlite("the command line opens a file")
def test_the_command_line_tells_them_with_the_reason_and_goes_on_after_a_cursor(tmp_path: Path) -> None:
    """And ends when nobody reads what it writes any more."""
    path = str(tmp_path / "runs.db")
    ids = overdue_store(path, 5)
    words = command_line("--db", path, "watch", "--overdue", "--json")
    first = subprocess.run(["sh", "-c", '"$@" | head -n 2', "-", *words], **_CAUGHT)
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [line["id"] for line in lines] == ids[:2]
    assert "nobody serves" in lines[0]["waits_for"][0]["reason"]
    rest = subprocess.run(["sh", "-c", '"$@" | head -n 3', "-", *words, "--since", lines[1]["cursor"]], **_CAUGHT)
    assert [json.loads(line)["id"] for line in rest.stdout.splitlines()] == ids[2:]
    assert call("--db", path, "watch", "run-1", "--overdue").code == 2
    said = call("--db", path, "watch", "--overdue", "--since", "17-4")
    assert (said.code, said.error) == (
        1,
        "durable-trio: '17-4' is no cursor of a watch of overdue runs; take one that it gave, such as due-4711-12",
    )
