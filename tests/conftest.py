"""Fixtures for every test: the stores that exist, and a look at what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import settings

from durable_trio.code import project
from durable_trio.engine import engine
from durable_trio.rules import residency
from durable_trio.stores.contract import Store
from durable_trio.stores.sqlite import opening
from tests.engine.harness import Leftovers
from tests.kit.copies import copy_or_migrate
from tests.kit.hosts import HOSTS
from tests.kit.imports import found_once
from tests.kit.measured import unmeasured
from tests.kit.stores import KINDS, kind_at, store_at
from tests.kit.traces import effects

_FOLDER = Path(__file__).parent

# The same examples on every run: a failure shown once is shown again.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# What a shell starts in the background is deaf to Ctrl-C, and so is all that it starts; tests send it to both.
signal.signal(signal.SIGINT, signal.default_int_handler)
# And what ``nohup`` starts is deaf to the end of a terminal, which asks a server without one to reload.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

vars(project)["_imported"] = found_once(project._imported)


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


# Of these folders and files, tests of a store at any path run on a log as well, a store of a wholly different kind.
_ON_LOG_TOO = (
    "calls/test_publish",
    "calls/test_retry",
    "calls/test_saga",
    "calls/test_signals",
    "calls/test_steps",
    "calls/test_step_timeouts",
    "engine/runs/test_idle",
    "engine/test_again",
    "engine/test_blocks",
    "engine/test_cancel",
    "engine/test_ids",
    "engine/test_resuming",
    "engine/test_run",
    "engine/test_steps_under_way",
    "engine/test_ttl",
    "engine/test_watch",
    "engine/watching/test_waiting_for_ends",
    "engine/watching/test_watched_records",
)

# And of these, all that take an address run on a server as well, where one is installed: what a run can do, and what
# becomes of it when processes die.
_ON_POSTGRES_TOO = (
    "calls/test_at_most_once",
    "calls/test_children",
    "calls/test_saga",
    "calls/test_signals",
    "calls/test_steps",
    "context/test_branches",
    "engine/services/test_recovery",
    "engine/services/test_timers",
    "engine/test_cancel",
    "engine/test_outages",
    "engine/test_watch",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what says on which store tests run (``tests/kit/stores.py``), and in which loop (``tests/kit/hosts.py``)."""
    parser.addoption("--store", choices=list(KINDS), help="run tests of any store on the one of this name alone")
    parser.addoption("--host", choices=list(HOSTS), help="run trio as the guest of this loop")


def pytest_configure(config: pytest.Config) -> None:
    """Put a guest's run in the place of trio's own, where a host is chosen."""
    if host := config.getoption("--host"):
        trio.run = HOSTS[host]  # type: ignore[assignment]  # any function with any arguments
        trio.run(trio.lowlevel.checkpoint)  # what a loop opens for its first run, and keeps, no test has left behind


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Say on which stores a test of any store runs."""
    if "store_path" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--store")
        names = [chosen] if chosen else ["memory", "sqlite", *_further(metafunc)]
        metafunc.parametrize("store_path", names, indirect=True)
    elif "file_path" in metafunc.fixturenames and "postgres" in _further(metafunc):
        metafunc.parametrize("file_path", ["sqlite", "postgres"], indirect=True)


def _further(metafunc: pytest.Metafunc) -> list[str]:
    """Return on which stores a test runs besides, where none is chosen."""
    if metafunc.config.getoption("--store") or _why_sqlite(metafunc.definition):
        return []
    place = metafunc.definition.path.relative_to(_FOLDER).as_posix()
    return ["log"] * place.startswith(_ON_LOG_TOO) + ["postgres"] * place.startswith(_ON_POSTGRES_TOO)


# Folders of which all tests are about SQLite, and why. Elsewhere a test is marked ``on_sqlite``.
_ON_SQLITE = {
    "cli": "the command line opens a file",
    "crash": "processes that have a file open are killed, and the checker looks into it",
    "examples": "programs of their own, on a file",
    "stores/sqlite": "tests of that store",
    "versions": "files of earlier versions",
}


def _why_sqlite(item: pytest.Item) -> str | None:
    """Return why a test is about SQLite, if it is."""
    marker = item.get_closest_marker("on_sqlite")
    if marker is not None:
        return str(marker.args[0])
    return next((why for folder, why in _ON_SQLITE.items() if item.path.is_relative_to(_FOLDER / folder)), None)


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[], str]:
    """Return paths of files that do not exist yet, the first of them ``app.db``."""
    return _new(tmp_path, "db")


@pytest.fixture(autouse=True)
def server_for_tests(request: pytest.FixtureRequest) -> None:
    """A test that needs the server finds it up: it is nothing that this test leaves behind."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "postgres" in (request.config.getoption("--store"), parameters.get("store_path"), parameters.get("file_path")):
        from tests.kit.postgres import new_schema_url

        new_schema_url()


