"""Code changes under runs, well and badly, and workers are killed meanwhile: nobody is stranded."""

from __future__ import annotations

from pathlib import Path

from tests.crash.operators import OperatorHour


def test_an_hour_of_an_operator_strands_no_run_and_repeats_no_effect(tmp_path: Path) -> None:
    """A rolling deploy, a bad one that a rehearsal would have caught, a broken file, and the mend; with kills."""
    OperatorHour(tmp_path, runs=24).go()
