"""Runs that only wait cost rows, not memory, and no time at a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SCRIPT = SCRIPTS / "scale.py"


def test_ten_thousand_sleepers_cost_little_memory_and_no_time_at_a_restart() -> None:
    """In a process of its own: memory that other tests have left would count."""
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), "--runs", "10000", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    figures = json.loads(finished.stdout)
    assert figures["runs"] == 10_001
    assert figures["resident_runs"] == 0
    assert figures["grown_megabytes"] < 28  # also for those that stay for a second: at most `resident_runs_max`
    assert figures["restart_ready_cpu_seconds"] < 1


def test_the_measurement_of_overload_asks_each_question_of_runs_that_have_ended() -> None:
    """What the questions cost is counted in the tests of the store; here only that they can be asked."""
    finished = subprocess.run(
        [sys.executable, str(SCRIPTS / "overload.py"), "--finished", "300"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = finished.stdout.splitlines()
    assert len([line for line in lines if line.startswith("{")]) == 55
    assert any(line.startswith("status()") for line in lines)
    assert lines[-1].startswith("a signal's result")
