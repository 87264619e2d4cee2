#!/usr/bin/env python3
"""Have an operator's hour: deploys good, bad and broken under runs that go on, with a worker killed in each.

    python scripts/operator_hour.py                          400 runs, two minutes
    python scripts/operator_hour.py --runs 1000 --seconds 3600

Two servers with two workers each; what is seen is printed. Exit code 1, and the files are kept, if anything is not as
it must be: a run that is stranded or parked, an effect that was done twice, a code that is taken for another one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.crash.operators import OperatorHour


def main() -> int:
    """Do what the options ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=400, metavar="N", help="how many runs (400)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how long runs go on undisturbed in between, in all (60)",
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="operator_hour-"))
    try:
        OperatorHour(folder, runs=options.runs, seconds=options.seconds).go()
    except Exception:
        traceback.print_exc()
        print(f"FAILED  files: {folder}")
        return 1
    shutil.rmtree(folder)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
