"""What a rehearsing process and its parent say to each other: a line of JSON each."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

from durable_trio.rehearsal.judged import Judged
from durable_trio.rehearsal.records import Verdict

__all__ = ["BEAT_SECONDS", "from_line", "judged_from", "judged_to", "to_line"]

#: So often the child tells that it is there, and whether its loop turns.
BEAT_SECONDS: Final = 0.2


def to_line(message: dict[str, Any]) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> dict[str, Any]:
    """Return a message that was sent."""
    message: dict[str, Any] = json.loads(line)
    return message


def judged_to(judged: Judged | None) -> dict[str, Any] | None:
    """Return a verdict as JSON values."""
    return None if judged is None else attrs.asdict(judged)


def judged_from(values: dict[str, Any] | None) -> Judged | None:
    """Return the verdict that these are."""
    return None if values is None else Judged(**{**values, "verdict": Verdict(values["verdict"])})