@pytest.fixture
def new_schema(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return URLs of schemas that hold nothing, on a server for tests."""
    from tests.kit.postgres import lend_schema, return_schema

    def new() -> str:
        url = lend_schema()
        request.addfinalizer(lambda: return_schema(url))
        return url

    return new


@pytest.fixture
def new_log(tmp_path: Path) -> Callable[[], str]:
    """Return paths of logs that do not exist yet."""
    return _new(tmp_path, "log")


def _new(folder: Path, ending: str) -> Callable[[], str]:
    names = chain(["app"], (f"app-{number}" for number in count(2)))
    return lambda: str(folder / f"{next(names)}.{ending}")


@pytest.fixture
def new_store(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return addresses of new stores that outlive their engines: usually files, else of the kind that is chosen."""
    new: Callable[[], str] = request.getfixturevalue(KINDS[request.config.getoption("--store") or "sqlite"].new)
    return new


@pytest.fixture
def file_path(request: pytest.FixtureRequest) -> str:
    """The address of one new store that outlives its engine; here and there on a server as well."""
    kind = getattr(request, "param", None)
    new: Callable[[], str] = request.getfixturevalue("new_store" if kind is None else KINDS[kind].new)
    return new()


@pytest.fixture
def store_path(request: pytest.FixtureRequest) -> str:
    """``":memory:"``, then the address of a file; here and there that of a log; or of what is chosen."""
    if request.param == "memory":
        return ":memory:"
    new: Callable[[], str] = request.getfixturevalue(KINDS[request.param].new)
    return new()


@pytest.fixture(autouse=True)
def engines_take_all_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine takes a store of each kind at its address, and of the chosen one instead of one in memory.

    Where time is virtual, it is in memory all the same: nothing else keeps to such a time.
    """
    chosen: str | None = request.config.getoption("--store")
    if chosen in (None, "sqlite") or _why_sqlite(request.node):
        monkeypatch.setattr(engine, "make_store", store_at)
        return
    new: Callable[[], str] = request.getfixturevalue(KINDS[chosen].new)

    def chosen_at(address: str | os.PathLike[str], *, durability: str = "full") -> Store:
        if address == ":memory:":
            return store_at(address if _is_time_virtual() else new(), durability=durability)
        if kind_at(address) != chosen:
            pytest.fail(f"this test takes the store {str(address)!r}: have it take file_path, or mark it on_sqlite")
        return store_at(address, durability=durability)

    monkeypatch.setattr(engine, "make_store", chosen_at)


def _is_time_virtual() -> bool:
    return trio.lowlevel.in_trio_run() and isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)


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
    "stores/postgres/test_examples.py",
    "context/test_random_programs.py",
    "crash/test_crash_injection.py",
    "cli/test_serve.py",
    "engine/workers/test_stopped.py",
    "engine/test_damaged_rows.py",
    "test_walk.py",
    "stores/postgres/test_contract.py",
    "platforms/test_life_cycle.py",
    "examples/test_web_orders.py",
    "crash/test_operator_hour.py",
    "calls/test_changes_in_the_middle.py",
    "stores/sqlite/answers/test_lists.py",
    "calls/test_map.py",
    "test_docs.py",
    "engine/workers/test_drain.py",
    "engine/test_hostile_objects.py",
    "cli/test_operations.py",
    "engine/test_chaos_inside.py",
    "engine/workers/test_sharing.py",
    "stores/postgres/test_pair.py",
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


# After so many new objects it is looked for garbage. Tests make many that live as long as they do: after 700, which is
# usual, looks find hardly any, and take a twentieth of the time of all tests.
_NEW_OBJECTS_MAX = 10_000


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect thousands of tests without a look for garbage, and leave them out of all later ones.

    Hardly anything of them becomes garbage, and among them each look takes as long as many tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS_MAX)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest; all else stays in its order. On another store, skip what is about SQLite."""
    places = {_FOLDER / name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if config.getoption("--store") not in (None, "sqlite"):
        for item in items:
            if why := _why_sqlite(item):
                item.add_marker(pytest.mark.skip(reason=f"on SQLite only: {why}"))
