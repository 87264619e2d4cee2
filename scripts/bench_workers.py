"""Measures worker processes against one process; prints ratios with machine, n and spread.

    python scripts/bench_workers.py [--workers N] [--runs N] [--rounds N]

Steps per second of many runs of 5 steps, started by a client, at ``durability="full"``; with steps that do nothing, and
with steps that compute for a millisecond. In each round one process and N workers take turns on the same machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from durable_trio import Context, Engine, RunStatus, sqlite3, workflow

STEPS_PER_RUN = 5
_FILE, _WORKERS = "BENCH_FILE", "BENCH_WORKERS"
_PATIENCE_SECONDS = 120.0


async def compute(seconds: float) -> int:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return 1


@workflow
async def steps(ctx: Context, seconds: float) -> int:
    return sum([await ctx.step("one", compute, seconds) for _ in range(STEPS_PER_RUN)])


def engine() -> Engine:
    """Return what the measured processes serve; workers find it by this function's name."""
    count = int(os.environ[_WORKERS])
    return Engine(os.environ[_FILE], workflows=[steps], workers=count, app="bench_workers:engine")


async def steps_per_second(workers: int, runs: int, seconds: float) -> float:
    """Have runs executed by a server process of this script, and return how fast they went."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bench.db")
        environment = {**os.environ, _FILE: path, _WORKERS: str(workers)}
        server = subprocess.Popen([sys.executable, __file__, "--serve"], env=environment)  # noqa: ASYNC220  # it is short
        try:
            with trio.fail_after(_PATIENCE_SECONDS):
                async with Engine(path) as client:
                    while len((await client.status()).executors) < max(1, workers):  # noqa: ASYNC110  # no event tells
                        await trio.sleep(0.05)
                    began = time.perf_counter()
                    async with trio.open_nursery() as nursery:
                        for _ in range(runs):
                            nursery.start_soon(client.start, "steps", seconds)
                    while await _ended_count(client) < runs:  # noqa: ASYNC110  # 50 looks a second cost less than a watch
                        await trio.sleep(0.02)
                    return runs * STEPS_PER_RUN / (time.perf_counter() - began)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


async def _ended_count(client: Engine) -> int:
    return (await client.status()).runs_by_status.get(RunStatus.COMPLETED, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures worker processes against one process.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(engine().serve)
        return
    print(
        f"machine {platform.machine()}, cores {os.cpu_count()}, python {platform.python_version()}, "
        f"sqlite {sqlite3.sqlite_version}, load_average {os.getloadavg()[0]:.1f}"
    )
    print(f"{options.rounds} rounds, {options.runs} runs x {STEPS_PER_RUN} steps; median (least - most)")
    for milliseconds in (0.0, 1.0):
        ones, manys, ratios = [], [], []
        for _ in range(options.rounds):
            one = trio.run(steps_per_second, 0, options.runs, milliseconds / 1000)
            many = trio.run(steps_per_second, options.workers, options.runs, milliseconds / 1000)
            ones.append(one)
            manys.append(many)
            ratios.append(many / one)
        print(f"steps of {milliseconds:g} ms of processor time:")
        _show("one process, steps/s", ones, ".0f")
        _show(f"{options.workers} workers, steps/s", manys, ".0f")
        _show("ratio", ratios, ".2f")


def _show(name: str, values: list[float], form: str) -> None:
    print(f"  {name:24}{statistics.median(values):>8{form}}   ({min(values):{form}} - {max(values):{form}})")


if __name__ == "__main__":
    main()
