"""Measures the engine against raw commits in the same run; prints ratios with machine, settings, n and spread.

    python scripts/bench.py [--folder DIR] [--rounds N] [--json]
    python scripts/bench.py --store postgres    # on a private server, and on a file beside it in the same run;
                                                # and DBOS on that server, where it is installed (pip install dbos)

Three questions, each at ``durability="full"``:

1. one sequential step against one raw one-row commit;
2. steps per second of 1000 runs of 5 steps, against rows per second of raw one-row commits;
3. the latency of one commit beside 200 busy tasks.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import trio

import durable_trio
from durable_trio import Context, Engine, open_engine, workflow
from durable_trio.stores.address import is_url

#: What makes raw commits, and the address of a new store on the same disk.
Place: TypeAlias = tuple[Callable[[], list[float]], str]
#: By the name of the store; given the number of the round.
Places: TypeAlias = dict[str, Callable[[int], Place]]

RAW_COMMITS = 400
SEQUENTIAL_STEPS = 400
RUNS = 1000
STEPS_PER_RUN = 5
DBOS_RUNS = 200
BUSY_TASKS = 200
BUSY_COMMITS = 100


async def one() -> int:
    return 1


@workflow
async def sequential(ctx: Context, steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        await ctx.step("one", one)
        times.append(time.perf_counter() - began)
    return times


@workflow
async def short(ctx: Context) -> int:
    total = 0
    for _ in range(STEPS_PER_RUN):
        total += await ctx.step("one", one)
    return total


def raw_commits(folder: Path) -> list[float]:
    """Return the seconds of raw one-row commits with the same module and pragmas."""
    connection = durable_trio.sqlite3.connect(str(folder / "raw.db"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, value TEXT)")
    times = []
    for number in range(RAW_COMMITS):
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO row (value) VALUES (?)", (f"value {number}",))
        connection.execute("COMMIT")
        times.append(time.perf_counter() - began)
    connection.close()
    return times


async def sequential_steps(engine: Engine) -> list[float]:
    """Return the seconds of steps one after the other in one run."""
    return await engine.run(sequential, SEQUENTIAL_STEPS)


async def many_runs(engine: Engine) -> float:
    """Return steps per second of many runs at once, from the first start to the last result."""
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(RUNS):
            nursery.start_soon(engine.run, short)
    return RUNS * STEPS_PER_RUN / (time.perf_counter() - began)


async def beside_busy_tasks(engine: Engine) -> list[float]:
    """Return the seconds of steps one after the other while other tasks keep the event loop busy."""

    async def busy() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(BUSY_TASKS):
            nursery.start_soon(busy)
        times = await engine.run(sequential, BUSY_COMMITS)
        nursery.cancel_scope.cancel()
    return times


def quantile_ms(times: Sequence[float], part: float) -> float:
    """Return a quantile of seconds in milliseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1000


def raw_postgres_commits(url: str) -> list[float]:
    """Return the seconds of raw one-row commits on a server, prepared once, a round trip each."""
    import psycopg

    times = []
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS raw (id bigint GENERATED ALWAYS AS IDENTITY, value text)")
        for number in range(RAW_COMMITS):
            began = time.perf_counter()
            connection.execute("INSERT INTO raw (value) VALUES (%s)", (f"value {number}",))
            times.append(time.perf_counter() - began)
    return times


