"""What tests of platforms run in: each toolkit that is there, and loops that have been before."""

from __future__ import annotations

import pytest

from tests.kit.loops import begin_loops
from tests.platforms.windows import TOOLKITS, must_be_there


@pytest.fixture(params=TOOLKITS)
def toolkit(request: pytest.FixtureRequest) -> str:
    """The name of each toolkit that is there."""
    found: str = request.param
    must_be_there(found)
    return found


@pytest.fixture(autouse=True, scope="session")
def loops_have_begun() -> None:
    """What a loop keeps for good is no leak of a test."""
    begin_loops()
