"""Somebody who knows trio and nothing of this project follows the README and the quickstart, to the letter.

Their files and commands are taken out of the Markdown by its fences: ``python title="NAME"`` is a file, ``sh`` are
commands of one shell, ``text`` after commands is what they print, where ``…`` stands for anything within a line;
``bash`` is not for the walk. All of it happens outside of the checkout, with what the wheel installs into a fresh
virtual environment.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a command hangs; far above anything that a busy machine needs.
PATIENCE_SECONDS = 120
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r'python title="(?P<name>[\w.]+)"')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="the pages are written for a shell"),
]


@attrs.frozen
class Commands:
    """One ``sh`` block, where it stands, and what it prints."""

    place: str
    text: str
    output: str


@attrs.frozen
class Walk:
    """What a page asks its reader to write, and then to run."""

    files: dict[str, str]
    commands: list[Commands]


def read_walk(page: str, *, section: str | None = None) -> Walk:
    """Return the files of a page, and its commands, or those of one section by its heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    start, end = 0, len(text)
    if section is not None:
        start = text.index(f"\n## {section}\n")
        end = text.index("\n## ", start + 1)
    files: dict[str, str] = {}
    commands: list[Commands] = []
    for block in _FENCE.finditer(text):
        kind = block["kind"].strip()
        if (file := _FILE.fullmatch(kind)) is not None:
            files[file["name"]] = block["text"]
        elif not start <= block.start() < end:
            continue
        elif kind == "sh":
            place = f"{page}:{text.count(chr(10), 0, block.start()) + 2}"
            commands.append(Commands(place, block["text"], ""))
        elif kind == "text" and commands and not commands[-1].output:
            commands[-1] = attrs.evolve(commands[-1], output=block["text"])
    return Walk(files, commands)


def outside() -> dict[str, str]:
    """Return an environment that knows nothing of the checkout or of this interpreter's packages."""
    unwanted = re.compile(r"PYTHON|VIRTUAL_ENV|COV|DURABLE_TRIO")
    environment = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    environment["PIP_NO_COMPILE"] = "1"  # Python does it as it imports, and most is never imported
    return environment


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a session of its own of which nothing is left."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def is_as_shown(output: str, shown: str) -> bool:
    """Return whether an output is what a page shows; how many blanks there are does not count."""

    def squeezed(text: str) -> str:
        return re.sub(r" +$", "", re.sub(r" {2,}", "  ", text), flags=re.MULTILINE)

    pattern = ".*".join(re.escape(part) for part in squeezed(shown).split("…"))
    return re.fullmatch(pattern, squeezed(output)) is not None


def follow(walk: Walk, folder: Path, environment: dict[str, str]) -> None:
    """Write the files of a walk, run its commands in order in one shell, and compare what each block prints."""
    for name, content in walk.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    mark = "---- end of a block ----"
    script = "set -e\n" + "".join(f"{block.text}\necho '{mark}'\n" for block in walk.commands)
    done = run(["bash", "-c", script], folder, environment)
    printed = done.stdout.split(f"{mark}\n")
    for block, output in zip(walk.commands, printed, strict=False):
        if not is_as_shown(output, block.output):
            assert output == block.output, f"{block.place} prints something else\n{done.stderr}"
    assert done.returncode == 0, f"{walk.commands[len(printed) - 1].place} failed\n{done.stderr}"
    assert len(printed) == len(walk.commands) + 1


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
    look = run(
        [*pip, "download", "--quiet", "--no-deps", "--dest", str(wheels), "hatchling>=1.27"], wheels, environment
    )
    if look.returncode:
        pytest.skip(f"pip cannot reach an index: {look.stderr.strip().splitlines()[-1:]}")
    built = run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], wheels, environment)
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


def test_every_example_ends_well_outside_of_the_checkout(installed: Installed) -> None:
    """All at the same time: most of what they do is to wait."""
    folder = installed.folder / "examples"
    folder.mkdir()
    names = [path.name for path in sorted((ROOT / "examples").glob("*.py"))]
    assert len(names) >= 5
    for name in names:
        shutil.copy(ROOT / "examples" / name, folder)
    with ThreadPoolExecutor(len(names)) as pool:
        for done in pool.map(lambda name: run_example(name, folder, installed.environment), names):
            assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"


def run_example(name: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run(["python", name, f"{name}.data"], folder, environment)  # at its own speed, which ends within seconds


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
