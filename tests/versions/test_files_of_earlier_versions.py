"""A file that an earlier version has written is opened, brought up to date, and goes on: every run ends as it should.

``data`` has one file for each version of the schema that was released, made by ``make_file.py`` with the code of then.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import version_flows as flows
from make_file import CART

from durable_trio import Engine, RunCancelled, RunExpired, RunFailed, RunStatus, sqlite3
from durable_trio.stores.sqlite.tables import SCHEMA_VERSION
from tests.engine.harness import PATIENCE_SECONDS, serving, wait_parked

FILES = sorted((Path(__file__).parent / "data").glob("schema-*.db.gz"))

S = RunStatus
#: By id: the status before, and how it ends.
ENDS: dict[str, tuple[RunStatus, RunStatus, Any]] = {
    "waits": (S.SUSPENDED, S.COMPLETED, ["waits 1", 7, "x", "y", True, True, 10, 100]),
    "sleeps": (S.SUSPENDED, S.COMPLETED, "slept"),
    "late": (S.SUSPENDED, S.COMPLETED, "too late"),
    "times_out": (S.SUSPENDED, S.COMPLETED, "timed out"),
    "retries": (S.SUSPENDED, S.COMPLETED, "try 2"),
    "undone": (S.COMPENSATING, S.FAILED, None),
    "parent": (S.SUSPENDED, S.COMPLETED, "101 102"),
    "kid": (S.SUSPENDED, S.COMPLETED, 101),
    "other kid": (S.SUSPENDED, S.COMPLETED, 102),
    "branches": (S.SUSPENDED, S.COMPLETED, "both"),
    "changes": (S.SUSPENDED, S.COMPLETED, "mended"),
    "generations": (S.SUSPENDED, S.COMPLETED, 103),
    "expires": (S.SUSPENDED, S.FAILED, None),
    "delayed": (S.PENDING, S.COMPLETED, CART),
    "new": (S.PENDING, S.COMPLETED, CART),
    "completed": (S.COMPLETED, S.COMPLETED, CART),
    "cancelled": (S.CANCELLED, S.CANCELLED, None),
    "failed": (S.FAILED, S.FAILED, None),
    "maps": (S.RUNNING, S.COMPLETED, ["one", "two", "three", "four"]),
    "in_step": (S.RUNNING, S.COMPLETED, "after"),
    "once": (S.RUNNING, S.COMPLETED, "interrupted"),
}
#: Those that do not end: a script's, one whose arguments do not fit, and one that nobody can execute.
OTHERS = {"script": S.SUSPENDED, "pending": S.PENDING, "unknown": S.PENDING}


@pytest.fixture(params=FILES, ids=lambda file: file.name.removesuffix(".db.gz"))
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A copy of such a file."""
    copy = tmp_path / "app.db"
    copy.write_bytes(gzip.decompress(request.param.read_bytes()))
    flows.calls.clear()
    yield str(copy)
    flows.calls.clear()


def version_of(path: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def test_there_is_a_file_of_each_version_before() -> None:
    assert [file.name for file in FILES][: SCHEMA_VERSION - 1] == [
        f"schema-{version}.db.gz" for version in range(1, SCHEMA_VERSION)
    ]


async def test_everything_is_read_before_anybody_serves_it(path: str) -> None:
    assert version_of(path) < SCHEMA_VERSION
    async with Engine(path, workflows=flows.WORKFLOWS) as client:
        records = {record.id: record for record in (await client.list_runs(limit=1000)).runs}
        assert {run_id: record.status for run_id, record in records.items()} == OTHERS | {
            run_id: before for run_id, (before, _, _) in ENDS.items()
        }
        # What was parked until its code is another: all code is another now.
        assert {run_id for run_id, record in records.items() if record.problem is not None} == set()
        assert (await client.status()).parked == ()
        assert records["completed"].args == (CART,)
        assert records["completed"].tags == {"kind": "bare"}
        assert records["generations"].generation == 2
        assert [record.id for record in (await client.list_runs(tags={"color": "red"})).runs] == ["waits"]
        assert [record.id for record in (await client.list_runs(queue="q")).runs] == ["waits"]
        assert {record.id for record in (await client.list_runs(parent="parent")).runs} == {"kid", "other kid"}
        waits = client.get("waits")
        assert await waits.value("progress") == {"n": 1, "list": [1, None, "é"]}
        keys = [step.key for step in await waits.steps()]
        assert [*keys[:2], *sorted(keys[2:4])] == ["a#0", "bad#0", "m#0/item#0", "m#0/item#1"]
        assert [(entry.name, entry.payload) for entry in await waits.unread()] == [("unwanted", {"a": [1]})]
        assert [wait.kind for wait in await client.get("retries").waits()] == ["retry"]
        with pytest.raises(RunFailed) as failed:
            await client.get("failed", flows.fails).result()
        assert isinstance(failed.value.error, flows.Refused)
        with pytest.raises(RunCancelled) as cancelled:
            await client.get("cancelled").result()
        assert cancelled.value.reason == "not needed"
    assert version_of(path) == SCHEMA_VERSION


async def test_every_run_goes_on_and_ends_as_it_should(path: str) -> None:
    async with serving(path, *flows.WORKFLOWS, durability="normal") as engine:
        await every_run_ends_as_it_should(engine)
        connection = engine.connect()
        assert connection.execute("SELECT n FROM tally").fetchall() == [(1,)]
        connection.close()


async def every_run_ends_as_it_should(engine: Engine) -> None:
    """Send what is waited for, and see how each run ends that such a file holds."""
    await engine.send_signal("waits", "early", 10, id="early-1")  # it is the same as then
    for run_id in ("waits", "kid", "other kid", "generations"):
        await engine.send_signal(run_id, "go", 100)
    same = await engine.start(flows.bare, CART, id="new")
    assert await same.result() == CART
    with trio.fail_after(PATIENCE_SECONDS):
        for run_id, (_, status, result) in ENDS.items():
            record = await ended(engine, run_id)
            assert (record.status, record.result, record.problem) == (status, result, None), run_id
    assert [entry.name for entry in await engine.get("waits").unread()] == ["unwanted"]
    assert await engine.get("waits").value("progress") == "done"
    parked = await wait_parked(engine.get("pending"))
    assert parked.problem is not None
    assert parked.problem.kind == "arguments"
    assert (await engine.status()).unknown_workflows == {"nobody's": 1}
    with pytest.raises(RunExpired):
        await engine.get("expires").result()
    with pytest.raises(RunFailed) as failed:
        await engine.get("undone").result()
    assert isinstance(failed.value.error, flows.Refused)
    assert failed.value.compensation_errors == ()
    undone = [step.key for step in await engine.get("undone").steps()]
    assert undone == ["a#0", "b#0", "c#0", "compensate/c#0", "compensate/b#0", "compensate/a#0"]
    async with engine.inline("script", input={"n": 1}) as ctx:
        assert await ctx.step("a", flows.call, "in script") == "in script"
    # What was recorded then has not run again.
    assert sorted(flows.calls) == sorted(
        ["slept", "try", "undo second", "undo first", "one", "two", "three", "four", "after", "tea", "tea"]
    )


async def ended(engine: Engine, run_id: str) -> Any:
    async with engine.get(run_id).watch() as changes:
        async for record in changes:
            last = record
    return last
