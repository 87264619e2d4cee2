"""The types of ``recorded_before.json`` as they are now, and others that stand in their places.

That file is what the release before wrote: each value by its own type, and as a member of a union. So no value of it
may be made anew.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import pytest

from durable_trio import TypeHook
from durable_trio.codec import Codec
from durable_trio.errors import CodecError

T = TypeVar("T")
RECORDED: dict[str, str] = json.loads(Path(__file__).with_name("recorded_before.json").read_text())


@attrs.frozen
class Card:
    number: str


@attrs.frozen
class Cash:
    amount: Decimal


@dataclass
class Cheque:
    number: str
    bank: str = "x"


class Coin(NamedTuple):
    cents: int


class Voucher(TypedDict):
    code: str
    value: NotRequired[int]


class Color(enum.Enum):
    RED = "red"


class Shape(enum.Enum):
    POINT = (0, 0)


@attrs.define
class Box(Generic[T]):
    item: T


class Money:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


# What was a Card once, or could be taken for one.


@attrs.frozen
class CreditCard:
    number: str


@attrs.frozen
class CardWithLimit:
    number: str
    limit: int = 0


@attrs.frozen
class CardThatNeedsLimit:
    number: str
    limit: int


@attrs.frozen
class CardWithoutNumber:
    pass


@attrs.frozen
class NumberedNote:
    number: int


@attrs.frozen
class Marked:
    number: str
    kind: Literal["marked"]


@attrs.define
class Crate(Generic[T]):
    item: T


class Paint(enum.Enum):
    RED = "red"


HOOKS = [TypeHook(Money, str, Money)]


def codec(aliases: dict[str, type] | None = None) -> Codec:
    return Codec(types=HOOKS, aliases=aliases or {})


def read(name: str, annotation: Any, aliases: dict[str, type] | None = None) -> Any:
    return codec(aliases).decode(RECORDED[name], annotation, where="x")


def refused(name: str, annotation: Any, aliases: dict[str, type] | None = None) -> str:
    with pytest.raises(CodecError) as caught:
        read(name, annotation, aliases)
    return str(caught.value)
