"""Somebody who knows trio and nothing of this project follows the README and the quickstart, to the letter.

All of it happens outside of the checkout, with what the wheel installs into a fresh virtual environment.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.walks import ROOT, Commands, Walk, follow, outside, read_walk, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="the pages are written for a shell"),
]


@attrs.frozen
class Installed:
    """The folder in which the wheel was installed as the quickstart says, and the environment to work in."""

    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Build the wheel, and install it by the first block of the quickstart."""
    folder = tmp_path_factory.mktemp("walk")
    wheels = tmp_path_factory.mktemp("wheels")
    environment = outside()
    pip = [sys.executable, "-m", "pip", "--retries", "1", "--timeout", "10"]
    built = run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], wheels, environment)
    if built.returncode:
        asked = [*pip, "download", "--quiet", "--no-deps", "--dest", str(wheels), "hatchling>=1.27"]
        if (look := run(asked, wheels, environment)).returncode:
            pytest.skip(f"pip cannot reach an index: {look.stderr.strip().splitlines()[-1:]}")
    assert built.returncode == 0, built.stderr
    assert len(list(wheels.glob("durable_trio-*.whl"))) == 1
    first = read_walk("docs/quickstart.md").commands[0]
    assert "pip install" in first.text
    follow(
        Walk({}, [attrs.evolve(first, text=first.text.replace("pip install", "pip install --quiet"))]),
        folder,
        environment | {"PIP_FIND_LINKS": str(wheels)},
    )
    environment["PATH"] = os.pathsep.join([str(folder / ".venv" / "bin"), environment["PATH"]])
    where = run(["python", "-c", "import durable_trio; print(durable_trio.__file__)"], folder, environment)
    assert where.stdout.startswith(str(folder)), where
    yield Installed(folder, environment)
    shutil.rmtree(folder, ignore_errors=True)


def test_the_quickstart_leads_to_a_workflow_that_survives_kill_9(installed: Installed) -> None:
    walk = read_walk("docs/quickstart.md")
    walk.commands.pop(0)  # the installation, done
    text = "".join(block.text for block in walk.commands)
    assert "kill -9 $!" in text
    assert len(walk.files) == 3
    folder = installed.folder / "quickstart"
    folder.mkdir()
    follow(walk, folder, installed.environment)


def test_the_readme_alone_leads_to_a_workflow_that_survives_kill_9(installed: Installed) -> None:
    walk = read_walk("README.md", section="Ten minutes")
    assert "pip install" in walk.commands[0].text
    walk.commands.pop(0)
    assert any("kill -9 $!" in block.text for block in walk.commands)
    folder = installed.folder / "readme"
    folder.mkdir()
    follow(walk, folder, installed.environment)


def test_a_program_that_cannot_start_does_not_keep_the_reader_of_the_readme_waiting(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("raise SystemExit('no trio here')\n", encoding="utf-8")
    (block,) = (block for block in read_walk("README.md").commands if "kill -9" in block.text)
    done = run(["bash", "-c", block.text], tmp_path, outside())
    assert "no trio here" in done.stderr


_APP = """\
import trio
from durable_trio import Context, open_engine, workflow

@workflow
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"

async def main() -> None:
    async with open_engine("app.db", workflows=[greet]) as engine:
        await engine.run(greet, "you", id="first")

trio.run(main)
"""


def test_the_command_line_works_outside_of_the_checkout(installed: Installed) -> None:
    done = run(["durable-trio", "--help"], installed.folder, installed.environment)
    assert done.returncode == 0, done.stderr
    assert "Usage: durable-trio" in done.stdout
    as_module = run(["python", "-m", "durable_trio", "--help"], installed.folder, installed.environment)
    assert as_module.returncode == 0, as_module.stderr
    folder = installed.folder / "cli"
    folder.mkdir()
    commands = [
        Commands("make a database", "python app.py", ""),
        Commands("read it", "durable-trio --db app.db list --status completed --json | grep -c '\"first\"'", "1\n"),
    ]
    follow(Walk({"app.py": _APP}, commands), folder, installed.environment)


# Each at its own speed, at which it ends within seconds; what it prints goes to a file.
_ALL = """
import gc, os, runpy, sys
from durable_trio import open_engine

gc.freeze()

names = sys.argv[1:]
pids = {}
for name in names:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(f"{name}.txt", os.O_CREAT | os.O_WRONLY), 1)
        sys.argv = [name, f"{name}.data"]
        runpy.run_path(name, run_name="__main__")
        sys.exit()
    pids[name] = pid
for name, pid in pids.items():
    print(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_every_example_ends_well_outside_of_the_checkout(installed: Installed) -> None:
    """All at the same time, for most of what they do is to wait, and forked by one that has imported the project."""
    folder = installed.folder / "examples"
    folder.mkdir()
    names = [path.name for path in sorted((ROOT / "examples").glob("*.py"))]
    assert len(names) >= 5
    for name in names:
        shutil.copy(ROOT / "examples" / name, folder)
    done = run(["python", "-c", _ALL, *names], folder, installed.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} 0" for name in names], f"{done.stdout}\n{done.stderr}"


def test_an_output_that_differs_and_a_command_that_fails_are_noticed(tmp_path: Path) -> None:
    right = Commands("page.md:1", "echo one", "one\n")
    follow(Walk({"file.txt": "two\n"}, [right, Commands("page.md:5", "cat file.txt", "two\n")]), tmp_path, outside())
    follow(Walk({}, [Commands("page.md:1", "echo 'it is 12:01 '; echo so", "it is …\nso\n")]), tmp_path, outside())
    with pytest.raises(AssertionError, match=r"page.md:1 prints something else"):
        follow(Walk({}, [Commands("page.md:1", "echo it is; echo 12:01", "it …\n")]), tmp_path, outside())
    with pytest.raises(AssertionError, match=r"page.md:5 prints something else"):
        follow(Walk({}, [right, Commands("page.md:5", "echo two", "too\n")]), tmp_path, outside())
    with pytest.raises(AssertionError, match=r"page.md:5 failed"):
        follow(Walk({}, [right, Commands("page.md:5", "false", "")]), tmp_path, outside())
