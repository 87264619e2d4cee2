"""An engine ends, and says why, when its files are not those any more that it has opened."""

# ruff: noqa: ASYNC240  # files are what this is about
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, StoreRewound, open_engine, workflow
from tests.engine.harness import PATIENCE_SECONDS, wait_until
from tests.kit import forks

pytestmark = pytest.mark.on_sqlite("its files are removed or exchanged")

# What was written over keeps the store's connections open: closing them would spoil it.
LEAVES_NOTHING = pytest.mark.usefixtures("no_leaks")


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


@workflow
async def quick(ctx: Context, value: int = 0) -> int:
    return value


def only_error(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


@LEAVES_NOTHING
@pytest.mark.parametrize("side", ["", "-wal", "-turn-queue"])
async def test_an_idle_engine_ends_when_a_file_of_its_store_is_removed(tmp_path: Path, side: str) -> None:
    path = str(tmp_path / "app.db")
    met: list[BaseException] = []
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is what fails
        async with open_engine(path, workflows=[waits, quick]) as engine:
            run = await engine.start(waits)

            async def wait_for_result() -> None:
                try:
                    await run.result()
                except Exception as error:
                    met.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_result)
                await trio.testing.wait_all_tasks_blocked()
                os.unlink(path + side)
                await trio.sleep_forever()
    assert isinstance(only_error(caught.value), StoreRewound)
    assert path + side in str(only_error(caught.value))


@LEAVES_NOTHING
async def test_starts_are_refused_from_the_moment_on_in_which_the_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    acknowledged: list[int] = []
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is what fails
        async with open_engine(path, workflows=[quick]) as engine:
            await engine.run(quick, 0)
            shutil.copy(path, path + ".copy")
            os.replace(path + ".copy", path)
            for number in range(5):
                await engine.start(quick, number)
                acknowledged.append(number)
    assert isinstance(only_error(caught.value), StoreRewound)
    assert not acknowledged


@LEAVES_NOTHING
async def test_a_client_reads_no_file_that_nobody_else_sees(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    met: list[BaseException] = []
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            async with Engine(path) as client:
                run = await client.start("waits")

                async def wait_for_result() -> None:
                    try:
                        await run.result()
                    except Exception as error:
                        met.append(error)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait_for_result)
                    await trio.testing.wait_all_tasks_blocked()
                    os.rename(path, path + ".old")
        except (ExceptionGroup, StoreRewound) as error:
            met.append(only_error(error))
    assert any(isinstance(error, StoreRewound) for error in met)


async def test_an_earlier_copy_written_over_the_file_ends_the_engine_and_stays_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "app.db")
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:  # noqa: PT012  # the block is what fails
        async with open_engine(path, workflows=[quick]) as engine:
            await engine.run(quick, 0)
            with closing(engine.connect()) as connection:
                connection.execute("VACUUM INTO ?", (path + ".copy",))
            for number in range(20):
                await engine.run(quick, number)
            shutil.copyfile(path + ".copy", path)
            while True:
                await engine.run(quick, 1)
    assert isinstance(only_error(caught.value), StoreRewound)
    assert Path(path).read_bytes() == Path(path + ".copy").read_bytes()


_SERVE = """
import os, sys, trio
from pathlib import Path
from durable_trio import Context, open_engine, workflow

path, name = sys.argv[1:]
ledger = Path(path + ".ledger")

async def step(number):
    with open(ledger, "a") as file:
        file.write(f"{name} {number}\\n")
    while not os.path.exists(f"{path}.go-{number}"):
        await trio.sleep(0.01)
    return number

@workflow
async def work(ctx: Context) -> int:
    return sum([await ctx.step("a", step, 1), await ctx.step("b", step, 2)])

async def main():
    async with open_engine(path, workflows=[work], lease_seconds=2) as engine:
        await engine.start(work, id="run")
        print("ready", flush=True)
        print(await engine.get("run").result(), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def start_server(path: Path, name: str) -> subprocess.Popen[str]:
    return forks.Forked(
        [sys.executable, "-c", _SERVE, str(path), name],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).absolute().parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )


@LEAVES_NOTHING
async def test_two_engines_never_own_a_run_although_the_file_of_their_locks_is_removed(tmp_path: Path) -> None:
    """The second one sees no lock of the first, and goes by its lease; when the first is killed that passes."""
    path, ledger = tmp_path / "app.db", tmp_path / "app.db.ledger"
    servers: list[subprocess.Popen[str]] = []

    def told() -> list[str]:
        return ledger.read_text().splitlines() if ledger.exists() else []

    try:
        servers.append(start_server(path, "first"))
        await wait_until(lambda: told() == ["first 1"])
        os.unlink(f"{path}-owners")
        servers.append(start_server(path, "second"))
        assert servers[1].stdout is not None
        assert await trio.to_thread.run_sync(servers[1].stdout.readline) == "ready\n"
        await trio.sleep(2.5)  # longer than a lease
        assert told() == ["first 1"]
        Path(f"{path}.go-1").touch()
        await wait_until(lambda: len(told()) == 2)
        assert told() == ["first 1", "first 2"]
        servers[0].send_signal(signal.SIGKILL)
        await wait_until(lambda: told()[2:] == ["second 2"])
        Path(f"{path}.go-2").touch()
        assert await trio.to_thread.run_sync(servers[1].stdout.readline) == "3\n"
    finally:
        for server in servers:
            server.kill()
            server.communicate()
