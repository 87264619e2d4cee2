"""How large an operation is, as far as that matters: the payloads that it carries, in characters. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from durable_trio.stores.contract import (
    Advance,
    ContinueAsNew,
    Finish,
    RequestCancel,
    SendSignal,
    SignalWithStart,
    StartRun,
)

__all__ = ["size_of"]


def size_of(operation: Any) -> int:
    """Return how many characters of payloads an operation has: at least so many bytes are written for it."""
    size = _SIZES.get(type(operation))
    return 0 if size is None else size(operation)


def _advance(operation: Advance) -> int:
    size = len(operation.error or "")
    for row in operation.rows:
        size += len(row.result or "") + len(row.error or "")
    for _, text in operation.published:
        size += len(text)
    for start in operation.children:
        size += len(start.args)
    return size


_SIZES: Final[dict[type, Callable[[Any], int]]] = {
    Advance: _advance,
    StartRun: lambda operation: len(operation.args),
    SendSignal: lambda operation: len(operation.payload),
    SignalWithStart: lambda operation: len(operation.start.args) + len(operation.signal.payload),
    RequestCancel: lambda operation: len(operation.reason),
    Finish: lambda operation: len(operation.result or "") + len(operation.error or ""),
    ContinueAsNew: lambda operation: len(operation.args),
}
