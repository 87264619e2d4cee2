"""Classes of Pydantic's and msgspec's for the tests; whoever imports it is skipped where those are not installed."""

from __future__ import annotations

import ipaddress
import threading
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest

pydantic = pytest.importorskip("pydantic", minversion="2")
msgspec = pytest.importorskip("msgspec")

from msgspec import Struct as Struct  # noqa: E402
from pydantic import (  # noqa: E402
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic import HttpUrl as HttpUrl  # noqa: E402

T = TypeVar("T")


class Message(BaseModel):
    role: Literal["user", "tool"]
    text: str
    size: int = 3
    sent_at: datetime | None = None


class Exact(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)
    amount: Decimal
    blob: bytes
    pair: tuple[int, str]
    tags: frozenset[int]
    ratio: float


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: str | None = None


class Node(BaseModel):
    """Itself within itself, and types that only Pydantic understands."""

    url: HttpUrl
    mirrors: list[HttpUrl] = []
    address: ipaddress.IPv4Address | None = None
    next: Node | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Aliased(BaseModel):
    total_price: int = Field(alias="totalPrice")
    count: int = Field(default=1, validation_alias=AliasChoices("n", "number"))


class Numbers(RootModel[list[int]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Locked(BaseModel):
    a: int
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _count: int = PrivateAttr(default=0)


class Secret(BaseModel):
    password: SecretStr


class Hashing(BaseModel):
    """Its validator does something else to what it has done before."""

    text: str

    @field_validator("text")
    @classmethod
    def prefix(cls, value: str) -> str:
        return f"x{value}"


class Hostile(BaseModel):
    how: str

    @model_validator(mode="before")
    @classmethod
    def misbehave(cls, values: Any) -> Any:
        if values.get("how") == "exits":
            raise SystemExit(3)
        if values.get("how") == "recurses":
            return getattr(cls, "misbehave")(values)  # noqa: B009
        return values

    @model_validator(mode="wrap")
    @classmethod
    def become(cls, values: Any, handler: Any) -> Any:
        return 5 if values.get("how") == "becomes an int" else handler(values)


class Unequal(BaseModel):
    a: int

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)


class Item(Struct, Generic[T], kw_only=True, rename="camel", tag=True):
    unit_price: T
    count: int = 3
    notes: list[str] = []


class Circle(Struct, frozen=True, tag="circle"):
    r: float


class Disc(Struct, frozen=True, tag="disc"):
    r: float


class Priced(BaseModel):
    price: Decimal


class Discounted(BaseModel):
    price: Decimal | None
