"""What needs no database is answered without importing the engine: help, completion of names, wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys

from durable_trio.cli.program import COMMANDS
from tests.cli.desk import PATIENCE_SECONDS, surroundings

# Called one after the other in one interpreter, which tells what it has imported after each.
CALLING = """
import contextlib, io, json, sys
from durable_trio.cli.program import program
heavy = {"trio", "sqlite3", "pysqlite3", "sqlite_utils", "cattrs", "rich"}
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            program.main(words)
        except SystemExit as end:
            code = end.code
    print(json.dumps([words, code, sorted(heavy & sys.modules.keys()), bool(said.getvalue())]))
"""


def test_help_and_wrong_usage_import_neither_trio_nor_sqlite() -> None:
    helps = [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    wrong = [
        ["lst"],
        ["list"],
        ["--db", "x.db", "show"],
        ["--db", "x.db", "list", "--status", "done"],
        ["--db", "x.db", "list", "--status", "parked", "--status", "failed"],
        ["--db", "x.db", "watch", "r", "--status", "failed"],
        ["--db", "x.db", "start", "order", "milk"],
        ["--db", "x.db", "start", "order", "1", "--tag", "a=1", "--tag", "a=2"],
        ["--db", "x.db", "signal", "r", "s", "{"],
        ["--db", "x.db", "prune", "--before", "soon"],
        ["--db", "x.db", "fork", "r"],
        ["--db", "x.db", "serve", "shop:engine"],
        ["--db", "x.db", "top", "--interval", "0"],
        ["schema", "start"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLING],
        input=json.dumps([*helps, *wrong]),
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words for words, *_ in told] == [*helps, *wrong]
    assert all(has_said for *_, has_said in told)
    assert {tuple(words): imported for words, _, imported, _ in told if imported} == {}
    assert {code for words, code, *_ in told if words in wrong} == {2}
