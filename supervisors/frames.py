"""What a process child says to its parent: lines on a socket pair, named to it by one environment variable.

``ready JSON`` once, ``beat`` again and again, and ``ask JSON`` whenever it has a question. In the other direction there
is one ``answer JSON`` for each question, and ``end`` where the process is told by this way to end; and it ends with the
parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

LINK_VARIABLE = "SUPERVISORS_LINK"
# A value given to ready() is a port number or an address, not a payload; and so is what is asked and answered.
FRAME_BYTES_MAX = 64 * 1024

# Heartbeats in one ``heartbeat_within``: three may be late before the process counts as hung.
BEATS_PER_WINDOW = 4

BEAT = b"beat\n"
END = b"end\n"


@attrs.frozen(kw_only=True)
class Link:
    """What a process child must know to talk to its parent."""

    descriptor: int
    parent_pid: int
    # Time between two heartbeats; 0: none are wanted.
    beat_seconds: float

    def to_text(self) -> str:
        return f"{self.descriptor}:{self.parent_pid}:{self.beat_seconds!r}"

    @classmethod
    def from_text(cls, text: str) -> Link:
        descriptor, parent_pid, beat_seconds = text.split(":")
        return cls(descriptor=int(descriptor), parent_pid=int(parent_pid), beat_seconds=float(beat_seconds))


@attrs.frozen
class Ready:
    """The process is ready; ``value`` is what ``start_child`` returns."""

    value: object


@attrs.frozen
class Beat:
    """The process is alive."""


@attrs.frozen
class Ask:
    """The process asks its parent something, and waits for the answer."""

    value: object


@attrs.frozen
class Answer:
    """What the parent says to the question before."""

    value: object


@attrs.frozen
class End:
    """The process is to end."""


Frame: TypeAlias = Ready | Beat | Ask | Answer | End

_WITH_VALUE: Final[dict[bytes, Callable[[object], Frame]]] = {b"ready": Ready, b"ask": Ask, b"answer": Answer}


def encode_ready(value: object) -> bytes:
    """Return the line that says that a process is ready.

    Raises:
        TypeError: JSON cannot carry the value.
        ValueError: it is too large.
    """
    return _encode("ready", value, "the value given to ready()")


def encode_ask(value: object) -> bytes:
    """Return the line that asks something; raise as ``encode_ready`` does."""
    return _encode("ask", value, "the value given to ask()")


def encode_answer(value: object) -> bytes:
    """Return the line that answers; raise as ``encode_ready`` does."""
    return _encode("answer", value, "the answer to a question")


def _encode(word: str, value: object, what: str) -> bytes:
    frame = f"{word} {json.dumps(value)}\n".encode()
    if len(frame) > FRAME_BYTES_MAX:
        raise ValueError(f"{what} takes {len(frame)} bytes, over {FRAME_BYTES_MAX}")
    return frame


def decode(line: bytes) -> Frame | None:
    """Return what a line says; ``None`` for what is no frame, which is ignored."""
    if line == b"beat":
        return Beat()
    if line == b"end":
        return End()
    word, _, text = line.partition(b" ")
    if word not in _WITH_VALUE:
        return None
    try:
        return _WITH_VALUE[word](json.loads(text))
    except ValueError:
        return None


class FrameReader:
    """Cuts received bytes into frames; a line that is too long is dropped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= FRAME_BYTES_MAX else b""
        return [frame for line in lines if (frame := decode(line)) is not None]
