"""What tests of other loops run in: each loop of asyncio's interface, each host of an engine there, each toolkit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any

import pytest

from tests.platforms.kit import HOSTS, LOOPS, Kind, make_loop, run_in
from tests.platforms.windows import TOOLKITS, must_be_there


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Kind:
    """Where the engine runs."""
    found: Kind = request.param
    return found


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Run a program in a loop of each kind."""
    return functools.partial(run_in, request.param)


@pytest.fixture(params=TOOLKITS)
def toolkit(request: pytest.FixtureRequest) -> str:
    """The name of each toolkit that is there."""
    found: str = request.param
    must_be_there(found)
    return found


@pytest.fixture(autouse=True, scope="session")
def loops_have_begun() -> None:
    """libuv opens a pipe for signals with the first loop, and keeps it."""
    if find_spec("uvloop"):  # else what needs it is skipped, and nothing more
        make_loop("uvloop")().close()
