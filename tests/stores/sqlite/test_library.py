"""The SQLite that Python itself has is enough, also one from before its JSON functions were known to be harmless."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from durable_trio.stores.sqlite import SqliteStore, connection
from durable_trio.testing.store_contract.kit import one, start_operation

_OWN = """
import sys
sys.modules["pysqlite3"] = None
import trio
from durable_trio import Context, open_engine, sqlite3, workflow

@workflow(tags={"kind": "first"})
async def first(ctx: Context) -> int:
    return await ctx.step("one", one)

async def one() -> int:
    return 1

async def main():
    async with open_engine(sys.argv[1], workflows=[first]) as engine:
        print(sqlite3.__name__, await engine.run(first, id="r"))
        print([run.id for run in (await engine.list_runs(tags={"kind": "first"})).runs])
        await engine.delete("r")

trio.run(main)
"""


def test_an_engine_works_with_the_one_that_python_brings(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OWN, str(tmp_path / "app.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("sqlite3 1\n['r']\n", 0), done.stderr


def test_an_old_one_trusts_the_schema_so_that_the_triggers_for_tags_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "tells_json_from_harm", lambda: False)
    store = SqliteStore(tmp_path / "app.db")
    store.open()
    opened = store.connect()
    assert opened.execute("PRAGMA trusted_schema").fetchone() == (1,)
    opened.close()
    one(store, start_operation("r", tags='{"a": "b"}'))
    store.close()
