"""Writes documents and lines to standard output, notes to standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, TextIO

import click

from durable_trio.cli.faults import ReaderGone
from durable_trio.cli.text import visible

__all__ = ["is_colored", "is_unicode", "say", "write_json", "write_json_line", "write_lines"]

# For terminals that can show nothing better.
_PLAIN: Final = str.maketrans("…×", "~x")


def write_json(document: Any) -> None:
    """Write one document, indented for people who look at it."""
    from durable_trio.cli.documents import plain

    _write(json.dumps(plain(document), indent=2, ensure_ascii=not is_unicode(sys.stdout), allow_nan=False))


def write_json_line(document: Any) -> None:
    """Write one document as a line, at once."""
    from durable_trio.cli.documents import plain

    _write(json.dumps(plain(document), ensure_ascii=not is_unicode(sys.stdout), allow_nan=False, separators=(",", ":")))


def write_lines(lines: Iterable[str]) -> None:
    """Write lines in one go."""
    text = "\n".join(lines)
    if text:
        _write(text if is_unicode(sys.stdout) else text.translate(_PLAIN))


def is_colored(stream: TextIO) -> bool:
    """Whether to colour: on a terminal that is not told otherwise (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Tell people something beside the output."""
    click.echo(visible(text), err=True)


def is_unicode(stream: TextIO) -> bool:
    """Whether a stream can show more than letters."""
    return "utf" in (stream.encoding or "").lower()


def _write(text: str) -> None:
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
