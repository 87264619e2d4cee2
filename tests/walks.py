"""Pages of the documentation as their readers follow them.

``python title="NAME"`` is a file, ``sh`` are commands of one shell, ``text`` after commands is what they print, where
``…`` stands for anything within a line; ``bash`` is not for the walk.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a command hangs; far above anything that a busy machine needs.
PATIENCE_SECONDS = 120
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r'python title="(?P<name>[\w.]+)"')


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
    """Return the files of a page, and its commands, or those of one section by its heading, of whatever level."""
    text = (ROOT / page).read_text(encoding="utf-8")
    start, end = 0, len(text)
    if section is not None:
        heading = re.search(rf"^(#+) {re.escape(section)}$", text, re.MULTILINE)
        assert heading is not None, f"{page} has no section {section!r}"
        start = heading.end()
        following = re.compile(rf"^#{{1,{len(heading[1])}}} ", re.MULTILINE).search(text, start)
        end = len(text) if following is None else following.start()
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
