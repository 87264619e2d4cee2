"""An inline block that is killed, and entered again, goes on where it was."""

# ruff: noqa: PT012  # what comes out of a block with several statements is what is tested here

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from durable_trio import Engine, OwnershipLost, RunFinished, RunStatus, StepKind
from durable_trio.testing import CrashingStore, SimulatedCrash
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_passivated
from tests.kit.crash_points import Crashed, crashing_store, live_once
from tests.kit.traces import effects, note, virtual

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


S = RunStatus


class MishapError(Exception):
    """What goes wrong in a block."""


async def square(number: int) -> int:
    effects.append(f"{number}")
    return number * number


async def kinds(engine: Engine, run_id: str) -> list[str]:
    return [f"{step.key} {step.kind}" for step in await engine.get(run_id).steps()]


async def test_run_again_after_a_crash_at_any_commit_it_comes_to_its_end(autojump_clock: MockClock) -> None:
    async def script(engine: Engine) -> Any:
        found: list[Any] = []
        try:
            async with engine.inline("script") as ctx:
                found.append(await ctx.step("one", note, "first"))
                found.append(await ctx.map("square", square, range(3)))
                await ctx.sleep(60)
                found.append(str(await ctx.step("two", note, "second")))
                await ctx.publish("found", found)
        except RunFinished:  # the process died before it was told
            pass
        return await engine.get("script").value("found"), await kinds(engine, "script")

    async def until_through(store: CrashingStore) -> Any:
        for _ in range(4):
            try:
                return await live_once(store, [], script)
            except Crashed:
                continue
            except (SimulatedCrash, OwnershipLost):
                continue
        raise AssertionError("not through")

    async with crashing_store() as store:
        expected = await until_through(store)
        commit_count = store.commit_count
    assert expected[0] == ["first", [0, 1, 4], "second"]
    for loses_it in (False, True):
        for commit in range(1, commit_count + 1):
            async with crashing_store() as store:
                store.crash_after(commit, loses_it=loses_it)
                assert sorted((await until_through(store))[1]) == sorted(expected[1]), f"{commit=} {loses_it=}"


_SCRIPT = """
import sys, trio
from durable_trio import open_engine
from tests.kit import stores

async def effect(number):
    with open(sys.argv[2], "a") as ledger:
        ledger.write(f"{number}\\n")
    return number

async def main():
    async with open_engine(sys.argv[1]) as engine:
        async with engine.inline("import", input=20) as ctx:
            found = []
            for number in range(20):
                found.append(await ctx.step("row", effect, number))
                print(number, flush=True)
                if number == int(sys.argv[3]):
                    await trio.sleep_forever()
            found.append(sum(await ctx.map("batch", effect, range(100, 110))))
            await ctx.publish("found", found)
    print("done", flush=True)

stores.offer()
trio.run(main)
"""


@asynccontextmanager
async def _script(path: Path, store: str, ledger: Path, *, stops_at: int = -1) -> AsyncIterator[trio.Process]:
    """Run the script; ``stops_at``: the row after which it waits, so that it does not end before it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)}
    command = [sys.executable, str(path), store, str(ledger), str(stops_at)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


async def test_a_killed_script_started_again_goes_on_where_it_was(file_path: str, tmp_path: Path) -> None:
    script, store, ledger = tmp_path / "script.py", file_path, tmp_path / "ledger"
    script.write_text(_SCRIPT)
    with trio.fail_after(PATIENCE_SECONDS):
        for last in (3, 11):
            async with _script(script, store, ledger, stops_at=last + 5) as process:
                assert process.stdout is not None
                text = b""
                while f"{last}\n".encode() not in text:
                    received = await process.stdout.receive_some()
                    assert received, text
                    text += received
                os.kill(process.pid, signal.SIGKILL)
        async with _script(script, store, ledger) as process:
            assert process.stdout is not None
            text = b"".join([part async for part in process.stdout])
            assert text.endswith(b"done\n")
    begun = [int(line) for line in ledger.read_text().split()]
    assert sorted(set(begun)) == [*range(20), *range(100, 110)]
    rows = [number for number in begun if number < 100]
    # What was in flight at each kill has run again, and nothing else: one row, or the batch if it was quick.
    assert len(rows) <= 20 + 2
    assert len(begun) - len(rows) <= 10 + 2 * 10
    async with Engine(store) as client:
        run = client.get("import")
        assert (await run.record()).status is S.COMPLETED
        assert await run.value("found") == [*range(20), sum(range(100, 110))]
        steps = await run.steps()
        assert [step.kind for step in steps] == [StepKind.STEP] * 30
        assert len({step.key for step in steps}) == 30


async def test_a_script_that_is_cancelled_while_it_enters_the_block_lets_go_of_the_run(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(store_path) as engine:
        with pytest.raises(MishapError):
            async with engine.inline("script"):
                raise MishapError
        assert engine._client.services is not None
        writer, entered = engine._client.services.writer, trio.Event()

        async def hang(*args: object) -> None:
            entered.set()
            await trio.sleep_forever()

        async def enter() -> None:
            async with engine.inline("script"):
                raise AssertionError("it is cancelled before")

        with monkeypatch.context() as patched, trio.fail_after(PATIENCE_SECONDS):
            patched.setattr(writer, "ask_patiently", hang)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enter)
                await entered.wait()
                nursery.cancel_scope.cancel()
        async with engine.inline("script") as ctx:
            assert await ctx.step("one", note, "first")


async def test_nothing_of_it_is_resident_when_nobody_holds_it(autojump_clock: MockClock) -> None:
    async with virtual() as engine:
        with pytest.raises(MishapError):
            async with engine.inline("script") as ctx:
                await ctx.step("one", note, "first")
                assert (await engine.status()).resident_runs == 1
                raise MishapError
        await wait_passivated(engine)
        assert (await engine.status()).unknown_workflows == {}
