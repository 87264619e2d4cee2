"""Workers whose engine is in a program of asyncio's are killed; each process is in another kind of loop or host.

``scripts/crash_injection.py --host guest-asyncio`` and its like kill them everywhere.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.crash.campaigns import Plan, probe_plan, random_plan
from tests.crash.hosts import HOSTS
from tests.crash.zygote import Zygote

_PLACES = [
    name
    for name, host in HOSTS.items()
    if host.is_asyncio and (not host.backend_options["use_uvloop"] or importlib.util.find_spec("uvloop"))
]


@pytest.mark.parametrize(
    "plan",
    [
        probe_plan(1, ["after:step", "commit:transaction", "after:send-signal", "after:compensation", "before:finish"]),
        random_plan(1, 3),
    ],
    ids=lambda plan: plan.name,
)
def test_nothing_is_lost_and_nothing_happens_twice(
    plan: Plan, zygote: Zygote, reference: dict[str, Any], tmp_path: Path
) -> None:
    """The results are those of runs in trio."""
    result = plan.run(zygote, tmp_path / "campaign", reference, hosts=_PLACES)
    again = " ".join([plan.command, *(f"--host {name}" for name in _PLACES)])
    assert not result.violations, "\n".join([*result.violations[:20], f"repeat: {again}"])
    assert result.counters["kills"] == len(plan.kills)
    for name in ("transactions", "signals consumed", "compensations", "timers", "children", "results compared"):
        assert result.counters[name] > 0, name
