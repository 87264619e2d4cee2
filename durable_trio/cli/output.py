"""Writes documents and lines to standard output, notes to standard error: the one way out of the command line.

Nothing unseen gets through: not in a document, whose escapes mean the same to a program, and not in lines, of which
only the colours are left, even if what made them has forgotten to make a name ``visible``.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import sys
import time
from collections.abc import Iterable
from typing import Any, Final, TextIO

import click

from durable_trio.cli.faults import ReaderGone
from durable_trio.unseen import visible, visible_json, visible_lines

__all__ = [
    "ProgressLine",
    "harmless",
    "has_reader",
    "is_colored",
    "is_unicode",
    "say",
    "write_id",
    "write_json",
    "write_json_line",
    "write_lines",
]

# For terminals that can show nothing better.
_PLAIN: Final = str.maketrans("…×", "~x")
# Of progress nothing is said for so long, and each word of it can be read.
_QUIET_SECONDS: Final = 1.0
_STANDS_SECONDS: Final = 0.2
_REST_CLEARED: Final = "\x1b[K"
# What ``click.style`` writes.
_COLOR: Final = re.compile(r"(\x1b\[[0-9;]*m)")


def write_json(document: Any) -> None:
    """Write one document, indented for people who look at it."""
    from durable_trio.views.documents import plain

    _write_json(plain(document), indent=2)


def write_json_line(document: Any) -> None:
    """Write one document as a line, at once."""
    from durable_trio.views.documents import plain

    _write_json(plain(document), separators=(",", ":"))


def write_lines(lines: Iterable[str], *, is_error: bool = False) -> None:
    """Write lines in one go."""
    stream = sys.stderr if is_error else sys.stdout
    text = harmless("\n".join(lines))
    if text:
        _write(text if is_unicode(stream) else text.translate(_PLAIN), is_error=is_error)


def write_id(id: str) -> None:
    """Write an id alone, on a line, for a program to take: as it is, but for people at a terminal."""
    _write(visible(id) if sys.stdout.isatty() else id)


def is_colored(stream: TextIO) -> bool:
    """Whether to colour: on a terminal that is not told otherwise (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_reader() -> bool:
    """Whether somebody may still read standard output: of a pipe that is only written to now and then, ask."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # there is no such call, or no file
        return True
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def say(text: str) -> None:
    """Tell people something beside the output."""
    _write(visible(text), is_error=True)


def say_interrupted(so_far: str) -> None:
    """End the line in which a terminal has written ``^C``, and tell what was done before, if there is anything."""
    if sys.stderr.isatty():
        say("")
    if so_far:
        say(so_far)


class ProgressLine:
    """A line on a terminal's standard error that is written over itself; of what is quick nobody sees anything."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next_at = time.monotonic() + _QUIET_SECONDS
        self._is_shown = False

    def show(self, text: str) -> None:
        """Show a text in place of the one before, if that stood for a moment."""
        now = time.monotonic()
        if self._shows and now >= self._next_at:
            self._next_at, self._is_shown = now + _STANDS_SECONDS, True
            click.echo(f"\r{visible(text)}{_REST_CLEARED}", nl=False, err=True)

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._is_shown:
            self._is_shown = False
            click.echo(f"\r{_REST_CLEARED}", nl=False, err=True)


def harmless(text: str) -> str:
    """Return a text that may have lines and colours, with everything else that is unseen written as an escape."""
    return "".join(part if index % 2 else visible_lines(part) for index, part in enumerate(_COLOR.split(text)))


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can show more than letters."""
    return "utf" in (stream.encoding or "").lower()


def _write_json(value: Any, **layout: Any) -> None:
    _write(visible_json(json.dumps(value, ensure_ascii=not is_unicode(sys.stdout), allow_nan=False, **layout)))


def _write(text: str, *, is_error: bool = False) -> None:
    if is_error:
        click.echo(text, err=True)
        return
    raw = getattr(sys.stdout, "buffer", None)
    try:
        if isinstance(raw, io.RawIOBase):  # PYTHONUNBUFFERED
            _write_whole(text, raw)
        else:
            click.echo(text)
    except BrokenPipeError as error:
        raise ReaderGone from error


def _write_whole(text: str, raw: io.RawIOBase) -> None:
    """A text stream without a buffer forgets what was not taken at once, as when the reader goes meanwhile."""
    shown = io.StringIO()
    click.echo(text, file=shown)  # which takes out colours where none are wanted
    rest = shown.getvalue().encode(sys.stdout.encoding, sys.stdout.errors or "strict")
    while rest:
        count = raw.write(rest)
        if count is None:
            raise BlockingIOError("standard output does not wait for its reader; write to a file, or through cat")
        rest = rest[count:]
