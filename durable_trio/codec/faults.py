"""What goes wrong inside a value, and where: every refusal of the codec begins as a ``Fault``."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

__all__ = ["Fault", "at", "each_of", "segment", "short", "type_name"]


class Fault(Exception):
    """A value cannot be converted: ``reason``, and where inside the value, collected on the way out."""

    def __init__(self, reason: str, *segments: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.segments = list(segments)  # innermost first

    @property
    def path(self) -> str:
        """The place in the value, such as ``.items[3].price``."""
        return "".join(reversed(self.segments))


def type_name(value: object) -> str:
    """Name the type of a value for people."""
    cls = type(value)
    if cls is CoroutineType:
        return "a coroutine (is an await missing?)"
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def segment(key: object) -> str:
    """Name one entry of a dict or list in a path; long keys are cut."""
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:57] + '...'}]"


def short(value: object) -> str:
    """Show a value in a message; a long one is cut."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type_name(value)}>"
    return text if len(text) <= 80 else text[:77] + "..."


def at(key: object, convert: Callable[..., Any], *args: Any) -> Any:
    """Convert one entry of a dict or list; a fault in it names the entry."""
    try:
        return convert(*args)
    except Fault as fault:
        fault.segments.append(segment(key))
        raise


def each_of(convert: Callable[[Any], Any], items: Any) -> list[Any]:
    """Convert all items; a fault in one names its index."""
    converted: list[Any] = []
    append = converted.append
    try:
        for item in items:
            append(convert(item))
    except Fault as fault:
        fault.segments.append(f"[{len(converted)}]")
        raise
    return converted
