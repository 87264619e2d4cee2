"""Nothing that was stored moves a terminal's cursor, turns its text round, or hides in it; programs lose nothing."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

import durable_trio.cli
from durable_trio import Context, Engine, open_engine, sqlite3, workflow
from durable_trio.cli import output
from durable_trio.cli.screen import Screen
from durable_trio.cli.top_state import Look, TopState
from durable_trio.cli.top_view import draw
from durable_trio.serving.logs import LineFormatter, LogStyle
from durable_trio.unseen import print_traceback, visible, visible_json, visible_lines
from tests.cli.desk import call
from tests.cli.test_shell import offered

# Of each kind one: titles, colours, C1, backspace, marks of direction, without width, variations, tags, fillers, ends
# of lines that are none of JSON's, private use, and half of a pair.
UNSEEN = (
    "\x00\x07\x08\x0b\r\x1b\x7f\x80\x85\x9b\x9d\xad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029"
    "\u202a\u202e\u2060\u2066\u2069\u3164\ue000\ufe0e\ufe0f\ufeff\uffa0\ufff9\ud800\U000e0001\U000e0041\U000e0100"
)
#: As a payload.
TEXT = "\x1b]0;owned\x07\x1b[31mred\x9b2J" + UNSEEN.replace("\ud800", "") + "end\r\n"
#: As a name: controls are refused there.
NAME = "id\u202egpj.exe\u2066\u200b\u200d\ufe0f\u2060\ufeff\U000e0041"


def unseen_in(text: str) -> set[str]:
    """Return what a terminal obeys or does not show, after our own colours and line ends are taken out."""
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\n", "")
    bad = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")
    return {c for c in bare if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or bad.match(c)}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a database whose runs have all of it in all that a run has."""
    path = str(tmp_path_factory.mktemp("hostile") / "app.db")

    def fail(text: str) -> None:
        raise ValueError(text)

    @workflow(name="w" + NAME)
    async def everything(ctx: Context, text: str, mode: str) -> Any:
        await ctx.publish(NAME, text)
        await ctx.step(NAME, str, text)
        if mode == "fails":
            await ctx.step("fails" + NAME, fail, text)
        if mode == "waits":
            await ctx.wait_signal("go" + NAME)
        return {text: [text]}

    async def fill() -> None:
        async with open_engine(path, workflows=[everything]) as engine:
            for mode in ("returns", "fails", "waits"):
                await engine.start(everything, TEXT, mode, id=mode + NAME, tags={NAME: TEXT}, queue="q" + NAME)
            for mode in ("returns", "fails"):
                with trio.fail_after(60):
                    async with engine.get(mode + NAME).watch() as changes:
                        async for _ in changes:
                            pass
        async with Engine(path) as client:
            await client.send_signal("waits" + NAME, "other" + NAME, TEXT)
            await client.start(everything, TEXT, "waits", id="delayed" + NAME, delay=3600)
            await client.cancel("delayed" + NAME, reason=TEXT)

    trio.run(fill)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE runs SET queue = ? WHERE id LIKE 'delayed%'", ("q" + TEXT,))  # by another program
    connection.commit()
    connection.close()
    return path


IDS = tuple(mode + NAME for mode in ("returns", "fails", "waits", "delayed"))


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["check"],
        ["tree"],
        ["schema", "show"],
        *(["show", id, "--results", "--traceback"] for id in IDS),
        ["show", "no" + NAME],
        ["watch", IDS[0]],
        ["fork", IDS[0], "--before", "no" + NAME],
        ["signal", IDS[0], "go"],
        ["resume", IDS[0]],
        ["cancel", IDS[0]],
        ["list", "--cursor", "no" + TEXT],
        ["list", "--status", TEXT],
        ["list" + NAME],
        ["start", "w", "{" + TEXT],
        ["show", "x", TEXT],
    ],
    ids=lambda words: ascii(" ".join(words))[1:30],
)
def test_no_command_writes_what_is_not_seen(hostile: str, words: list[str]) -> None:
    said = call("--db", hostile, *words, env={"COLUMNS": "200"})
    assert said.out + said.err
    assert unseen_in(said.out) == set()
    assert unseen_in(said.err) == set()


@pytest.mark.parametrize("words", [["list"], ["show", IDS[0]], ["watch", IDS[0]], ["check"]], ids=lambda w: w[0])
def test_documents_are_escaped_and_mean_the_same(hostile: str, words: list[str]) -> None:
    said = call("--db", hostile, *words, "--json")
    assert unseen_in(said.out) == set()
    document = json.loads(said.out)
    for run in [*document.get("runs", []), document.get("run", document)]:
        if run.get("id") == IDS[0]:
            assert run["args"] == [TEXT, "returns"]
            assert (run["result"], run["tags"]) == ({TEXT: [TEXT]}, {NAME: TEXT})
            break
    else:
        assert words == ["check"]


