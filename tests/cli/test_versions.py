"""``versions``, and what the other commands say of versions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, Workflow, open_engine, workflow
from durable_trio.cli import serving
from durable_trio.logger import Logger
from tests.cli.desk import PATIENCE_SECONDS, call
from tests.cli.test_json import validate
from tests.engine.harness import wait_parked, wait_passivated


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


async def begin(engine: Engine) -> None:
    await engine.run(first)
    await engine.start(second, id="run-2")


@contextmanager
def served(
    path: Path,
    *workflows: Workflow[..., Any],
    fill: Callable[[Path], Awaitable[None]] = fill,
    begin: Callable[[Engine], Awaitable[None]] = begin,
) -> Iterator[None]:
    """Serve, by default versions 1 and 2, in another thread during a block; commands are for the main one."""
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        await fill(path)
        async with open_engine(path, workflows=workflows or [first, second], build="3f2a91c") as engine:
            await begin(engine)
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


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


async def fill_early(path: Path) -> None:
    await fill(path)
    change(path, "UPDATE runs SET wake_at = wake_at - 31000000 WHERE id = 'run-3'")


@pytest.mark.parametrize(("fill", "code"), [(fill, 0), (fill_early, 1)])
def test_a_version_that_nobody_has_is_for_a_person_once_a_run_of_it_is_due_for_half_a_minute(
    tmp_path: Path, fill: Callable[[Path], Awaitable[None]], code: int
) -> None:
    path = tmp_path / "app.db"
    with served(path, fill=fill):
        found = call("--db", str(path), "check", "--json")
    assert (found.code, found.json["overdue"]) == (code, code)
    wrong = [finding["text"] for finding in found.json["findings"] if finding["level"] == "wrong"]
    what = "due, but nobody takes them: order version 3 (1); no executor has version 3 of 'order'"
    assert [text.startswith(what) for text in wrong] == [True] * code


async def _has_a_step(ctx: Context) -> None:
    await ctx.step("pay", lambda: None)
    await ctx.wait_signal("go")


async def _has_another(ctx: Context) -> None:
    await ctx.step("pay by card", lambda: None)
    await ctx.wait_signal("go")


async def leave_three(path: Path) -> None:
    async with open_engine(path, workflows=[workflow(name="order")(_has_a_step)]) as engine:
        for number in range(3):
            await engine.start("order", id=f"run-{number}")
        await wait_passivated(engine)


async def have_one_refused(engine: Engine) -> None:
    await engine.send_signal("run-0", "go")
    await wait_parked(engine.get("run-0"))


def test_versions_and_check_say_that_only_what_was_due_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with served(path, workflow(name="order")(_has_another), fill=leave_three, begin=have_one_refused):
        for command in ("versions", "check"):
            said = call("--db", str(path), command)
            assert "runs that were due" in " ".join(said.out.split()), said


def test_check_tells_of_runs_of_which_nobody_can_read_which_code_may_take_them(tmp_path: Path) -> None:
    """Also before they are due, when whoever comes to one sets it aside."""
    path = tmp_path / "app.db"
    trio.run(leave_three, path)
    assert call("--db", str(path), "check").code == 0
    change(path, "UPDATE runs SET refused = ',x,' WHERE id = 'run-1'")
    found = call("--db", str(path), "check", "--json")
    assert found.code == 1
    (text,) = [finding["text"] for finding in found.json["findings"] if finding["about"] == "codes"]
    assert text.startswith("1 run of which it cannot be read which code may take it: run-1; ")


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


def test_resume_with_a_version_that_nobody_who_serves_has_says_so(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with served(path):
        slip = call("--db", str(path), "resume", "run-3", "--version", "7")
        right = call("--db", str(path), "resume", "run-3", "--version", "2")
    goes_on = "'run-3' goes on when an executor that has version {} of its workflow takes it{}\n"
    assert (slip.code, slip.err) == (0, goes_on.format(7, "; none that serves has it now"))
    assert (right.code, right.err) == (0, goes_on.format(2, ""))


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
