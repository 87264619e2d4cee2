"""Fixtures for users' tests, which pytest finds by itself: ``durable_engine`` and ``virtual_time``.

pytest imports this module whenever it starts, also where nobody asks for the fixtures. So it imports the rest of the
library only when somebody does.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trio.testing import MockClock

    from durable_trio.testing.engines import DurableEngine

__all__ = ["durable_engine", "virtual_time"]


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> MockClock:
    """The test's clock: time leaps to what is due next whenever nothing else is to be done.

    pytest-trio runs a test with the clock that the test itself has asked for; a fixture's counts for nothing.

    Raises:
        RuntimeError: only another fixture, or a mark, has asked for it.
    """
    from trio.testing import MockClock

    _check_is_run_by_trio(request)
    if "virtual_time" not in inspect.signature(request.function).parameters:
        name = request.function.__name__
        raise RuntimeError(
            f"{name} itself has to ask for the clock, else its time is the real one: async def {name}(…, virtual_time)"
        )
    return MockClock(autojump_threshold=0)


@pytest.fixture
def durable_engine(request: pytest.FixtureRequest) -> DurableEngine:
    """Opens an engine for some workflows: ``async with durable_engine(order, cancel) as engine:``.

    In memory, or where ``store`` says; other options are those of ``Engine``. Where the test also asks for
    ``virtual_time``, the engine's time is that.
    """
    from durable_trio.testing.engines import DurableEngine

    _check_is_run_by_trio(request)
    return DurableEngine(has_virtual_time="virtual_time" in request.fixturenames)


def _check_is_run_by_trio(request: pytest.FixtureRequest) -> None:
    """Refuse an async test that nobody runs: pytest would skip it, or say what has nothing to do with this."""
    is_marked = any(request.node.get_closest_marker(mark) is not None for mark in ("trio", "anyio"))
    if inspect.iscoroutinefunction(request.function) and not is_marked:
        raise RuntimeError(
            "the test has to be run by trio: install pytest-trio, and write trio_mode = true into the pytest settings"
        )
