"""What ended a server is said in one line."""

from __future__ import annotations

import pytest

from durable_trio.errors import StoreInUse
from durable_trio.serving.reasons import error_line, failure_text, last_words
from supervisors import ProcessExit, ProcessFailed, RestartIntensityExceeded

_NURSERY = "Exceptions from Trio nursery"


def exceeded(cause: Exception) -> RestartIntensityExceeded:
    error = RestartIntensityExceeded(("engine", "services"), "feed", 3, 5.0)
    error.__cause__ = cause
    return error


def failed(cause: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("the engine has failed: engine/services/feed crashed too often", [exceeded(cause)])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StoreInUse("somebody has it"), "somebody has it"),
        (RuntimeError("no"), "RuntimeError: no"),
        (RuntimeError(), "RuntimeError"),
        (ExceptionGroup(_NURSERY, [StoreInUse("somebody has it")]), "StoreInUse: somebody has it"),
        (
            ExceptionGroup(_NURSERY, [ExceptionGroup(_NURSERY, [failed(OSError("disk on fire"))])]),
            "the engine has failed: engine/services/feed crashed too often: OSError: disk on fire",
        ),
        (
            failed(ExceptionGroup("two", [KeyError("a"), RuntimeError("b\n  c")])),
            "the engine has failed: engine/services/feed crashed too often: KeyError: 'a' + RuntimeError: b c",
        ),
        (
            BaseExceptionGroup(_NURSERY, [BaseExceptionGroup(_NURSERY, [SystemExit(3)])]),
            "ended by code that it runs: SystemExit: 3",
        ),
    ],
)
def test_what_ended_a_server_is_its_innermost_failure(error: BaseException, text: str) -> None:
    assert failure_text(error) == text


def test_all_that_a_process_has_said_is_left_out() -> None:
    error = ProcessFailed("worker-1", ProcessExit(code=3, stderr_tail="one\ntwo\n"))
    assert error_line(error) == "ProcessFailed: process 'worker-1' ended: code 3"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", ""),
        ("one\n two \n", "two"),
        ('one\n{"event":"failed","error":"the disk is gone"}\n', "the disk is gone"),
        ('{"message":"hello"}', "hello"),
        ("{not json", "{not json"),
        ('{"event":"a"}', '{"event":"a"}'),
        ('time=1 level=critical event=failed pid=7 error="the \\"disk\\" is gone"', 'the "disk" is gone'),
        ("time=1 level=info event=started", "time=1 level=info event=started"),
        ("time=1 level=warning pid=7 logger=durable_trio.runs message=again event=step_retried error=no", ""),
        ('one\n{"time":"1","logger":"durable_trio.runs","message":"again","error":"no"}\n', ""),
        ("12:00:00 [77] warning: run 'r' tries step 'one#0' again", ""),
        ("12:00:00 the server has ended", "12:00:00 the server has ended"),
    ],
)
def test_the_last_words_of_a_process_are_a_line_or_the_reason_in_a_document(said: str, words: str) -> None:
    assert last_words(said) == words
