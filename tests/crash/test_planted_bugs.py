"""The checker is not blind: each planted bug is found, by the point whose promise it breaks."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.crash.driver import SETTLE_SECONDS, Campaign, Kill
from tests.crash.planted import PLANTED
from tests.crash.zygote import Zygote


@attrs.frozen
class Case:
    """A planted bug: which workflow shows it, which kills it takes, and the points that must be named."""

    workflow: str
    points: tuple[int, ...]
    kills: tuple[Kill, ...] = ()
    settle_seconds: float = SETTLE_SECONDS


#: With these bugs a run never ends: what is wrong shows long before.
_HANGS_SECONDS = 5.0
_CASES = {
    # What is owed is committed late: behind a transaction if the kill comes after one.
    "acknowledge before commit": Case("order", (1, 3), (Kill(probe="before:step", count=2),)),
    "overwrite an outcome": Case("order", (3,)),
    "consume a signal before it is recorded": Case("mail", (2,), (Kill(probe="before:signal"),)),
    "record a signal before it is consumed": Case("mail", (5,), (Kill(probe="after:signal"),)),
    "register a compensation after the commit": Case("saga", (7,), (Kill(probe="after:step"),)),
    "store no intent": Case("careful", (4,), (Kill(in_effect="once"),)),
    "store no attempts": Case("order", (4,), (Kill(in_effect="retried#0@3"),)),
    "begin a sleep anew": Case("order", (6,), (Kill(probe="after:wait-sleep"),)),
    "lose a signal": Case("mail", (1,), settle_seconds=_HANGS_SECONDS),
    "give signals backwards": Case("mail", (5,), settle_seconds=_HANGS_SECONDS),
    "commit a transaction twice": Case("order", (4,)),
    "overwrite a final state": Case("order", (9,)),
    "skip the record of compensations": Case("saga", (1, 7)),
    "commit half an operation": Case("order", (2,), (Kill(probe="after:transaction"),)),
    "compensate forwards": Case("saga", (7,)),
    "fire timers early": Case("order", (6,)),
}
#: Shown by two executors, in ``test_executors.py``.
_ELSEWHERE = {"check no fence"}


@pytest.mark.parametrize("name", _CASES)
def test_a_planted_bug_is_found(name: str, zygote: Zygote, tmp_path: Path) -> None:
    """The same campaign that is clean without the bug names the broken promise with it."""
    case = _CASES[name]

    campaign = Campaign(zygote, tmp_path, planted=name, only=[case.workflow], settle_seconds=case.settle_seconds)
    spoilt = campaign.run(case.kills)

    assert any(text.startswith(f"point {point}:") for point in case.points for text in spoilt.violations), (
        spoilt.violations
    )


@pytest.mark.parametrize(
    ("workflow", "kills"), sorted({(case.workflow, case.kills) for case in _CASES.values()}, key=str)
)
def test_without_the_bug_nothing_is_found(
    workflow: str, kills: tuple[Kill, ...], zygote: Zygote, tmp_path: Path
) -> None:
    """What the planted bugs are found by finds nothing in a sound engine."""
    assert Campaign(zygote, tmp_path, only=[workflow]).run(kills).violations == []


def test_every_planted_bug_has_its_test() -> None:
    """None is left out."""
    assert set(PLANTED) == set(_CASES) | _ELSEWHERE
