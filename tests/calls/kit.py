"""What the tests of steps share: values, and failures."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Any

import attrs


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


@attrs.frozen
class Item:
    name: str
    price: Decimal
    color: Color
    parts: list[Item] = attrs.field(factory=list)


def fail_with(error: Exception) -> None:
    raise error


def shape_of(error: BaseException) -> Any:
    """Return what must be equal of two exceptions."""
    if isinstance(error, BaseExceptionGroup):
        return type(error), error.message, [shape_of(inner) for inner in error.exceptions]
    fields = {key: value for key, value in vars(error).items() if key != "__notes__"}
    return type(error), error.args, str(error), fields, getattr(error, "__notes__", [])
