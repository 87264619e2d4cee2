"""Fixtures for every test: the stores that exist, and a look at what is left behind."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from durable_trio.rules import residency
from durable_trio.stores.sqlite import opening
from tests.engine.harness import Leftovers
from tests.kit.copies import copy_or_migrate
from tests.kit.measured import unmeasured
from tests.kit.traces import effects

# The same examples on every run: a failure shown once is shown again.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# What a shell starts in the background is deaf to Ctrl-C, and so is all that it starts; tests send it to both.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def idle_runs_leave_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that only wait leave at once, for many tests wait for that, and in some the time stands still.

    Where they stay, ``engine/runs/test_idle`` shows; and in processes of their own they do as for users.
    """
    monkeypatch.setattr(residency, "IDLE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def new_stores_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema of a new store is not made step by step each time."""
    monkeypatch.setattr(opening, "_migrate", copy_or_migrate)


@pytest.fixture
def no_effects() -> None:
    """Nothing that a test before has done is among the effects."""
    effects.clear()


@pytest.fixture
def file_path(tmp_path: Path) -> str:
    """The path of a store in a file that does not exist yet."""
    return str(tmp_path / "app.db")


@pytest.fixture(params=["memory", "file"])
def store_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """``":memory:"``, then the path of a file."""
    return ":memory:" if request.param == "memory" else str(tmp_path / "app.db")


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test if it leaves a thread, a child process or an open file behind."""
    before = Leftovers.now()
    yield
    before.assert_nothing_new()


# Of a test with parameters, so many are measured by coverage in each process: the others pass the same lines, and would
# take twice as long.
_MEASURED_COUNT = 2
_called: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Have coverage pause while a test repeats what it has done with other parameters, or is marked for it."""
    name = item.nodeid.partition("[")[0]
    _called[name] += 1
    is_measured = _called[name] <= _MEASURED_COUNT and item.get_closest_marker("unmeasured") is None
    with contextlib.nullcontext() if is_measured else unmeasured():
        return (yield)


# The files that take longest, by what a whole run has shown. Those that start many processes stand beside those that
# only compute, so that they do not all come together.
_LONGEST_FIRST = (
    "engine/workers/test_kills.py",
    "context/test_random_programs.py",
    "crash/test_crash_injection.py",
    "cli/test_serve.py",
    "engine/workers/test_stopped.py",
    "engine/test_damaged_rows.py",
    "test_walk.py",
    "engine/workers/test_false_starts.py",
    "calls/test_map.py",
    "test_docs.py",
    "engine/workers/test_drain.py",
    "engine/test_hostile_objects.py",
    "engine/workers/test_wrong_apps.py",
    "cli/test_operations.py",
    "engine/test_chaos_inside.py",
    "engine/workers/test_sharing.py",
    "context/test_failing_branches.py",
    "engine/test_blocked_loop.py",
    "calls/test_crashes_with_children.py",
    "engine/watching/test_watch_costs.py",
    "engine/workers/test_storm.py",
    "test_scale.py",
    "cli/test_looking.py",
    "calls/test_publish.py",
    "engine/test_restored_live.py",
    "cli/test_acting.py",
    "context/test_branches.py",
    "cli/test_top.py",
    "crash/test_executors.py",
    "crash/test_planted_bugs.py",
    "engine/services/test_timers.py",
    "engine/test_run.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; all else stays in its order."""
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
