"""Minutes in which nobody stays: each minute a process serves until it is idle. A whole day is ``scripts/day.py``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from day_parts.living import MORNING, Day

from tests.kit.forks import Forked


def day(folder: Path, seed: int, **options: Any) -> Day:
    given: dict[str, Any] = {"minutes": 7, "runs": 8, "store": str(folder / "app.db"), "typical_seconds": 0.2}
    return Day(folder=folder, numbers=random.Random(seed), start=Forked, **(given | options))


@pytest.mark.parametrize(
    "options",
    [{}, {"is_woken": True, "runs": 4}, {"kills": 0.5}],
    ids=["each minute", "when it is due", "half of them killed"],
)
def test_all_that_is_due_is_done_in_its_minute_and_once(tmp_path: Path, options: dict[str, Any]) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    lived = day(tmp_path, seed, **options)
    lived.live()
    assert lived.faults() == []
    assert lived.read_notes()


def test_what_is_not_as_it_should_be_is_noticed(tmp_path: Path) -> None:
    lived = day(tmp_path, 1)
    lived.began += [MORNING + 60 * minute for minute in range(12)]
    line: dict[str, Any] = {
        "run": "r",
        "key": "k",
        "attempt": 1,
        "due": MORNING + 100,
        "is_firm": False,
        "pid": 1,
        "began": MORNING + 120,
    }
    line["at"] = line["began"] + 1

    def faults(*changes: dict[str, Any]) -> list[str]:
        lived.notes.write_text("".join(json.dumps({**line, **change}) + "\n" for change in changes))
        return list(lived._faults_of_times())

    assert faults({}) == []
    assert "due at 00:01:40, and executed by the process of 00:03:00" in faults({"began": MORNING + 180})[0]
    assert "1.000 s too early" in faults({"at": MORNING + 99})[0]
    assert "executed 2 times" in faults({}, {})[0]
    lived.killed.append(1)
    assert faults({}, {}) == []
    assert faults({"began": MORNING + 180}) == []
    assert "executed by the process of 00:03:00" in faults({"began": MORNING + 180, "is_firm": True})[0]
