"""Make a file with runs in every state, by the version of the library that is checked out: ``make_file.py OUT.db.gz``.

See CONTRIBUTING.md. Its clock shows the year 2020, so that whatever waits for a time is due once the file is opened. It
is killed once, in the middle of steps. Names of the machine, and paths, are taken out.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import trio
import version_flows as flows

import durable_trio
from durable_trio import Clock, Engine, RunFailed, RunStatus, open_engine, sqlite3

CART = flows.Cart(["tea"], Decimal("9.95"), datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC), frozenset({1, 2}))
_BEGIN_NS = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * 10**9
_PATIENCE_SECONDS = 30


def clock() -> Clock:
    """Return a clock that began at the same time as the machine, in 2020."""
    return Clock(wall=lambda: _BEGIN_NS + time.monotonic_ns())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(_PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110  # not all of it is an event
            await trio.sleep(0.01)


async def begin(path: str) -> None:
    """Have most runs wait, and some end."""
    async with open_engine(path, workflows=flows.WORKFLOWS, clock=clock()) as engine:
        connection = engine.connect()
        connection.execute("CREATE TABLE tally (n INTEGER NOT NULL)")
        connection.commit()
        connection.close()
        await engine.start(flows.waits, 1, id="waits", tags={"color": "red"}, queue="q", priority=5)
        await engine.send_signal("waits", "early", 10, id="early-1")
        await engine.send_signal("waits", "unwanted", {"a": [1]})
        for flow in (flows.sleeps, flows.late, flows.times_out, flows.retries, flows.undone, flows.parent):
            await engine.start(flow, id=flow.name)
        await engine.start(flows.branches, id="branches")
        await engine.start(flows.changes, id="changes")
        await engine.start(flows.generations, 1, id="generations")
        await engine.start(flows.child, 5, id="expires", ttl=flows.HOUR)
        await engine.start(flows.bare, CART, id="delayed", delay=2 * flows.HOUR)
        await engine.run(flows.bare, CART, id="completed")
        await engine.start(flows.child, 1, id="cancelled")
        with contextlib.suppress(RunFailed):
            await engine.run(flows.fails, id="failed")

        async def all_wait() -> bool:
            found = {record.id: record.status for record in (await engine.list_runs(limit=1000)).runs}
            resting = {RunStatus.SUSPENDED, RunStatus.COMPENSATING, RunStatus.COMPLETED, RunStatus.FAILED}
            waiting = [run_id for run_id, status in found.items() if status not in resting]
            return waiting == ["delayed"] and (await engine.status()).resident_runs == 0

        await until(all_wait)
        await engine.cancel("cancelled", reason="not needed")
        await until(lambda: has_status(engine, "cancelled", RunStatus.CANCELLED))
        try:
            async with engine.inline("script", input={"n": 1}) as ctx:
                await ctx.step("a", flows.call, "in script")
                raise KeyError("on purpose")
        except KeyError:
            pass


async def has_status(engine: Engine, run_id: str, status: RunStatus) -> bool:
    return (await engine.get(run_id).record()).status is status


async def park(path: str) -> None:
    """Have a run parked: its code is another one now."""
    flows.is_changed = True
    async with open_engine(path, workflows=[flows.changes], clock=clock()) as engine:
        await engine.send_signal("changes", "go")

        async def is_parked() -> bool:
            return (await engine.get("changes").record()).problem is not None

        await until(is_parked)


async def die(path: str) -> None:
    """Be killed in the middle of steps, with reports of this process and a second executor's row in the file."""
    flows.is_held = True
    async with open_engine(path, workflows=[flows.maps, flows.in_step, flows.once], clock=clock()) as engine:
        for flow in (flows.maps, flows.in_step, flows.once):
            await engine.start(flow, id=flow.name)

        async def are_held() -> bool:
            keys = [step.key for flow in (flows.maps, flows.in_step) for step in await engine.get(flow.name).steps()]
            return len(keys) == 4

        await until(are_held)
        await trio.sleep(1)  # the intent of the third, and the report
        os.kill(os.getpid(), signal.SIGKILL)


async def leave(path: str) -> None:
    """Start what nobody has begun."""
    async with Engine(path, clock=clock()) as client:
        await client.start("bare", 5, id="pending")
        await client.start("nobody's", id="unknown")
        await client.start(flows.bare, CART, id="new")
        await client.send_signal("delayed", "to a pending run", 1)


def tidy(path: str) -> None:
    """Make it one file, without names of the machine and of folders."""
    roots = [Path(durable_trio.__file__).parents[1], Path(trio.__file__).parents[1], Path(__file__).parent]
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for table in ("runs", "history", "waits"):
            for root in roots:
                connection.execute(f"UPDATE {table} SET error = replace(error, ?, '...')", (str(root),))
        connection.execute("UPDATE executors SET host = 'host', boot_id = 'boot'")
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'reports'").fetchone():
            connection.execute("UPDATE reports SET process = 'host/boot/' || rowid || '/1'")
            connection.execute("UPDATE reports SET report = json_set(report, '$.host', 'host')")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.execute("VACUUM")
    finally:
        connection.close()


def main() -> None:
    if len(sys.argv) == 3:
        trio.run(die, sys.argv[2])
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "runs.db")
        trio.run(begin, path)
        trio.run(park, path)
        trio.run(leave, path)
        subprocess.run([sys.executable, __file__, "--die", path], check=False)
        tidy(path)
        out.write_bytes(gzip.compress(Path(path).read_bytes(), mtime=0))


if __name__ == "__main__":
    main()
