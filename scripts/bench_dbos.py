"""The same runs as in ``bench.py`` with DBOS, where that is installed (``pip install dbos``): prints steps a second.

    python scripts/bench_dbos.py URL RUNS STEPS

Steps are functions that return 1; all runs are started at once and waited for, as there. In a process of its own, for
it has threads and logs of its own.
"""

from __future__ import annotations

import sys
import time

from dbos import DBOS


@DBOS.step()  # type: ignore[untyped-decorator]  # where it is not installed, nothing is known of it
def one() -> int:
    return 1


@DBOS.workflow()  # type: ignore[untyped-decorator]
def short(steps: int) -> int:
    return sum(one() for _ in range(steps))


def main() -> None:
    """Measure once."""
    url, runs, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()
    DBOS.start_workflow(short, steps).get_result()  # all is loaded
    began = time.perf_counter()
    handles = [DBOS.start_workflow(short, steps) for _ in range(runs)]
    assert all(handle.get_result() == steps for handle in handles)
    print(runs * steps / (time.perf_counter() - began))
    DBOS.destroy()


if __name__ == "__main__":
    main()
