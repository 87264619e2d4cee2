"""Workers on a PostgreSQL server are killed where it matters most; whatever happens, every promise holds.

``scripts/crash_injection.py --store postgres`` kills them everywhere.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.campaigns import Plan, probe_plan, random_plan
from tests.crash.zygote import Zygote
from tests.kit.postgres import new_database_url


@pytest.mark.parametrize(
    "plan",
    [
        probe_plan(1, ["after:step", "after:claim", "commit:transaction", "after:transaction", "before:finish"]),
        random_plan(1, 3),
    ],
    ids=lambda plan: plan.name,
)
def test_nothing_is_lost_and_nothing_happens_twice(plan: Plan, zygote: Zygote, tmp_path: Path) -> None:
    result = plan.run(zygote, tmp_path / "campaign", None, url=new_database_url())
    assert not result.violations, "\n".join([*result.violations[:20], f"repeat: {plan.command} --store postgres"])
    assert result.counters["kills"] == len(plan.kills)
    for name in ("transactions", "signals consumed", "compensations", "timers", "children"):
        assert result.counters[name] > 0, name
