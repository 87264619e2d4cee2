#!/usr/bin/env python3
"""Kill worker processes while they work, and check that nothing is lost, done twice or left behind.

    python scripts/worker_crashes.py                          2,000 runs, a worker killed every 300 ms
    python scripts/worker_crashes.py --runs 50000 --seed 7
    python scripts/worker_crashes.py --minutes 30             storm after storm, each from the next seed
    python scripts/worker_crashes.py --idle                   what an engine costs that has nothing to do

Each failure prints the one command that repeats it, and keeps its files. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import trio

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from tests.engine.workers.idle import describe_idle  # noqa: E402
from tests.engine.workers.kit import Scene  # noqa: E402
from tests.engine.workers.storm import Storm  # noqa: E402


def main() -> int:
    """Do what the options ask for."""
    options = _parse()
    if options.idle:
        for workers in (0, 1, 4):
            print(trio.run(describe_idle, workers))
        return 0
    seed: int = options.seed
    failures = 0
    began = time.monotonic()
    while True:
        failures += not _storm(options, seed)
        seed += 1
        if options.minutes is None or time.monotonic() - began > options.minutes * 60:
            break
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="how many runs (2000)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps of each run (5)")
    parser.add_argument("--step-seconds", type=float, default=0.005, metavar="S", help="what a step takes (0.005)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="worker processes (4)")
    parser.add_argument("--interval", type=float, default=0.3, metavar="S", help="seconds between two kills (0.3)")
    parser.add_argument("--durability", choices=["full", "normal"], default="normal", help="of the file (normal)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the choice of whom to kill (1)")
    parser.add_argument("--minutes", type=float, metavar="M", help="go on with new seeds for so long")
    parser.add_argument(
        "--max-seconds", type=float, default=600.0, metavar="S", help="all must have ended by then (600)"
    )
    parser.add_argument("--idle", action="store_true", help="measure the cost of idle engines instead")
    return parser.parse_args()


def _storm(options: argparse.Namespace, seed: int) -> bool:
    """Have one storm; return whether all was well."""
    storm = Storm(
        runs=options.runs,
        steps=options.steps,
        step_seconds=options.step_seconds,
        workers=options.workers,
        interval_seconds=options.interval,
        durability=options.durability,
        seed=seed,
        max_seconds=options.max_seconds,
    )
    directory = Path(tempfile.mkdtemp(prefix="worker_crashes-"))
    scene = Scene(directory, str(directory / "app.db"))
    is_well = False
    try:
        trio.run(storm.rage, scene)
        is_well = True
    except Exception:
        traceback.print_exc()
    finally:
        scene.clear()
    if is_well:
        print(f"ok      {storm}", flush=True)
        shutil.rmtree(directory)
    else:
        names = ("runs", "steps", "step_seconds", "workers", "interval", "durability")
        text = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in names)
        print(
            f"FAILED  files: {directory}\n        repeat: python scripts/worker_crashes.py --seed {seed} {text}",
            flush=True,
        )
    return is_well


if __name__ == "__main__":
    sys.exit(main())
