"""How earlier attempts of a step have failed, as it is stored with the step: bounded, the first ones and the last.

It is for people alone: nothing is rebuilt from it, and no run goes by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from durable_trio.clock import INSTANT_MAX, INSTANT_MIN, to_datetime
from durable_trio.codec import parse
from durable_trio.errors import CodecError
from durable_trio.failures.one_line import innermost
from durable_trio.failures.stored import expect
from durable_trio.failures.tracebacks import cut
from durable_trio.limits import EARLIER_ERROR_CHARACTERS_MAX, EARLIER_ERRORS_FIRST, EARLIER_ERRORS_LAST
from durable_trio.looks import is_a, leaves, qualified_name, said, text_of, traceback_of
from durable_trio.records import EarlierError

__all__ = ["earlier_errors", "remember"]

# Of a traceback so many frames are looked at: what recurses has thousands.
_FRAMES_MAX: Final = 2000
_LEAVES_TOLD: Final = 3


def remember(earlier: str | None, exc: Exception, *, attempt: int, at: int) -> str:
    """Return what is stored of the attempts so far, after one more has failed. Never raises.

    Args:
        earlier: what was stored before. What cannot be read of it is left out: the run goes on all the same.
        at: when it has failed, in microseconds.
    """
    try:
        before = _records(earlier)
    except CodecError:
        before = []
    told, rest = _told(exc), EARLIER_ERROR_CHARACTERS_MAX
    found = {
        "attempt": attempt,
        "type": cut(qualified_name(type(told)), rest),
        "message": cut(_text(told), rest),
        "at": at,
        "line": cut(line, rest) if (line := _line(told) or _line(exc)) else None,
    }
    kept = [*before, found]
    if len(kept) > EARLIER_ERRORS_FIRST + EARLIER_ERRORS_LAST:
        kept = kept[:EARLIER_ERRORS_FIRST] + kept[-EARLIER_ERRORS_LAST:]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def earlier_errors(text: str) -> tuple[EarlierError, ...]:
    """Return what ``remember`` has made, in order of the attempts.

    Raises:
        CodecError: ``text`` is nothing of the kind.
    """
    return tuple(map(_earlier_error, _records(text)))


def _line(exc: BaseException) -> str | None:
    """Return the innermost line of the user's that an exception was raised through."""
    entry = traceback_of(exc)
    frames: list[tuple[str, int, str]] = []
    while entry is not None and len(frames) < _FRAMES_MAX:
        code = entry.tb_frame.f_code
        frames.append((code.co_filename, entry.tb_lineno, code.co_name))
        entry = entry.tb_next
    return innermost(frames)


def _text(exc: BaseException) -> str:
    """Return what an exception says; of a group also what the first of those in it say, which is what it is about."""
    text = text_of(exc)
    return f"{text}: {'; '.join(map(said, leaves(exc)[:_LEAVES_TOLD]))}" if is_a(exc, BaseExceptionGroup) else text


def _told(exc: Exception) -> BaseException:
    """Return what people look for: of a group that holds one exception, that one."""
    if not is_a(exc, BaseExceptionGroup):
        return exc
    found = leaves(exc)
    return found[0] if len(found) == 1 else exc


def _records(text: str | None) -> Sequence[dict[str, Any]]:
    found = [] if text is None else parse(text, where="earlier errors")
    if type(found) is not list or not all(type(each) is dict for each in found):
        raise CodecError("earlier errors: a list of objects was expected", where="earlier errors")
    return found[: EARLIER_ERRORS_FIRST + EARLIER_ERRORS_LAST]


def _earlier_error(record: dict[str, Any]) -> EarlierError:
    at, line = expect(record, "at", int), record.get("line")
    return EarlierError(
        attempt=expect(record, "attempt", int),
        type=expect(record, "type", str),
        message=expect(record, "message", str),
        failed_at=to_datetime(max(INSTANT_MIN, min(at, INSTANT_MAX))),
        line=line if type(line) is str else None,
    )
