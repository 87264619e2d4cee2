"""The fixtures that a user's tests get: each right use passes, and each misuse says what to write instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from durable_trio.testing import pytest_plugin

HEAD = """
import pytest
import trio
from durable_trio import Context, workflow
from durable_trio.testing import DurableEngine, VirtualClock

@workflow
async def reminder(ctx: Context) -> str:
    await ctx.sleep(7 * 86_400)
    return f"unpaid on {ctx.now():%d %B}"

@workflow
async def quick(ctx: Context) -> int:
    return await ctx.step("one", lambda: 1)
"""


def run_tests(folder: Path, source: str, *, head: str = HEAD) -> str:
    """Run a file of tests as a user would, and return what pytest says."""
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    (folder / "test_it.py").write_text(head + source)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:cov", "-q", "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100).stdout


def test_an_engine_for_some_workflows_with_and_without_virtual_time(tmp_path: Path) -> None:
    said = run_tests(
        tmp_path,
        """
async def test_a_week(durable_engine, virtual_time):
    async with durable_engine(reminder) as engine:
        assert await engine.run(reminder) == "unpaid on 08 January"

async def test_real_time(durable_engine: DurableEngine):
    async with durable_engine(quick) as engine:
        assert await engine.run(quick) == 1

async def test_a_file_that_goes_on(durable_engine, tmp_path):
    async with durable_engine(quick, store=tmp_path / "app.db") as engine:
        await engine.run(quick, id="q")
    async with durable_engine(quick, store=tmp_path / "app.db") as engine:
        assert await engine.get("q").result() == 1

@pytest.fixture
async def engine(durable_engine):
    async with durable_engine(reminder, quick, concurrency=3) as engine:
        yield engine

async def test_by_a_fixture_of_its_own(engine, virtual_time):
    assert await engine.run(reminder) == "unpaid on 08 January"
""",
    )
    assert "4 passed" in said, said


def test_the_test_file_of_the_documentation_passes(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    source = page.partition("## With pytest")[2].partition("```py\n")[2].partition("```")[0]
    assert "4 passed" in run_tests(tmp_path, source, head="")


#: What is written by mistake, and what the error says to write.
MISUSES = {
    "only a fixture asks for the clock": (
        """
@pytest.fixture
async def engine(durable_engine, virtual_time):
    async with durable_engine(reminder) as engine:
        yield engine

async def test_it(engine):
    await engine.run(reminder)
""",
        "async def test_it(…, virtual_time)",
    ),
    "a mark asks for the clock": (
        """
@pytest.mark.usefixtures("virtual_time")
async def test_it(durable_engine):
    pass
""",
        "async def test_it(…, virtual_time)",
    ),
    "the engine's clock alone": (
        """
async def test_it(durable_engine):
    async with durable_engine(reminder, clock=VirtualClock()) as engine:
        await engine.run(reminder)
""",
        "autojump_clock",
    ),
    "a file in virtual time": (
        """
async def test_it(durable_engine, virtual_time, tmp_path):
    durable_engine(reminder, store=tmp_path / "app.db")
""",
        "leave out virtual_time",
    ),
    "worker processes in virtual time": (
        """
async def test_it(durable_engine, virtual_time):
    durable_engine(reminder, workers=2, app="app:engine")
""",
        "leave out workers",
    ),
    "it is taken for an engine": (
        """
async def test_it(durable_engine):
    await durable_engine.run(reminder)
""",
        "async with durable_engine(…) as engine:",
    ),
    "it is awaited": (
        """
async def test_it(durable_engine):
    engine = await durable_engine(reminder)
""",
        "async with durable_engine(…) as engine:",
    ),
    "it is not entered": (
        """
async def test_it(durable_engine):
    engine = durable_engine(reminder)
    await engine.run(reminder)
""",
        "async with durable_engine(…) as engine:",
    ),
    "it is entered without async": (
        """
async def test_it(durable_engine):
    with durable_engine(reminder) as engine:
        pass
""",
        "async with durable_engine(…) as engine:",
    ),
    "workflows by keyword": (
        """
async def test_it(durable_engine):
    durable_engine(workflows=[reminder])
""",
        "durable_engine(order, cancel)",
    ),
    "a function that is no workflow": (
        """
async def plain(ctx: Context) -> int:
    return 1

async def test_it(durable_engine):
    async with durable_engine(plain) as engine:
        pass
""",
        "@workflow",
    ),
    "an option of another name": (
        """
async def test_it(durable_engine):
    async with durable_engine(quick, concurency=3) as engine:
        pass
""",
        "concurrency",
    ),
    "another event loop": (
        """
import asyncio

def test_it(durable_engine):
    async def main():
        async with durable_engine(quick) as engine:
            pass
    asyncio.run(main())
""",
        "trio_mode = true",
    ),
}


def test_each_misuse_says_what_to_write(tmp_path: Path) -> None:
    """In one file, for each is a test of its own there, too."""
    source = "".join(
        misuse.replace("test_it(", f"test_{number}(")
        .replace("def engine(", f"def engine_{number}(")
        .replace(f"def test_{number}(engine)", f"def test_{number}(engine_{number})")
        for number, (misuse, _) in enumerate(MISUSES.values())
    )
    (tmp_path / "many").mkdir()
    said = run_tests(tmp_path / "many", source)
    parts = dict(_reports(said))
    for number, (what, (_, line)) in enumerate(MISUSES.items()):
        assert f"test_{number}" in parts, (what, said)
        assert line.replace("test_it", f"test_{number}") in parts[f"test_{number}"], (what, parts[f"test_{number}"])
    assert "passed" not in said.rpartition("\n")[2]


def _reports(said: str) -> list[tuple[str, str]]:
    """Return what pytest says of each test that has failed, by the test's name."""
    found: list[tuple[str, str]] = []
    for line in said.splitlines():
        words = line.strip("_ ").split()
        if line.startswith("____") and words and words[-1].startswith("test_"):
            found.append((words[-1], ""))
        elif found:
            name, text = found[-1]
            found[-1] = (name, f"{text}{line}\n")
    return found


def test_pytest_starts_without_the_library_where_nobody_asks_for_it() -> None:
    script = """
import sys, durable_trio.testing.pytest_plugin
print(sorted({"trio", "attrs", "durable_trio.engine"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_async_test_that_nobody_runs_is_told_what_to_set() -> None:
    """Before pytest skips it, or says what has nothing to do with this."""

    async def test_it() -> None: ...

    marks: set[str] = set()
    node = SimpleNamespace(get_closest_marker=lambda name: name if name in marks else None)
    request: Any = SimpleNamespace(function=test_it, node=node, fixturenames=[])
    with pytest.raises(RuntimeError, match="trio_mode = true"):
        pytest_plugin._check_is_run_by_trio(request)
    marks.add("trio")
    pytest_plugin._check_is_run_by_trio(request)
    request.function = lambda: None
    marks.clear()
    pytest_plugin._check_is_run_by_trio(request)
