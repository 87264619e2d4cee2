"""What is kept of an attempt that has failed: which error, and the line of the user's that it came through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_trio.errors import CodecError
from durable_trio.failures import earlier_errors, remember


def _raised(fn: Any, *args: Any) -> Exception:
    try:
        fn(*args)
    except Exception as error:
        return error
    raise AssertionError("it raises")


def test_the_line_is_the_users_that_has_called_what_failed() -> None:
    (told,) = earlier_errors(remember(None, _raised(lambda: json.loads("{")), attempt=1, at=5))
    line = told.line
    assert line is not None
    assert line.startswith(f"{__file__}:")
    assert line.endswith(" in <lambda>")


def test_without_a_line_of_the_users_there_is_none() -> None:
    (told,) = earlier_errors(remember(None, ValueError("never raised"), attempt=1, at=5))
    assert told.line is None


def test_of_a_group_of_one_it_is_what_is_in_it() -> None:
    group = ExceptionGroup("a group", [ExceptionGroup("another", [_raised(json.loads, "{")])])
    (told,) = earlier_errors(remember(None, group, attempt=1, at=5))
    assert told.type == "json.decoder.JSONDecodeError"
    assert told.message.startswith("Expecting property name")


def test_of_a_group_of_more_it_is_the_group() -> None:
    group = ExceptionGroup("a group", [ValueError("one"), ValueError("two")])
    (told,) = earlier_errors(remember(None, group, attempt=1, at=5))
    assert (told.type, told.message) == (
        "builtins.ExceptionGroup",
        "a group (2 sub-exceptions): ValueError: one; ValueError: two",
    )


class Bad(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    def __getattribute__(self, name: str) -> Any:
        raise RecursionError


def test_an_error_that_bears_no_look_is_told_all_the_same() -> None:
    (told,) = earlier_errors(remember("no JSON", _raised(_raise, Bad()), attempt=7, at=5))
    assert (told.attempt, told.type.rpartition(".")[2]) == (7, "Bad")


def test_a_text_that_is_no_unicode_is_escaped() -> None:
    (told,) = earlier_errors(remember(None, ValueError("\ud800"), attempt=1, at=5))
    assert told.message == "\\ud800"


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("text", ["", "{}", "[[]]", '[{"attempt": true}]', '[{"attempt": 1, "type": "X"}]', "[" * 5000])
def test_what_is_nothing_of_the_kind_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        earlier_errors(text)


@pytest.mark.parametrize("at", [-3 * 10**17, 3 * 10**17])
def test_an_instant_that_no_datetime_holds_is_the_nearest(at: int) -> None:
    stored = json.dumps([{"attempt": 1, "type": "X", "message": "", "at": at, "line": 5}])
    (told,) = earlier_errors(stored)
    assert told.failed_at.year in (1, 9999)
    assert told.line is None
