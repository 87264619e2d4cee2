"""What is wrong on an example's command line is refused before anything is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.kit import EXAMPLES, Example


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_a_speed_at_which_nothing_would_ever_be_due_is_refused(name: str, tmp_path: Path) -> None:
    """Divided by in the middle of a workflow, it would fail runs for good."""
    example = Example(name, tmp_path, speed=0)
    assert example.run(exit_status=2)[-1].endswith("error: --speed must be more than 0")
    assert not example.folder.exists()


@pytest.mark.parametrize("speed", [-1.0, float("nan")])
def test_a_speed_that_is_less_than_none_or_no_number_is_refused(speed: float, tmp_path: Path) -> None:
    lines = Example("checkout", tmp_path, f"--speed={speed}").run(exit_status=2)
    assert lines[-1].endswith("error: --speed must be more than 0")
