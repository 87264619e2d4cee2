"""Measures how an engine on PostgreSQL fares with more and more runs behind it, on a private server.

    python scripts/growth.py [--finished 0 10000 100000 1000000] [--rounds N]

Fills the tables with runs that have ended, of three recorded steps each, as a copy would (ids in no order, statuses and
workflows mixed), and has the server look at them as its own upkeep does. Then, with so many behind it: a sequential
step, many runs at once, lists of the newest and of the failed ones, one run by its id, and counts. At the end what a
run takes on the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import trio
from bench import many_runs, quantile_ms, sequential, sequential_steps, short
from private_postgres import Server

from durable_trio import Engine, RunStatus, open_engine

_SCHEMA: Final = "growth"
_ASKED: Final = 50
_STEPS: Final = 3
# Ids are hashes: they come in no order, as those that a user gives or a copy brings.
FILL_RUNS: Final = """
    INSERT INTO runs (id, workflow, status, changed, created_at, started_at, finished_at, token, seed, args_digest,
        args, result, error)
    SELECT md5(n::text), 'old ' || n %% 10, CASE WHEN n %% 50 = 0 THEN 'failed' ELSE 'completed' END, n, n, n, n + 5, 1,
        decode(md5(n::text), 'hex'), decode(md5('a' || n), 'hex'), '[' || n || ']',
        CASE WHEN n %% 50 <> 0 THEN '{"total": ' || n || '}' END,
        CASE WHEN n %% 50 = 0 THEN '{"type": "ValueError", "message": "no"}' END
    FROM generate_series(%s + 1, %s) AS n
"""
FILL_HISTORY: Final = """
    INSERT INTO history (run, key, seq, n, attempt, compensates, started_at, finished_at, kind, status, branch, name,
        result)
    SELECT run, md5(run || '/' || n)::uuid, n, 0, 1, false, n, n + 1, 'step', 'completed', '', 'step ' || n,
        '{"value": ' || n || '}'
    FROM runs, generate_series(1, %s) AS n
    WHERE workflow LIKE 'old %%' AND created_at > %s AND created_at <= %s
"""
SIZE: Final = """
    SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
    WHERE relkind = 'r' AND relnamespace = %s::regnamespace
"""

Question = Callable[[], Awaitable[Any]]


async def milliseconds(question: Question) -> float:
    """Return the median of a few times that a question takes."""
    times = []
    for _ in range(_ASKED):
        began = time.perf_counter()
        await question()
        times.append(time.perf_counter() - began)
    return quantile_ms(times, 0.5)


async def measure(url: str, finished: int, rounds: int) -> dict[str, float]:
    """Return the figures with what is in the database now."""
    async with open_engine(url, workflows=[sequential, short]) as engine:
        await engine.run(sequential, 50)
        steps = [quantile_ms(await sequential_steps(engine), 0.5) for _ in range(rounds)]
        rates = [await many_runs(engine) for _ in range(rounds)]
        found = {
            "step ms": statistics.median(steps),
            "steps/s": statistics.median(rates),
            "newest 50 ms": await milliseconds(lambda: engine.list_runs(limit=50)),
            "failed 50 ms": await milliseconds(lambda: engine.list_runs(status=RunStatus.FAILED, limit=50)),
            "one run ms": await milliseconds(lambda: _any_run(engine, finished)),
        }
        began = time.perf_counter()
        await engine.status()
        found["status ms"] = (time.perf_counter() - began) * 1000
    return found


async def _any_run(engine: Engine, finished: int) -> None:
    if finished:
        number = random.randint(1, finished)
        await engine.get(hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()).record()
    else:
        await engine.list_runs(limit=1)


def fill(url: str, before: int, after: int) -> None:
    """Add runs that have ended, until there are so many of them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {_SCHEMA}".encode())
        connection.execute(FILL_RUNS, [before, after])
        connection.execute(FILL_HISTORY, [_STEPS, before, after])
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def main() -> None:
    """Print a line for each number of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, nargs="+", default=[0, 10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of steps and runs, of which the median (3)")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with closing(Server(is_safe=True, folder=Path(name) / "server", settings={"max_wal_size": "4GB"})) as server:
            url, before = f"{server.url}?schema={_SCHEMA}", 0
            for finished in options.finished:
                if finished:
                    fill(server.url, before, finished)
                before = finished
                found = trio.run(measure, url, finished, options.rounds)
                print(
                    f"{finished:>10,} runs: " + ", ".join(f"{name} {value:,.2f}" for name, value in found.items()),
                    flush=True,
                )
            with psycopg.connect(server.url) as connection:
                ((size,),) = connection.execute(SIZE, [_SCHEMA]).fetchall()
            print(f"{size / 1e6:,.0f} MB on the disk, {size / max(1, before):,.0f} bytes a run of {_STEPS} steps")


if __name__ == "__main__":
    main()
