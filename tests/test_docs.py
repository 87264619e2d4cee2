"""The programs in the documentation run, and print what stands below them; its links lead somewhere; its site builds.

A ``python`` block is a program; ``py`` is for pieces of one, which are not run. ``python title="NAME"`` and ``sh`` are
for ``test_walk``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import attrs
import click
import pytest

from durable_trio.cli.commands.schema import command
from durable_trio.cli.program import COMMANDS
from durable_trio.engine.runs.run_log import Fate

_ROOT = Path(__file__).parent.parent
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Program:
    """One ``python`` block, and the ``text`` block that follows it, if one does."""

    page: str
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def programs_in(page: str, text: str) -> Iterator[Program]:
    """Yield the programs of a page; a block that is marked otherwise than ``python`` is none."""
    blocks = list(_FENCE.finditer(text))
    for index, block in enumerate(blocks):
        if block["kind"].split() != ["python"]:
            continue
        following = blocks[index + 1] if index + 1 < len(blocks) else None
        output = None
        if following is not None and following["kind"].strip() == "text":
            between = text[block.end() : following.start()]
            output = following["text"] if not between.strip() else None
        yield Program(page, text.count("\n", 0, block.start()) + 2, block["text"], output)


_PROGRAMS = [
    program
    for page in _PAGES
    if page.exists()
    for program in programs_in(str(page.relative_to(_ROOT)), page.read_text(encoding="utf-8"))
]


def run(program: Program, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a program as the main module and return what it prints."""
    module = types.ModuleType("__main__")
    module.__file__ = f"{program.page}:{program.line}"
    monkeypatch.setitem(sys.modules, "__main__", module)
    lines_before = "\n" * (program.line - 1)  # so that errors name the page's lines
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(lines_before + program.code, program.page, "exec", dont_inherit=True), module.__dict__)
    return printed.getvalue()


@pytest.mark.parametrize("program", _PROGRAMS, ids=str)
def test_a_program_prints_what_the_page_says(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run(program, monkeypatch)
    if program.output is not None:
        assert printed == program.output


def test_there_are_programs_on_each_page() -> None:
    pages = {program.page for program in _PROGRAMS}
    assert {"README.md", "docs/index.md", "docs/structured-concurrency.md", "docs/concepts.md"} <= pages
    assert {"docs/watching.md", "docs/testing.md", "docs/operations.md"} <= pages
    assert sum(program.output is not None for program in _PROGRAMS) >= 18


def test_programs_are_found_with_their_lines_and_outputs() -> None:
    page = "\n".join(
        [
            "# A page",
            "```python",
            "print(1)",
            "```",
            "",
            "```text",
            "1",
            "```",
            "```py",
            "raise SystemExit",
            "```",
            "```python",
            "print(2)",
            "```",
            "some words",
            "```text",
            "not its output",
            "```",
            "```sh",
            "rm -r /",
            "```",
        ]
    )
    assert list(programs_in("page.md", page)) == [
        Program("page.md", 3, "print(1)\n", "1\n"),
        Program("page.md", 13, "print(2)\n", None),
    ]


def test_an_output_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program("page.md", 3, "print(__name__, 1 + 1)\n", "__main__ 3\n")
    assert run(program, monkeypatch) == "__main__ 2\n"


# ---- links and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*_PAGES, _ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            path, _, anchor = target.partition("#")
            found = page.parent / path
            assert found.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name} links to {target}"


@pytest.mark.parametrize(
    ("module", "page"),
    [
        ("durable_trio", "api.md"),
        ("durable_trio.platforms", "api-platforms.md"),
        ("durable_trio.platforms.tk", "api-platforms.md"),
        ("durable_trio.platforms.qt", "api-platforms.md"),
        ("durable_trio.asyncio", "api-asyncio.md"),
        ("durable_trio.testing", "api-testing.md"),
        ("supervisors", "api-supervisors.md"),
    ],
)
def test_the_reference_has_every_public_name(module: str, page: str) -> None:
    text = (_ROOT / "docs" / page).read_text(encoding="utf-8")
    shown = re.findall(rf"^<!-- {re.escape(module)}\.(\w+) -->$", text, re.MULTILINE)
    public = set(pytest.importorskip(module, exc_type=ImportError).__all__) - {"sqlite3"}  # a module of somebody else's
    assert sorted(shown) == sorted(public)


@pytest.mark.skipif(importlib.util.find_spec("griffe") is None, reason="griffelib is not installed (the group docs)")
def test_the_reference_says_what_signatures_and_docstrings_say() -> None:
    command = [sys.executable, "scripts/api_pages.py", "--check"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (the group docs)")
def test_the_site_builds_strictly_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=_ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.glob("*.html"))
    assert len(pages) >= 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'> ]+)", text)
        assert not fetched, f"{page.name} fetches {fetched}"
        assert "```" not in text, f"{page.name} shows a fence as text"


def events_of(path: Path) -> Iterator[str]:
    """Yield the events that a module logs, as far as they are written out there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant):
                    yield str(value.value)


def test_each_event_of_the_log_is_told_with_its_meaning() -> None:
    told = {name for page in ("operations.md", "command-line.md") for name in re.findall(r"`(\w+)`", page_text(page))}
    logged = {event for path in (_ROOT / "durable_trio").rglob("*.py") for event in events_of(path)}
    assert len(logged) > 15
    assert logged | set(Fate) <= told


def test_the_commands_that_take_json_are_told() -> None:
    sentence = re.search(r"## For programs\s+(.*?) take\s+`--json`", page_text("command-line.md"), re.DOTALL)
    assert sentence is not None
    names = command.params[0].type
    assert isinstance(names, click.Choice)
    assert set(re.findall(r"`(\w+)`", sentence[1])) == set(names.choices)


def test_the_table_of_commands_has_each_of_them() -> None:
    table = page_text("command-line.md").partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) == set(COMMANDS)


def page_text(name: str) -> str:
    return (_ROOT / "docs" / name).read_text(encoding="utf-8")
