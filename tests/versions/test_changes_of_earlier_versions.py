"""Answers to ``patched`` in files of before: their markers had names and numbers together with calls."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from durable_trio import Context, Workflow, sqlite3, workflow
from durable_trio.stores.sqlite import tables
from durable_trio.stores.sqlite.migrations import migrate
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.kit.traces import effects, note

pytestmark = pytest.mark.usefixtures("no_leaks", "no_effects")


@workflow(name="flow")
async def asking(ctx: Context) -> list[object]:
    is_new = ctx.patched("same")
    if is_new:
        await ctx.step("same", note, "new")
    await ctx.wait_signal("go")
    return [is_new, ctx.patched("same")]


@workflow(name="flow")
async def calling_anyhow(ctx: Context) -> list[object]:
    is_new = ctx.patched("same")
    await ctx.step("same", note, "new")
    await ctx.wait_signal("go")
    return [is_new]


@workflow(name="flow")
async def waiting(ctx: Context) -> list[object]:
    is_new = ctx.patched("go")
    await ctx.wait_signal("go")
    return [is_new]


@workflow(name="flow")
async def not_asking(ctx: Context) -> list[object]:
    await ctx.wait_signal("go")
    return []


def _file_of_version_2(path: Path, rows: list[tuple[str, int, str]], waits: list[tuple[str, int]]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {tables.APPLICATION_ID}")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    migrate(connection, stop_before="3")
    connection.execute(
        "INSERT INTO runs (run, id, workflow, status, token, changed, created_at, started_at, wake_at, seed, "
        "args_digest, args) VALUES (7, 'run', 'flow', 'suspended', 1, 0, 1, 1, 1, zeroblob(16), zeroblob(32), '[]')"
    )
    for seq, (name, n, kind) in enumerate(rows, start=1):
        connection.execute(
            "INSERT INTO history (run, seq, branch, name, n, kind, status, attempt, compensates, started_at, "
            "finished_at, result) VALUES (7, ?, '', ?, ?, ?, 'completed', 1, 0, 1, 1, ?)",
            (seq, name, n, kind, '"new"' if kind == "step" else None),
        )
    for name, n in waits:
        connection.execute(
            "INSERT INTO waits (run, branch, name, n, kind, attempt, started_at) VALUES (7, '', ?, ?, 'signal', 0, 1)",
            (name, n),
        )
    connection.close()


@pytest.mark.parametrize(
    ("code", "rows", "waits", "result", "keys"),
    [
        pytest.param(asking, [("same", 0, "patch"), ("same", 1, "step")], [("go", 0)], [True, True], 1, id="called"),
        pytest.param(asking, [("same", 0, "patch")], [], [True, True], 2, id="not called yet"),
        pytest.param(asking, [], [("go", 0)], [False, True], 2, id="nothing recorded"),
        # The old way was taken, and has left no marker; what then bore the name has the next number.
        pytest.param(calling_anyhow, [("same", 1, "step")], [("go", 0)], [False], 1, id="old way"),
        pytest.param(waiting, [("go", 0, "patch")], [("go", 1)], [True], 1, id="open call"),
        pytest.param(not_asking, [("other", 0, "patch")], [("go", 0)], [], 2, id="not asked for"),
        # Of one that nobody asked about, and the code that does now: as in any run.
        pytest.param(calling_anyhow, [("same", 0, "step")], [("go", 0)], [False], 2, id="asked since"),
    ],
)
async def test_runs_with_answers_of_before_go_on(
    code: Workflow[[], list[object]],
    rows: list[tuple[str, int, str]],
    waits: list[tuple[str, int]],
    result: list[object],
    keys: int,
    tmp_path: Path,
) -> None:
    path = tmp_path / "app.db"
    _file_of_version_2(path, rows, waits)
    async with serving(str(path), code, durability="normal") as engine:
        await engine.send_signal("run", "go")
        with trio.fail_after(PATIENCE_SECONDS):
            assert await engine.get("run").result() == result
    assert effects == ["new"] * (rows == [("same", 0, "patch")])
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT keys FROM runs").fetchall() == [(keys,)]
    connection.close()
