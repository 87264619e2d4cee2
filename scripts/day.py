"""Lives through a day in which nobody stays: each minute a process serves until it is idle, and goes.

python scripts/day.py                    a day of 1440 minutes, with 200 runs that wait for something in it
python scripts/day.py --kills 0.2        every fifth process is killed (SIGKILL) at a random instant
python scripts/day.py --woken            no process begins each minute, but when the one before has said it
python scripts/day.py --faketime         the processes have the day's time by libfaketime (Debian: faketime)

It fails unless each step was executed within its minute, none twice (but by a process that was killed), all runs have
completed and no process is left. ``--seed`` repeats a day.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from day_parts.living import Day

_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def main() -> int:
    """Live through a day, and say what was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=1440)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--kills", type=float, default=0.0)
    parser.add_argument("--woken", action="store_true")
    parser.add_argument("--faketime", action="store_true")
    parser.add_argument("--store", help="default: a file in a folder of its own")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        day = Day(
            folder=Path(folder),
            minutes=arguments.minutes,
            runs=arguments.runs,
            numbers=random.Random(arguments.seed),
            store=arguments.store or f"{folder}/app.db",
            workers=arguments.workers,
            kills=arguments.kills,
            faketime=_FAKETIME if arguments.faketime else None,
            is_woken=arguments.woken,
        )
        day.live()
        faults, notes = day.faults(), day.read_notes()
    late = sorted(max(0.0, line["began"] - line["due"]) for line in notes if line["attempt"] == 1)
    print(
        f"seed {arguments.seed}: {arguments.minutes} minutes, {len(day.began)} processes and {len(day.killed)} that "
        f"were killed, {arguments.runs} runs, {len(notes)} steps; the process began {late[len(late) // 2]:.1f} s after "
        f"they were due in the median, {late[-1]:.1f} s at most; {time.monotonic() - began_at:.0f} s"
    )
    for fault in faults:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
