"""A worker is killed at every probe once and at random instants; whatever happens, every promise holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durable_trio.testing.probes import PROBES
from tests.crash.campaigns import Plan, all_probes, random_plan
from tests.crash.driver import Result
from tests.crash.zygote import Zygote

_SEED = 1
_PROBE_PLANS = all_probes(_SEED)
_RANDOM_PLANS = [random_plan(_SEED), random_plan(_SEED + 1)]
_PLANS = [*_PROBE_PLANS, *_RANDOM_PLANS]

Results = dict[str, Future[Result]]


@pytest.fixture(scope="module")
def results(zygote: Zygote, reference: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """All campaigns, several at a time: they wait for disks and timers most of the time."""
    directory = tmp_path_factory.mktemp("campaigns")
    with ThreadPoolExecutor(4) as pool:
        yield {
            _name(plan): pool.submit(plan.run, zygote, directory / str(number), reference)
            for number, plan in enumerate(_PLANS)
        }


def _name(plan: Plan) -> str:
    return f"seed {plan.seed}: {plan.name}"


@pytest.mark.parametrize("plan", _PLANS, ids=_name)
def test_nothing_is_lost_and_nothing_happens_twice(plan: Plan, results: Results) -> None:
    """Killed, restarted and checked from outside, again and again; a failure names the command that repeats it."""
    result = results[_name(plan)].result()
    assert not result.violations, "\n".join([*result.violations[:20], f"repeat: {plan.command}"])


def test_the_faults_have_hit_something(results: Results) -> None:
    """A campaign that interrupts nothing proves nothing: each kind of interruption came about at least once."""
    counters: Counter[str] = Counter()
    for future in results.values():
        counters.update(future.result().counters)
    print(dict(sorted(counters.items())))
    probed = [kill.probe for plan in _PLANS for kill in plan.kills if kill.probe is not None]
    assert set(probed) == set(PROBES)
    assert counters["probes"] == len(probed)
    assert counters["kills"] >= len(PROBES) + 20
    for name in (
        "log recovered",
        "torn log recovered",
        "compensation resumed",
        "recovery interrupted",
        "at-most-once interrupted",
        "retry continued",
        "wait for a signal continued",
        "timer and signal past due",
        "executed again",
        "results compared",
        "signals consumed",
        "timers",
        "transactions",
    ):
        assert counters[name] > 0, f"no campaign has brought about: {name}"