def test_the_screen_of_top_shows_all_of_it_escaped(hostile: str) -> None:
    now = datetime.now(UTC)

    async def look() -> Look:
        async with Engine(hostile) as client:
            return Look(at=now, status=await client.status(), runs=(await client.list_runs()).runs, roots=())

    state = TopState()
    state.take(trio.run(look))
    for asks, fault in ((None, TEXT), (None, ""), (IDS[0], "")):
        state.asks_to_cancel, state.fault, state.message = asks, fault, f"asked {NAME!r} to cancel"
        drawn = output.harmless("\n".join(draw(state, hostile, now, Screen(width=200), 30)))
        assert visible(IDS[0]) in drawn
        assert unseen_in(drawn) == set()


def test_a_shell_is_offered_no_id_that_it_would_write_as_it_is(hostile: str) -> None:
    assert offered("durable-trio show ", hostile) == []


# ---- the ways out ----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.text() | st.text(UNSEEN))
def test_a_visible_text_has_nothing_unseen_and_keeps_what_is_seen(text: str) -> None:
    assert unseen_in(visible(text)) == set()
    assert "\n" not in visible(text)
    assert visible_lines(text).count("\n") == text.count("\n")
    if not unseen_in(text) and "\n" not in text:
        assert visible(text) == text


@settings(max_examples=30)
@given(st.recursive(st.text() | st.text(UNSEEN), lambda inner: st.dictionaries(st.text(UNSEEN), inner)))
def test_an_escaped_document_is_the_same_document(document: Any) -> None:
    for indent in (None, 2):
        text = visible_json(json.dumps(document, ensure_ascii=False, indent=indent))
        assert unseen_in(text) == set()
        assert json.loads(text) == document


def test_every_unseen_character_is_escaped_alone() -> None:
    assert [character for character in UNSEEN if not visible(character).startswith("\\")] == []
    assert [
        character
        for character in UNSEEN
        if json.loads(
            visible_json(
                f'"{character}"',
            )
        )
        != character
    ] == []
    assert visible("値段 e\u0301 ü 🙂\u3000\xa0") == "値段 e\u0301 ü 🙂\u3000\xa0"


def test_lines_keep_their_colours_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """The last guard, for a name that what draws has forgotten."""
    output.write_lines(["\x1b[1m\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x9b31m", "next\u202e"])
    output.say("a\x1b[31mb\nc")
    printed = capsys.readouterr()
    assert unseen_in(printed.out) == set()
    assert "title" in printed.out
    assert printed.out.count("\n") == 2
    assert printed.err == "a\\x1b[31mb\\nc\n"
    assert output.harmless("\x1b[1m\x1b[31mred\x1b[0m") == "\x1b[1m\x1b[31mred\x1b[0m"


def test_progress_is_one_line_that_a_terminal_alone_gets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(output, "_STANDS_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        line = output.ProgressLine()
        line.clear()
        line.show("removed 1")
        line.show("removed 2\u202e")
        line.clear()
        shown = capsys.readouterr().err
        assert shown.split("\r") == (
            ["", "removed 1\x1b[K", "removed 2\\u202e\x1b[K", "\x1b[K"] if is_terminal else [""]
        )


def test_an_id_goes_to_a_program_as_it_is_and_to_people_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, written in ((False, f"{NAME}\n"), (True, f"{visible(NAME)}\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stdout", stream)
        output.write_id(NAME)
        stream.flush()
        assert stream.buffer.getvalue().decode() == written


@pytest.mark.parametrize("style", LogStyle)
def test_log_lines_are_harmless_in_every_style(style: LogStyle) -> None:
    try:
        raise ValueError(TEXT)
    except ValueError:
        record = logging.LogRecord("durable_trio.run", logging.ERROR, __file__, 1, "%s", (TEXT,), sys.exc_info())
    assert unseen_in(LineFormatter(style).format(record).replace("\t", "")) == set()


def test_a_traceback_is_written_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ExceptionGroup(TEXT, [ValueError(TEXT)])
    except ExceptionGroup as error:
        print_traceback(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert unseen_in(printed) == set()
    assert "ExceptionGroup: \\x1b]0;owned" in printed


def test_only_the_ways_out_write() -> None:
    """What writes by itself goes around the guard."""
    folder = Path(durable_trio.cli.__file__).parent
    writers = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                *("print", "click.echo", "click.secho", "os.write"),
                *("sys.stdout.write", "sys.stderr.write", "sys.stdout.buffer.write"),
            }:
                writers.add(path.name)
    assert writers == {"output.py", "status_line.py"}