async def measure(places: Places, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run all measurements on each store a few times, interleaved, so that noise hits all alike."""
    results: dict[str, list[dict[str, float]]] = {store: [] for store in places}
    for number in range(rounds):
        for store, place in places.items():
            raw_of, address = place(number)
            found = await measure_one(raw_of, address)
            if is_url(address) and find_spec("dbos"):
                found["dbos_steps_per_second"] = await measure_dbos(address, number)
                found["steps_to_dbos_ratio"] = found["steps_per_second"] / found["dbos_steps_per_second"]
            results[store].append(found)
    return results


async def measure_dbos(url: str, number: int) -> float:
    """Return the steps a second of DBOS with fewer of the same runs, in a new database of the same server."""
    script = Path(__file__).with_name("bench_dbos.py")
    address = urlsplit(url)._replace(path=f"/dbos_{number}", query="").geturl()
    done = await trio.run_process(
        [sys.executable, str(script), address, str(DBOS_RUNS), str(STEPS_PER_RUN)], capture_stdout=True
    )
    return float(done.stdout)


async def measure_one(raw_of: Callable[[], list[float]], address: str) -> dict[str, float]:
    """Run all measurements once, on a new store."""
    raw = await trio.to_thread.run_sync(raw_of)
    async with open_engine(address, workflows=[sequential, short]) as engine:
        steps = await sequential_steps(engine)
        gc.collect()
        gc.freeze()  # as a server does after its start: what is loaded is not searched for garbage again
        steps_per_second = await many_runs(engine)
        gc.unfreeze()
        busy = await beside_busy_tasks(engine)
    return {
        "raw_commit_ms_p50": quantile_ms(raw, 0.5),
        "raw_commit_ms_p99": quantile_ms(raw, 0.99),
        "step_ms_p50": quantile_ms(steps, 0.5),
        "step_ms_p99": quantile_ms(steps, 0.99),
        "step_to_raw_ratio": quantile_ms(steps, 0.5) / quantile_ms(raw, 0.5),
        "step_beyond_raw_ms": quantile_ms(steps, 0.5) - quantile_ms(raw, 0.5),
        "steps_per_second": steps_per_second,
        "throughput_to_raw_ratio": steps_per_second * quantile_ms(raw, 0.5) / 1000,
        "busy_commit_ms_p50": quantile_ms(busy, 0.5),
        "busy_commit_ms_p99": quantile_ms(busy, 0.99),
    }


@contextmanager
def stores(name: str, folder: Path) -> Iterator[Places]:
    """Give the places of new stores, by the name of the store: in each round another one."""

    def file(number: int) -> Place:
        work = folder / str(number)
        work.mkdir()
        return partial(raw_commits, work), str(work / "bench.db")

    if name == "sqlite":
        yield {"sqlite": file}
        return
    from private_postgres import Server

    with closing(Server(is_safe=True, folder=folder / "server")) as server:

        def schema(number: int) -> Place:
            return partial(raw_postgres_commits, server.url), f"{server.url}?schema=bench_{number}"

        yield {"sqlite": file, "postgres": schema}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure; default temporary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server may be another user's
        with stores(arguments.store, folder) as places:
            results = trio.run(measure, places, arguments.rounds)
    machine = machine_of(arguments.rounds)
    summaries = {store: summary_of(found) for store, found in results.items()}
    if arguments.json:
        # Of the file alone as it was before there were others.
        document = summaries["sqlite"] if arguments.store == "sqlite" else summaries
        print(json.dumps({"machine": machine, "results": document}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"n per round: {RAW_COMMITS} raw commits, {SEQUENTIAL_STEPS} steps, {RUNS} runs x {STEPS_PER_RUN} steps,")
    print(f"{BUSY_COMMITS} steps beside {BUSY_TASKS} busy tasks; median of rounds (least - most)")
    print("heap frozen (gc.freeze) after the start, before the many runs")
    for store, summary in summaries.items():
        if len(summaries) > 1:
            print(f"\n{store}")
        show(summary)
    if len(summaries) > 1:
        ratios = [
            one["steps_per_second"] / other["steps_per_second"]
            for one, other in zip(results["postgres"], results["sqlite"], strict=True)
        ]
        print(f"\nsteps per second, postgres to sqlite: {statistics.median(ratios):.2f} (median of rounds)")


def machine_of(rounds: int) -> dict[str, Any]:
    """Return on what it was measured, and how often."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "trio": trio.__version__,
        "sqlite": durable_trio.sqlite3.sqlite_version,
        "pragmas": "journal_mode=WAL synchronous=FULL",
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
    }


def summary_of(results: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median and spread of each figure."""
    return {
        key: {
            "median": statistics.median(result[key] for result in results),
            "least": min(result[key] for result in results),
            "most": max(result[key] for result in results),
        }
        for key in results[0]
    }


def show(summary: dict[str, dict[str, float]]) -> None:
    """Print each figure with its spread."""
    for key, value in summary.items():
        print(f"{key:26} {value['median']:10.2f}   ({value['least']:.2f} - {value['most']:.2f})")


if __name__ == "__main__":
    main()
