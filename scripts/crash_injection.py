#!/usr/bin/env python3
"""Kill workers, restart them, check what is left. Any number of times, each from a seed.

    python scripts/crash_injection.py                       every probe once, then 20 random kills
    python scripts/crash_injection.py --kills 1000 --seed 7
    python scripts/crash_injection.py --probe after:finish --probe before:claim
    python scripts/crash_injection.py --minutes 30          until the time is over
    python scripts/crash_injection.py --store postgres      on a PostgreSQL server, a database for each campaign
    python scripts/crash_injection.py --host guest-uvloop --host thread-asyncio    in programs in asyncio, in turns

Each failure prints the one command that repeats it. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from durable_trio.testing.probes import KINDS, PROBES  # noqa: E402
from tests.crash.campaigns import Plan, all_probes, make_reference, probe_plan, random_plan  # noqa: E402
from tests.crash.hosts import HOSTS  # noqa: E402
from tests.crash.zygote import Zygote  # noqa: E402


def main() -> int:
    """Run what the options ask for."""
    options = _parse()
    directory = Path(options.directory or tempfile.mkdtemp(prefix="crash_injection-"))
    began = time.monotonic()
    counters: Counter[str] = Counter()
    failures = 0
    hosts = " ".join(f"--host {name}" for name in options.host)
    zygote = Zygote()
    try:
        reference = make_reference(zygote, directory / "reference", url=_new_url(options))
        for number, plan in enumerate(_plans(options)):
            if options.minutes is not None and time.monotonic() - began > options.minutes * 60:
                break
            result = plan.run(
                zygote, directory / f"campaign-{number}", reference, url=_new_url(options), hosts=options.host
            )
            counters.update(result.counters)
            word = "FAILED" if result.violations else "ok"
            print(f"{word:6} {result.seconds:6.1f} s  seed {plan.seed}  {plan.name}", flush=True)
            if result.violations:
                failures += 1
                for violation in result.violations[:20]:
                    print(f"         {violation}")
                print(f"       files: {directory / f'campaign-{number}'}")
                print(f"       repeat: {plan.command} --store {options.store} {hosts}", flush=True)
    finally:
        zygote.close()
    print("\ncounters:")
    for name, count in sorted(counters.items()):
        print(f"  {count:8} {name}")
    elapsed = time.monotonic() - began
    print(f"{counters['kills']} kills in {elapsed:.0f} s, {failures} campaigns failed (seed {options.seed})")
    return 1 if failures else 0


def _new_url(options: argparse.Namespace) -> str | None:
    if options.store == "sqlite":
        return None
    from tests.kit.postgres import new_database_url  # its server starts when it is asked for one

    return new_database_url()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, metavar="N", help="random kills")
    parser.add_argument("--kills-per-file", type=int, default=10, metavar="N", help="random kills of one file (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of everything that is left to chance (1)")
    parser.add_argument("--probe", action="append", metavar="NAME", help="die there; several: one after the other")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="die the n-th time the probe is reached (1)")
    parser.add_argument("--minutes", type=float, metavar="M", help="go on with new seeds for so long")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite", help="a file, or a private server")
    parser.add_argument(
        "--host", action="append", choices=list(HOSTS), help="where the engine runs (trio); several: in turns"
    )
    parser.add_argument("--directory", metavar="DIR", help="where the files are; default a new temporary one")
    parser.add_argument("--list", action="store_true", help="list the probes, and end")
    options = parser.parse_args()
    options.host = options.host or ["trio"]
    if options.list:
        for probe in PROBES:
            print(f"{probe:30} {KINDS[probe.partition(':')[2]]}")
        sys.exit(0)
    for probe in options.probe or ():
        if probe not in PROBES:
            parser.error(f"there is no probe {probe!r}; --list names them")
    return options


def _plans(options: argparse.Namespace) -> Iterator[Plan]:
    seed: int = options.seed
    if options.probe:
        yield probe_plan(seed, options.probe, count=options.count)
        return
    if options.minutes is None:
        if options.kills is None:
            yield from all_probes(seed)
        yield from _random_plans(seed, options.kills or 20, options.kills_per_file)
        return
    while True:
        chance = random.Random(seed)
        yield probe_plan(seed, chance.sample(PROBES, 6), count=chance.randint(1, 4))
        yield random_plan(seed, options.kills_per_file)
        seed += 1


def _random_plans(seed: int, kill_count: int, per_file: int) -> Iterator[Plan]:
    while kill_count > 0:
        yield random_plan(seed, min(per_file, kill_count))
        kill_count -= per_file
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
