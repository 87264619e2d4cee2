#!/usr/bin/env python3
"""A storm of runs, kills, poison and blocked loops, of which only the log is read; then it is compared with the file.

    python scripts/fates.py                  200 runs, 4 workers
    python scripts/fates.py --times 10 --seed 7

Each failure prints what is wrong and where the files are. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from tests.crash.fates import fate_of, storm  # noqa: E402


def main() -> int:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=10, help="from outside; runs kill besides")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    is_wrong = False
    for seed in range(options.seed, options.seed + options.times):
        folder = Path(tempfile.mkdtemp(prefix="fates-"))
        began = time.monotonic()
        found = storm(folder, runs=options.runs, workers=options.workers, kills=options.kills, seed=seed)
        violations = list(found.violations())
        is_wrong = is_wrong or bool(violations)
        stored = Counter(map(fate_of, found.records.values()))
        fates = found.fates()
        untold = sum(fate_of(record) != fates[run_id] for run_id, record in found.records.items())
        counts = ", ".join(f"{count} {fate}" for fate, count in sorted(stored.items()))
        deaths = len(found.of("process_died", "process_silent"))
        word = "FAILED" if violations else "ok"
        print(f"{word:6} seed {seed}: {counts}; {deaths} deaths, {untold} untold, {time.monotonic() - began:.0f} s")
        for violation in violations[:20]:
            print(f"         {violation}")
        if violations:
            print(f"       files: {folder}", flush=True)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
