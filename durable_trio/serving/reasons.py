"""What ended a server, in one line: for the person at the command line, and for a worker's parent."""

from __future__ import annotations

import json
import re
from typing import Final

from durable_trio.errors import DurableError, StoreError
from supervisors import ProcessError, RestartIntensityExceeded

__all__ = ["error_line", "failure_text", "last_words", "needs_traceback"]

# Their messages are sentences that need no name of a class before them.
_SENTENCES: Final = (DurableError, ValueError, OSError)
# What trio calls the group of a nursery, which says nothing.
_NURSERY: Final = "Exceptions from Trio nursery"


def failure_text(error: BaseException) -> str:
    """Return what ended a server: of a tree that has failed, the child and what it crashed with."""
    while isinstance(error, BaseExceptionGroup) and isinstance(error.exceptions[0], BaseExceptionGroup):
        error = error.exceptions[0]  # the engine's own group says more than a nursery's
    if not isinstance(error, BaseExceptionGroup):
        return _joined(str(error)) if isinstance(error, _SENTENCES) and str(error) else error_line(error)
    causes = [part.__cause__ if isinstance(part, RestartIntensityExceeded) else part for part in error.exceptions]
    texts = [error_line(cause) for cause in causes if cause is not None]
    if not isinstance(error, Exception):  # SystemExit, say
        return ": ".join(["ended by code that it runs", *texts])
    return ": ".join(texts if error.message == _NURSERY else [error.message, *texts])


def needs_traceback(error: BaseException) -> bool:
    """Whether the line is not all there is to say: of a file that is gone or damaged, no traceback tells more."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(needs_traceback, error.exceptions))
    return not isinstance(error, StoreError)


# Of a line of fields, as the last one of a worker is; what has a blank in it is written as JSON.
_ERROR_FIELD: Final = re.compile(r'^time=\S+ .*\berror=("(?:[^"\\]|\\.)*")')


def error_line(error: BaseException) -> str:
    """Return an error as the last line of a traceback has it, on one line; of a group, the errors in it."""
    if isinstance(error, BaseExceptionGroup):
        return " + ".join(error_line(part) for part in error.exceptions)
    text = str(error)
    if isinstance(error, ProcessError):
        text = text.partition("\n")[0]  # what follows is all that the process has said
    return f"{type(error).__name__}: {_joined(text)}" if text else type(error).__name__


# A log record of a worker, in its style for people or as fields. It was written for itself, and is no reason of an end.
_RECORD: Final = re.compile(r"^(\d\d:\d\d:\d\d \[\d+\] |time=\S+ level=\S+ pid=\d+ logger=)")


def last_words(said: str) -> str:
    """Return the last line of what a process has said, or the reason in it if that is a document.

    It is empty if that line is a log record: what a process has logged before it died is told already.
    """
    line = said.rstrip().rpartition("\n")[2].strip()
    if _RECORD.match(line):
        return ""
    if line.startswith("{"):
        try:
            document = json.loads(line)
        except ValueError:
            return line
        if "logger" in document:
            return ""
        return str(document.get("error") or document.get("message") or line)
    found = _ERROR_FIELD.search(line)
    return str(json.loads(found[1])) if found is not None else line


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())
