"""A thousand runs, and a worker killed every 300 ms until they have all ended.

``DURABLE_TRIO_STORM=2000`` in the environment has two thousand.
"""

from __future__ import annotations

import os
from typing import Final

from tests.engine.workers.kit import Scene
from tests.engine.workers.storm import Storm

RUNS: Final = int(os.environ.get("DURABLE_TRIO_STORM", "1000"))


async def test_a_storm_of_kills_loses_nothing_and_repeats_only_what_was_in_flight(scene: Scene) -> None:
    """Every run completes, every effect is recorded once, and nothing is left but the file."""
    storm = Storm(runs=RUNS, step_seconds=0.05, seed=1)
    await storm.rage(scene)
    print(storm)
    assert len(storm.killed) >= 3
    assert storm.repeated > 0  # else the kills have hit nothing
