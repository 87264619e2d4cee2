"""Log lines of processes that serve: what people read in more lines, programs find in one field."""

from __future__ import annotations

import json
import logging

import pytest

from durable_trio.serving.logs import LineFormatter, LogStyle, failure_line

_STACK = 'File "a.py", line 1, in one\nFile "b.py", line 2, in two'


@pytest.mark.parametrize("style", LogStyle)
def test_a_stack_is_told_once(style: LogStyle) -> None:
    about = {"levelno": logging.WARNING, "levelname": "WARNING", "stack": _STACK, "event": "blocked"}
    record = logging.makeLogRecord({"msg": "it is blocked\n%s", "args": (_STACK,), **about})
    line = LineFormatter(style).format(record)
    assert line.count("line 2, in two") == 1
    if style is LogStyle.JSON:
        document = json.loads(line)
        assert (document["message"], document["stack"]) == ("it is blocked", _STACK)


def test_a_failure_is_a_document_of_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        line = failure_line(LogStyle.JSON, "the engine has failed: no", error)
    document = json.loads(line)
    assert (document["event"], document["level"], document["error"]) == (
        "failed",
        "critical",
        "the engine has failed: no",
    )
    assert document["traceback"].endswith("ValueError: no")
    assert "\n" not in line
