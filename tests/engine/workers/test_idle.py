"""An engine that has nothing to do costs next to nothing."""

from __future__ import annotations

from tests.engine.workers.idle import idle_shares
from tests.engine.workers.kit import Scene


async def test_an_idle_engine_uses_a_small_part_of_a_core(scene: Scene) -> None:
    """1.5 % is the aim (``scripts/worker_crashes.py --idle`` measures it); so much more is certainly a loop."""
    (share,) = await idle_shares(scene, 0, seconds=2)
    print(f"{100 * share:.1f} % of a core")
    assert share < 0.15
