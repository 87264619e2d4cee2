"""Measures what runs that only wait cost: memory of the process, and the time until a restart is ready.

    python scripts/scale.py [--runs N] [--json]

Starts N runs that sleep for a day, compares the process with an idle engine, then opens the file anew.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from pathlib import Path

import trio

from durable_trio import Context, RunStatus, open_engine, workflow

DAY_SECONDS = 86_400
STARTERS = 50


@workflow
async def sleeper(ctx: Context) -> None:
    await ctx.sleep(DAY_SECONDS)


def resident_megabytes() -> float:
    """Return the memory of this process that is in RAM."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(path: Path, runs: int) -> dict[str, float]:
    """Return the figures of one round."""
    async with open_engine(path, workflows=[sleeper]) as engine:
        await engine.start(sleeper)  # the idle engine has everything loaded
        await trio.sleep(0.5)
        idle = resident_megabytes()
        began = time.perf_counter()
        numbers = iter(range(runs))

        async def starter() -> None:
            for _ in numbers:
                await engine.start(sleeper)

        async with trio.open_nursery() as nursery:
            for _ in range(STARTERS):
                nursery.start_soon(starter)
        while (await engine.status()).runs_by_status.get(RunStatus.SUSPENDED, 0) <= runs:  # noqa: ASYNC110  # unwatched
            await trio.sleep(0.05)
        started_seconds = time.perf_counter() - began
        with trio.move_on_after(30):  # they stay for a second
            while (await engine.status()).resident_runs:  # noqa: ASYNC110  # leaving memory is no event
                await trio.sleep(0.05)
        grown = resident_megabytes() - idle
        resident = (await engine.status()).resident_runs
    began, cpu_began = time.perf_counter(), time.process_time()
    async with open_engine(path, workflows=[sleeper]) as engine:
        ready_seconds, ready_cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        suspended = (await engine.status()).runs_by_status[RunStatus.SUSPENDED]
    return {
        "runs": suspended,
        "resident_runs": resident,
        "start_seconds": started_seconds,
        "grown_megabytes": grown,
        "restart_ready_seconds": ready_seconds,
        "restart_ready_cpu_seconds": ready_cpu_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = trio.run(measure, Path(folder) / "scale.db", arguments.runs)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for key, value in figures.items():
            print(f"{key:24} {value:12.3f}")


if __name__ == "__main__":
    main()
