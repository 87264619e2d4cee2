"""Completion by the shell, help, and what is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from durable_trio.cli.program import COMMANDS, program
from tests.cli.desk import PATIENCE_SECONDS, ROOT, call, command_line, surroundings
from tests.kit import forks

# The program, but for the second and a half after which a shell is left without an offer: a busy machine needs longer.
PATIENT = f"""
from durable_trio.cli import completion, program
completion._SECONDS_MAX = {PATIENCE_SECONDS}
program.main()
"""


def offered(words: str, db: str, **env: str) -> list[str]:
    """Return what bash is offered for the last word."""
    done = forks.run(
        [sys.executable, "-c", PATIENT],
        env=surroundings(
            _DURABLE_TRIO_COMPLETE="bash_complete",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split(" ")) - 1),
            DURABLE_TRIO_DB=db,
            **env,
        ),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_runs_workflows_tags_and_keys_are_completed(db: str) -> None:
    assert offered("durable-trio sh", db) == ["show"]
    assert offered("durable-trio show order-", db) == ["order-10", "order-9", "order-8", "order-7"]
    assert offered("durable-trio list --workflow pa", db) == ["packing", "payroll"]
    assert offered("durable-trio list --tag reg", db) == ["region=eu"]
    assert offered("durable-trio list --status comp", db) == ["compensating", "completed"]
    assert offered("durable-trio fork order-8 --before s", db) == ["sleep#0", "ship#0"]
    assert offered(f"durable-trio show --db {db} pay", "") == ["payroll-12"]


def test_completion_never_fails_and_creates_nothing(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database " * 100)
    for path in (text, tmp_path / "none.db", tmp_path):
        assert offered("durable-trio show o", str(path)) == []
    assert offered("durable-trio show o", "") == []
    assert [item.name for item in tmp_path.iterdir()] == ["text.db"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_is_printed(shell: str) -> None:
    done = forks.run(
        command_line(),
        env=surroundings(_DURABLE_TRIO_COMPLETE=f"{shell}_source"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if "Bash completion is not supported" in done.stderr or "Couldn't detect Bash" in done.stderr:
        pytest.skip("this bash is too old")
    assert done.returncode == 0, done.stderr
    assert "durable-trio" in done.stdout


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    out = call("--help").out
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in out
        assert text in out
        command = program.get_command(click.Context(program), name)
        assert command is not None
        assert command.name == name
        assert call(name, "-h").code == 0


def test_without_a_command_the_help_is_shown_as_wrong_usage() -> None:
    said = call()
    assert said.code == 2
    assert "Commands:" in said.out + said.err


def test_help_needs_neither_trio_nor_the_engine() -> None:
    """The package itself may import both; so an empty one takes its place."""
    code = f"""
import sys, types
package = types.ModuleType("durable_trio")
package.__path__ = [{str(ROOT / "durable_trio")!r}]
sys.modules["durable_trio"] = package
from durable_trio.cli.program import program
try:
    program.main(sys.argv[1:])
finally:
    print(sorted({{"trio", "attrs", "sqlite_utils", "durable_trio.records"}} & set(sys.modules)), file=sys.stderr)
"""
    for words in (["--help"], ["--version"], ["list", "--help"], ["start", "--help"], ["check", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=surroundings(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        assert done.stderr == "[]\n", words
