"""``versions``, and what the other commands say of versions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from durable_trio import Context, Engine, open_engine, workflow
from durable_trio.cli import serving
from durable_trio.logger import Logger
from tests.cli.desk import PATIENCE_SECONDS, call
from tests.cli.test_json import validate


@workflow(name="order", version=1)
async def first(ctx: Context, wish: str = "") -> str:
    return wish


@workflow(name="order", version=2)
async def second(ctx: Context, wish: str = "") -> str:
    return await ctx.wait_signal("go", str)


@workflow(name="order", version=3)
async def third(ctx: Context, wish: str = "") -> str:
    return wish


async def fill(path: Path) -> None:
    async with Engine(path) as client:
        await client.start(third, id="run-3")
        await client.start("order", id="by-name", delay=3600)


@contextmanager
def served(path: Path) -> Iterator[None]:
    """Serve versions 1 and 2 in another thread during a block; commands are for the main one."""
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        await fill(path)
        async with open_engine(path, workflows=[first, second], build="3f2a91c") as engine:
            await engine.run(first)
            await engine.start(second, id="run-2")
            ready.set()
            await trio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(PATIENCE_SECONDS)
        yield
    finally:
        stop.set()
        thread.join()


def test_versions_shows_what_is_served_what_is_needed_and_what_can_go(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    db = str(path)
    with served(path):
        said = call("--db", db, "versions", "--json")
        assert said.code == 0, said
        document = said.json
        validate(document, "versions")
        found = [(each["version"], each["unfinished"]) for each in document["versions"]]
        assert found == [(None, 1), (1, 0), (2, 1), (3, 1)]
        assert call("--db", db, "versions", "--workflow", "none", "--json").json == {"versions": []}
        findings = call("--db", db, "check", "--json").json["findings"]
        assert any("order version 3 (1)" in finding["text"] for finding in findings)
        assert "due since" in (shown := call("--db", db, "show", "run-3").out)
        assert "no executor has version 3 of" in shown
        lines = call("--db", db, "versions", env={"COLUMNS": "120"}).out.splitlines()
    assert lines[0].split() == ["WORKFLOW", "VERSION", "UNFINISHED", "CODE", "FIRST", "SEEN", "EXECUTORS"]
    assert [line.split()[:2] for line in lines[1:5]] == [["order", "?"], ["order", "1"], ["order", "2"], ["order", "3"]]
    assert lines[3].split()[2:4] == ["1", "3f2a91c"]
    assert lines[4].split() == ["order", "3", "1", "none"]
    assert lines[5:] == [
        "",
        "version 1 of order can be removed: no unfinished run needs it",
        "version 3 of order is not served: 1 run waits for it; serve it, or resume with --version",
    ]
    # Nobody serves any more.
    assert "can be removed" not in call("--db", str(path), "versions").out
    assert call("--db", str(path), "versions").out.count("3f2a91c") == 0
    assert call("--db", str(path), "versions", "--all").out.count("3f2a91c") == 2


def test_a_run_is_given_another_version_by_resume(file_path: str) -> None:
    trio.run(fill, Path(file_path))
    assert ", version 3\n" in call("--db", file_path, "show", "run-3").out
    said = call("--db", file_path, "resume", "run-3", "--version", "2")
    assert (said.code, said.err) == (
        0,
        "'run-3' goes on when an executor that has version 2 of its workflow takes it\n",
    )
    assert call("--db", file_path, "show", "run-3", "--json").json["run"]["version"] == 2
    assert call("--db", file_path, "show", "by-name", "--json").json["run"]["version"] is None
    assert call("--db", file_path, "resume", "run-3", "--version", "2").code == 1
    assert call("--db", file_path, "resume", "run-3", "--version", "-2").code == 2


def test_versions_of_a_database_without_any_says_so(file_path: str) -> None:
    async def make() -> None:
        async with Engine(file_path):
            pass

    trio.run(make)
    said = call("--db", file_path, "versions")
    assert (said.code, said.out, said.err) == (0, "", "no workflow is served, and no run is unfinished\n")


@pytest.mark.parametrize("command", ["versions", "resume"])
def test_the_help_has_an_example(command: str) -> None:
    assert "Examples:" in call(command, "--help").out


async def test_serve_says_once_that_runs_wait_for_a_version_that_nobody_has(
    file_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(Path(file_path))
    async with open_engine(file_path, workflows=[first]) as engine:
        server = serving._Server(engine, serving.Display(logger=Logger("serve")), serving._Ready(), "app")
        for _ in range(2):
            server._say_unserved(await engine.status())
    (line,) = [record for record in caplog.records if record.name == "serve"]
    assert line.getMessage().startswith(
        "1 unfinished run of version 3 of workflow 'order', which nobody who serves has."
    )
