"""The programs in the documentation run, and print what stands below them."""

from __future__ import annotations

import io
import re
import sys
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import attrs
import pytest

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
    """Yield the programs of a page; a block that is marked ``python no-run`` is none."""
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
    assert "docs/structured-concurrency.md" in pages
    assert len(_PROGRAMS) >= 8


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
            "```python no-run",
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
