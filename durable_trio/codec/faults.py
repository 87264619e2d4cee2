"""What goes wrong inside a value, and where: every refusal of the codec begins as a ``Fault``."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

from durable_trio.looks import bears_a_look, class_name, exact_text, look, qualified_name, said, short

__all__ = ["Fault", "at", "each_of", "fault_of", "segment", "short", "type_name", "unquoted"]


class Fault(Exception):
    """A value cannot be converted: ``reason``, and where inside the value, collected on the way out.

    ``is_unknown``: nobody here knows when two values of that class are the same.
    """

    def __init__(self, reason: str, *segments: str, is_unknown: bool = False) -> None:
        super().__init__(reason)
        self.is_unknown = is_unknown
        self.reason = reason
        self.segments = list(segments)  # innermost first

    @property
    def path(self) -> str:
        """The place in the value, such as ``.items[3].price``."""
        return "".join(reversed(self.segments))


def unquoted(value: object) -> str:
    """Describe a value without quoting it: what refuses it is logged, and payloads do not belong in logs."""
    return f"a str of {len(value)} characters" if type(value) is str else type_name(value)


def type_name(value: object) -> str:
    """Name the type of a value for people."""
    cls = type(value)
    if cls is CoroutineType:
        return "a coroutine (is an await missing?)"
    name = qualified_name(cls)
    return class_name(cls) if name == f"builtins.{class_name(cls)}" else name


def fault_of(error: BaseException, what: str, *segments: str) -> Fault:
    """Return what a value's own code has raised as a fault, with ``what`` was done; a fault is itself."""
    if type(error) is Fault:
        error.segments.extend(segments)
        return error
    fault = Fault(f"{what}: {' '.join(said(error).split())}", *segments)  # Pydantic's have several lines
    fault.__cause__ = error if bears_a_look(error) else None
    return fault


def segment(key: object) -> str:
    """Name one entry of a dict or list in a path; long keys are cut."""
    text = look(lambda: exact_text(repr(key)), instead=lambda _: f"<{type_name(key)}>")
    return f"[{text if len(text) <= 60 else text[:57] + '...'}]"


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
