"""Upkeep of large runs goes in small transactions off the event loop, and survives being killed between any two."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, RunConflict, RunNotFound, RunStatus, workflow
from durable_trio.engine.services import janitor
from durable_trio.stores.writer import Writer
from durable_trio.testing.checker import check
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.kit import forks
from tests.kit.stores import kind_at

pytestmark = pytest.mark.usefixtures("no_leaks")

S = RunStatus
STEPS = 1200
PIECES = ("Prune", "Sweep", "ForkRun", "CopyHistory", "ResumeRun", "CutHistory")


async def same(number: int) -> int:
    return number


failing = True


@workflow
async def long(ctx: Context, count: int) -> int:
    await ctx.map("same", same, range(count))
    if failing:
        raise ValueError("not yet")
    return count


class Noting:
    """Notes which pieces of upkeep the writer applies on the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inline: list[str] = []
        apply = Writer._apply

        async def noting(writer: Any, items: Any) -> Any:
            names = [type(item).__name__ for item, _ in items]
            pieces = [
                name
                for name in names
                if name in ("Prune", "Sweep", "ForkRun", "CopyHistory", "ResumeRun", "CutHistory")
            ]
            call = writer._write_thread.call
            called = False

            async def noting_call(fn: Any) -> Any:
                nonlocal called
                called = True
                return await call(fn)

            writer._write_thread.call = noting_call
            try:
                return await apply(writer, items)
            finally:
                writer._write_thread.call = call
                if pieces and not called:
                    self.inline += pieces

        monkeypatch.setattr(Writer, "_apply", noting)


async def test_upkeep_of_a_long_run_never_runs_on_the_event_loop(
    file_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global failing
    failing = True
    async with serving(file_path, long) as engine:
        run = await engine.start(long, STEPS, id="run")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(Exception, match="not yet"):
            await run.result()
        last = (await run.steps())[-1].key
        noting = Noting(monkeypatch)
        copies: list[str] = []

        async def fork(name: str) -> None:
            copies.append((await engine.fork("run", before=last, id=name)).id)

        failing = False
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(fork, f"copy-{number}")
        resumed = await engine.resume("run")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await resumed.result() == STEPS
            for name in copies:
                assert await engine.get(name).result() == STEPS
        await engine.delete("copy-0")
        assert await engine.prune(datetime.now(UTC) + timedelta(days=1)) == 3
        assert (await engine.list_runs()).runs == ()
    assert noting.inline == []
    if kind_at(file_path) == "sqlite":  # the checker looks into a file
        assert check(file_path, stopped=True).violations == ()


async def test_a_run_that_was_compensated_is_not_resumed_however_long_it_is(file_path: str) -> None:
    @workflow
    async def undone(ctx: Context) -> None:
        await ctx.step("first", same, 1, compensate=same)
        await ctx.map("same", same, range(600))
        raise ValueError("no")

    async with serving(file_path, undone) as engine:
        run = await engine.start(undone)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(Exception, match="no"):
            await run.result()
        with pytest.raises(RunConflict, match="compensated"):
            await engine.resume(run.id)
        assert len(await run.steps()) == 602


KILLED = """
import os, signal, sys, trio
from durable_trio import Context, Engine
from durable_trio.stores.sqlite import SqliteStore

path, what, nth, before = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
apply = SqliteStore.apply
count = 0


def killing(store, batch, *, block=True):
    global count
    outcomes = apply(store, batch, block=block)
    if outcomes is not None and any(type(operation).__name__ == what for operation in batch):
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)
    return outcomes


async def main():
    async with Engine(path) as client:
        SqliteStore.apply = killing
        if what in ("ForkRun", "CopyHistory"):
            await client.fork("run", before=before, id="copy")
        elif what in ("CutHistory", "ResumeRun"):
            await client.resume("run")
        else:
            await client.delete("run")


trio.run(main)
"""


@pytest.mark.parametrize(
    ("what", "nth"),
    [("DeleteRun", 1), ("Sweep", 1), ("Sweep", 3), ("ForkRun", 1), ("CopyHistory", 2), ("CutHistory", 1)],
)
@pytest.mark.on_sqlite("a process on a file is killed, and the checker looks into it")
async def test_upkeep_that_was_killed_leaves_whole_runs_and_is_gone_on_with(
    file_path: str, tmp_path: Path, what: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the janitor, or by whoever asks again; nobody ever sees or executes a part of a run."""
    global failing
    failing = True
    async with serving(file_path, long) as engine:
        run = await engine.start(long, STEPS, id="run")
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(Exception, match="not yet"):
            await run.result()
        last = (await run.steps())[-1].key
        if what == "CutHistory":  # a history with very many failures at its end
            connection = engine.connect()
            connection.execute("UPDATE history SET status = 'failed', error = '{}' WHERE seq > 600")
            connection.commit()
            connection.close()
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    killed = await trio.to_thread.run_sync(
        lambda: forks.run([sys.executable, script, file_path, what, str(nth), last], capture_output=True, timeout=60)
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    monkeypatch.setattr(janitor, "_FIRST_LOOK_SECONDS", 0)
    monkeypatch.setattr(janitor, "DRAFT_SECONDS_MAX", 0)
    is_removed = what in ("DeleteRun", "Sweep")
    assert check(file_path).violations == ()
    failing = False
    async with serving(file_path, long) as engine:
        page = await engine.list_runs()
        assert [record.id for record in page.runs] == ([] if is_removed else ["run"])
        with pytest.raises(RunNotFound):
            await engine.get("run" if is_removed else "copy").record()
        if what == "CutHistory":
            with trio.fail_after(PATIENCE_SECONDS):
                assert await (await engine.resume("run")).result() == STEPS
        connection = engine.connect()
        with trio.fail_after(PATIENCE_SECONDS):
            hidden = "SELECT count(*) FROM runs WHERE hidden_at IS NOT NULL"
            while connection.execute(hidden).fetchone()[0]:  # noqa: ASYNC110  # the janitor tells nobody
                await trio.sleep(0.01)
        expected = 0 if is_removed else STEPS
        assert connection.execute("SELECT count(*) FROM history").fetchone()[0] == expected
        connection.close()
        assert await engine.run(long, 1, id="copy") == 1
    assert check(file_path, stopped=True).violations == ()
