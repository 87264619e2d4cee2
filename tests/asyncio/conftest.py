"""Each test runs in each kind of loop, with the engine in that loop's thread and in one of its own."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.asyncio.kit import HOSTS, Kind
from tests.kit.loops import LOOPS, begin_loops, run_in


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Kind:
    """Where the engine runs."""
    found: Kind = request.param
    return found


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    """Run a program in a loop of each kind."""
    return functools.partial(run_in, request.param)


@pytest.fixture(autouse=True, scope="session")
def loops_have_begun() -> None:
    """What a loop keeps for good is no leak of a test."""
    begin_loops()


@pytest.fixture(autouse=True)
def ctrl_c_is_given_back() -> Iterator[None]:
    """Whoever was to have Ctrl-C before a test has it after it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before
