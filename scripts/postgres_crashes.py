#!/usr/bin/env python3
"""Let a PostgreSQL server and the way to it fail while stores work, and check that nothing is lost or done twice.

    python scripts/postgres_crashes.py                        half a minute
    python scripts/postgres_crashes.py --minutes 20           storm after storm, each from the next seed

Prints what was seen of each kind. Exit code 1 if something was lost, done twice or left over, or if a kind was not
seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "scripts")]

from tests.stores.postgres.storm import COUNTED, Storm  # noqa: E402


def main() -> int:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long a storm takes at least (30)")
    parser.add_argument("--minutes", type=float, default=0.0, metavar="M", help="go on with new seeds for so long")
    parser.add_argument("--hands", type=int, default=4, metavar="N", help="stores that work (4)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="of what happens, as far as that can be said (1)"
    )
    options = parser.parse_args()
    seed, failures, began = options.seed, 0, time.monotonic()
    while True:
        failures += not _has_passed(Storm(seed=seed, seconds=options.seconds, hands=options.hands))
        seed += 1
        if time.monotonic() - began > options.minutes * 60:
            return 1 if failures else 0


def _has_passed(storm: Storm) -> bool:
    try:
        counted = storm.run()
    except AssertionError as error:
        print(f"seed {storm.seed}: {error}")
        return False
    print(f"seed {storm.seed}: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items())), flush=True)
    return all(counted[each] for each in COUNTED)


if __name__ == "__main__":
    sys.exit(main())
