"""Pydantic models and msgspec structs that the release before has recorded are read by unions that have changed."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import attrs
import pytest

pytest.importorskip("pydantic", minversion="2")
pytest.importorskip("msgspec")

from msgspec import Struct
from pydantic import BaseModel, Field

from durable_trio.errors import CodecError
from tests.codec.changed_types import Cash, codec, read, refused

T = TypeVar("T")


class Points(BaseModel):
    points: int
    note: str | None = None


class Gift(Struct):
    gift: str


class Bond(BaseModel):
    kind: Literal["bond"] = "bond"
    number: str


class Share(BaseModel):
    kind: Literal["share"] = "share"
    number: str


class Obligation(BaseModel):
    kind: Literal["bond"] = "bond"
    number: str


@attrs.frozen
class Present:
    gift: str


class Page(BaseModel, Generic[T]):
    items: list[T]


class Leaf(BaseModel, Generic[T]):
    items: list[T]


EITHER = Annotated[Bond | Share, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("points", Points | Cash, Points(points=1)),
        ("points of union", Points, Points(points=1)),
        ("gift", Gift | Cash, Gift("g")),
        ("gift of union", Gift, Gift("g")),
        ("bond", EITHER, Bond(number="1")),
        ("bond of union", Bond, Bond(number="1")),
        ("bond of union", Bond | Cash | None, Bond(number="1")),
    ],
    ids=str,
)
def test_a_model_is_read_by_a_wider_or_narrower_union(name: str, annotation: Any, value: Any) -> None:
    found = read(name, annotation)

    assert type(found) is type(value)
    assert found == value


def test_a_renamed_model_takes_an_alias() -> None:
    assert 'Engine(aliases={"Bond": Obligation})' in refused("bond of union", Obligation | Share)
    assert read("bond of union", Obligation | Share, {"Bond": Obligation}) == Obligation(number="1")
    assert read("gift of union", Present, {"Gift": Present}) == Present("g")
    assert "taken by Gift and Present" in refused("gift", Gift | Present)


def test_a_generic_model_takes_an_alias_and_other_arguments() -> None:
    text = codec().encode(Page[int](items=[1]), Page[int] | Cash, where="x").text
    for annotation in (Page[int], Page[int | str], Page[int | str] | Cash):
        assert codec().decode(text, annotation, where="x").items == [1]
    renamed: tuple[Any, ...] = (Leaf[int], Leaf[int] | Cash, Leaf[int | str] | Cash)
    for annotation in renamed:
        with pytest.raises(CodecError, match=r'Engine\(aliases=\{"Page": Leaf\}\)'):
            codec().decode(text, annotation, where="x")
        for alias in (Leaf, Leaf[int], annotation):
            if isinstance(alias, type):
                assert codec({"Page": alias}).decode(text, annotation, where="x").items == [1]
