"""What has become of each run can be told from the log alone, whatever has died meanwhile."""

from __future__ import annotations

from pathlib import Path

from tests.crash.fates import storm


def test_the_log_alone_tells_the_fate_of_each_run_in_a_storm(tmp_path: Path) -> None:
    """``scripts/fates.py`` does the same with more runs, as often as one likes."""
    found = storm(tmp_path, runs=25, workers=2, kills=1, seed=1)
    assert not list(found.violations())
    assert {"completed", "failed", "expired", "set aside", "parked"} <= set(found.fates().values())
    assert found.of("compensation_failed")
    assert found.of("step_retried")
