"""A stored failure in one line for a log: what was raised, and at which line of the user's code.

The line is the innermost one of the user's, as far as the recorded traceback tells: neither this library's nor trio's,
nor, where there is another, of Python or of a package that is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from durable_trio.code.project import installed_folders
from durable_trio.codec import parse
from durable_trio.errors import CodecError
from durable_trio.failures.tracebacks import cut, is_of_library
from durable_trio.unseen import visible

__all__ = ["Told", "innermost", "tell_of"]

_CHARACTERS_MAX: Final = 500
# Of a group, so many failures are told.
_MEMBERS_MAX: Final = 3
# Modules that say nothing to people.
_HOME: Final = re.compile(r"^(builtins|__main__|durable_trio\.errors)\.")
# A frame of a traceback's text; within a group's its lines are indented and marked.
_FRAME: Final = re.compile(r'^[ |+]*File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


@attrs.frozen
class Told:
    """What a failure is for people: ``cause`` is type and text, ``place`` is ``file:line in function``."""

    cause: str
    place: str | None


def tell_of(text: str) -> Told:
    """Return what to tell of a failure's JSON text; never raises, whatever the text is."""
    try:
        record = parse(text, where="failure")
    except CodecError:
        return Told("a failure that cannot be read", None)
    return Told(visible(" ".join(cut(_cause(record), _CHARACTERS_MAX).split())), _place(record))


def _cause(record: Any) -> str:
    if type(record) is not dict:
        return "a failure that cannot be read"
    name, message, errors = record.get("type"), record.get("message"), record.get("errors")
    name = _HOME.sub("", str(name))
    if type(errors) is list and errors:
        found = list(dict.fromkeys(map(_cause, _leaves(errors))))
        told = found[:_MEMBERS_MAX]
        more = f" + {len(found) - len(told)} more" if len(found) > len(told) else ""
        return f"{' + '.join(told)}{more} (in an {name.rpartition('.')[2]})"
    return f"{name}: {message}" if message else name


def _leaves(errors: list[Any]) -> Iterator[Any]:
    """Yield what is in a group, also in those that are in it."""
    left = [*reversed(errors)]
    while left:
        record = left.pop()
        inner = record.get("errors") if type(record) is dict else None
        if type(inner) is list and inner:
            left.extend(reversed(inner))
        else:
            yield record


def _place(record: Any) -> str | None:
    if type(record) is not dict:
        return None
    errors, trace = record.get("errors"), record.get("traceback")
    if type(errors) is list and errors:
        return next(filter(None, map(_place, errors)), None)
    return innermost(_FRAME.findall(trace if type(trace) is str else ""))


def innermost(frames: Iterable[tuple[str, int | str, str]]) -> str | None:
    """Return the innermost line of the user's code. ``frames``: file, line and function, the outermost first."""
    own = installed = None
    folders = installed_folders()
    for file, line, function in frames:
        if file.startswith(folders):
            installed = (file, line, function) if not is_of_library(file) else installed
        elif not is_of_library(file):
            own = file, line, function
    found = own or installed
    return None if found is None else visible(f"{found[0]}:{found[1]} in {found[2]}")
