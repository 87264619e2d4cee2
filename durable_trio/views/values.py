"""Single values as a machine reads them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

__all__ = ["iso", "jsonable"]


def iso(instant: datetime) -> str:
    """Return an instant as ``2026-03-01T12:00:00.000000Z``."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def jsonable(value: Any) -> Any:
    """Return a stored value as JSON can say it: a number that is none is written with the codec's own tag."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value
