"""A watch goes on after a cursor: whoever keeps it is given each final state once, however often it is killed."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from typing import Any

import pytest
import trio

from durable_trio import Engine, RunStatus
from durable_trio.testing.store_contract.kit import one, register, start_operation
from tests.cli.desk import command_line, surroundings
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.engine.watching.kit import gather, gather_until, nothing_more, quick, waiter
from tests.kit.stores import store_at

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_it_goes_on_after_the_state_that_had_the_cursor() -> None:
    async with serving(":memory:", quick, waiter) as engine:
        for number in range(3):
            await engine.run(quick, number, id=f"run-{number}")
        async with engine.watch() as changes:
            assert changes.cursor is None
            await gather(changes, 3)
            cursor = changes.cursor
        assert cursor is not None
        await engine.run(quick, 3, id="run-3")
        async with engine.watch(since=cursor) as changes:
            assert [record.id for record in await gather(changes, 1)] == ["run-3"]
            assert await nothing_more(changes)
            waiting = await engine.start(waiter, 1, id="waiting")
            await waiting.signal("go")
            seen = await gather_until(changes, lambda record: record.status.is_final)
            assert {record.id for record in seen} == {"waiting"}


async def test_states_of_one_commit_are_told_apart(file_path: str) -> None:
    """They have the same change number; a watcher may be killed between any two of them."""
    store = store_at(file_path)
    store.open()
    executor = register(store)
    one(store, start_operation("before"))
    store.apply([start_operation(f"run-{number}") for number in range(5)])
    one(store, start_operation("after"))
    assert executor
    store.close()
    ids = ["before", *(f"run-{number}" for number in range(5)), "after"]
    async with Engine(file_path) as client:
        cursors: list[str] = []
        async with client.watch() as changes:
            for run_id in ids:
                assert (await anext(changes)).id == run_id
                assert changes.cursor is not None
                cursors.append(changes.cursor)
        for number, cursor in enumerate(cursors):
            async with client.watch(since=cursor) as changes:
                rest = ids[number + 1 :]
                assert [record.id for record in await gather(changes, len(rest))] == rest
                assert await nothing_more(changes)


async def test_now_is_after_all_that_was() -> None:
    async with serving(":memory:", quick) as engine:
        await engine.run(quick, 1, id="before")
        async with engine.watch(since="now") as changes:
            assert await nothing_more(changes)
            await engine.run(quick, 1, id="after")
            seen = await gather_until(changes, lambda record: record.status.is_final)
            assert {record.id for record in seen} == {"after"}


async def test_the_beginning_is_before_all_that_is_there() -> None:
    """So a watcher that keeps cursors has a word to begin with, on each kind of store."""
    async with serving(":memory:", quick) as engine:
        await engine.run(quick, 1, id="before")
        async with engine.watch(since="beginning") as changes:
            assert [record.id for record in await gather(changes, 1)] == ["before"]
            cursor = changes.cursor
            await engine.run(quick, 1, id="after")
            seen = await gather_until(changes, lambda record: record.status.is_final)
            assert {record.id for record in seen} == {"after"}
        async with engine.watch(since=cursor) as changes:
            assert {record.id for record in await gather(changes, 1)} == {"after"}


@pytest.mark.parametrize("since", ["", "x", "1", "1-", "-1", "1-x", "-1-2", "1.5-2", "9" * 30 + "-1", " 1-1", "²-1"])
async def test_what_is_no_cursor_is_refused(since: str) -> None:
    async with serving(":memory:", quick) as engine:
        with pytest.raises(ValueError, match="no cursor of a watch"):
            engine.watch(since=since)


@pytest.mark.on_sqlite("how it writes a cursor down")
async def test_a_cursor_of_a_later_state_is_refused_rather_than_waited_for() -> None:
    """Nothing would be seen until the store has come as far again, which looks as if nothing happened."""
    async with serving(":memory:", quick) as engine:
        await engine.run(quick, 1)
        with pytest.raises(ValueError, match="restored from a copy"):
            async with engine.watch(since="1000-1"):
                pass
        with pytest.raises(TypeError, match="must be the cursor"):
            engine.watch(since=5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="leave out since"):
            engine.watch(run_id="run", since="1-1")


async def _lines_of_a_killed_watcher(path: str, since: str, count: int) -> list[dict[str, Any]]:
    """Let a process watch until it has written some lines, kill it, and return these: what came after them is lost."""
    words = command_line("--db", path, "watch", "--json", "--since", since)
    process = await trio.lowlevel.open_process(
        words, env=surroundings(), stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    written = b""
    with trio.fail_after(PATIENCE_SECONDS):
        while written.count(b"\n") < count:
            part = await process.stdout.receive_some()
            assert part, "it has ended"
            written += part
        process.kill()
        while part := await process.stdout.receive_some():
            written += part
        await process.wait()
    return [json.loads(line) for line in written.splitlines()[:count]]


@pytest.mark.on_sqlite("the command line opens a file")
async def test_a_watcher_that_is_killed_again_and_again_is_given_each_end_once(file_path: str) -> None:
    path, runs = file_path, 60
    generator = random.Random(5)
    ends: Counter[tuple[str, str]] = Counter()
    wanted = {f"run-{number}" for number in range(runs)}

    async def start_runs(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(runs):
                nursery.start_soon(_start, engine, number)
                if number % 10 == 9:
                    await trio.sleep(0.2)  # so that some end while nobody watches, and some while somebody does

    async def _start(engine: Engine, number: int) -> None:
        await engine.start(quick, number, id=f"run-{number}")

    async with serving(path, quick, durability="normal") as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_runs, engine)
            cursor, killed = "0-0", 0
            while len(ends) < runs:
                left = runs - len(ends)
                for line in await _lines_of_a_killed_watcher(path, cursor, min(left, generator.randrange(5, 20))):
                    cursor = line["cursor"]
                    if RunStatus(line["status"]).is_final:
                        ends[line["id"], line["status"]] += 1
                killed += 1
        assert killed > 2
    assert {run_id for run_id, _ in ends} == wanted
    assert set(ends.values()) == {1}
