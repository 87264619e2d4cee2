"""Pydantic models and msgspec structs come back as they were, or are refused by name."""

from __future__ import annotations

import ipaddress
import math
from decimal import Decimal
from typing import Any

import pytest

from durable_trio.codec import UNANNOTATED
from tests.codec.codec_examples import CODEC, check, refusal, unreadable
from tests.codec.foreign_models import (
    Aliased,
    Cat,
    Circle,
    Disc,
    Discounted,
    Dog,
    Exact,
    Hashing,
    Hostile,
    HttpUrl,
    Item,
    Locked,
    Message,
    Node,
    Numbers,
    Open,
    Owner,
    Page,
    Priced,
    Secret,
    Struct,
    Unequal,
)

MESSAGE = Message(role="user", text="hi")


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (MESSAGE, Message, '{"role":"user","text":"hi","size":3,"sent_at":null,"$unset":["size","sent_at"]}'),
        (Cat(kind="cat", name="x"), Cat, '{"kind":"cat","name":"x"}'),
        (Dog(kind="dog", name="x"), Cat | Dog, '{"$type":"Dog","kind":"dog","name":"x"}'),
        (Owner(pet=Dog(kind="dog", name="x")), Owner, '{"pet":{"$type":"Dog","kind":"dog","name":"x"}}'),
        (Numbers([1, 2]), Numbers, '{"root":[1,2]}'),
        (Aliased.model_validate({"totalPrice": 3, "n": 4}), Aliased, '{"total_price":3,"count":4}'),
        (Open.model_validate({"a": 1, "b": [2], "$c": 3}), Open, '{"a":1,"$extra":{"$dict":{"b":[2],"$c":3}}}'),
        (Item(unit_price=1, notes=["a"]), Item[int], '{"unit_price":1,"count":3,"notes":["a"]}'),
        (Disc(2.0), Circle | Disc, '{"$type":"Disc","r":2.0}'),
    ],
    ids=str,
)
def test_the_stored_text_is_readable(value: Any, annotation: Any, text: str) -> None:
    assert check(value, annotation) == text


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ([MESSAGE, None], list[Message | None]),
        ({"a": MESSAGE}, dict[str, Message | int]),
        (Page[Message](items=[MESSAGE]), Page[Message]),
        (Page[int](items=[1], next=None), Page[int]),
        (
            Exact(amount=Decimal("1.10"), blob=b"\xff", pair=(1, "a"), tags=frozenset({2}), ratio=math.nan),
            Exact,
        ),
        (
            Node(
                url=HttpUrl("http://a.b/c?d=1"),
                mirrors=[HttpUrl("https://e.f")],
                address=ipaddress.IPv4Address("1.2.3.4"),
                next=Node(url=HttpUrl("http://g.h")),
            ),
            Node,
        ),
        (Locked(a=1), Locked),
        ([Circle(1.0), Disc(1.0), Circle(2)], list[Circle | Disc]),
        (Item(unit_price=[MESSAGE]), Item[list[Message]]),
    ],
    ids=str,
)
def test_nested_and_generic_values_come_back_the_same(value: Any, annotation: Any) -> None:
    check(value, annotation)


def test_fields_that_were_never_set_still_are_not() -> None:
    """``exclude_unset`` is how a model says what is to be changed and what is not."""
    again = CODEC.encode(Page[Message](items=[MESSAGE]), Page[Message], where="x").value

    assert again.model_dump(exclude_unset=True) == {"items": [{"role": "user", "text": "hi"}]}


def test_a_member_of_a_union_that_is_written_by_hand_is_known_by_its_word() -> None:
    found = CODEC.decode('{"kind":"dog","name":"x"}', Cat | Dog, where="x")

    assert found == Dog(name="x")
    assert "without $type" in str(unreadable('{"name":"x"}', Cat | Dog))
    assert "without $type" in str(unreadable('{"kind":"cow","name":"x"}', Cat | Dog))


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (MESSAGE, UNANNOTATED, "Message is no JSON type"),
        (MESSAGE, Cat, "Message is no Cat"),
        (Page(items=[1]), Page[int], r"Page is no Page\[int\]"),
        (Secret(password="x"), Secret, r"\.password: pydantic.types.SecretStr"),  # type: ignore[arg-type]
        (Hashing(text="a"), Hashing, r"\.text: a str of 2 characters would come back as another one"),
        (Message.model_construct(role="user"), Message, r"\.text: reading it has raised"),
        (Message.model_construct(role="cook", text="x"), Message, "a str of 4 characters is not in"),
        (Message.model_construct(role="user", text=5), Message, r"\.text: int is no str"),
        (Exact.model_construct(pair=[1, "a"]), Exact, "reading it has raised"),
        (Open.model_validate({"a": 1, "b": (2,)}), Open, "tuple is no JSON type"),
        (Unequal(a=1), UNANNOTATED, "Unequal is no JSON type"),
    ],
    ids=str,
)
def test_what_would_not_come_back_the_same_is_refused(value: Any, annotation: Any, text: str) -> None:
    assert refusal(value, annotation).args[0] is not None
    with pytest.raises(Exception, match=text):
        CODEC.encode(value, annotation, where="x")


def test_a_private_attribute_that_would_be_lost_is_named() -> None:
    model = Locked(a=1)
    model._count = 5

    assert "private attribute _count would be lost; make it a field" in str(refusal(model, Locked))


@pytest.mark.parametrize(
    ("how", "text"),
    [("exits", "SystemExit: 3"), ("recurses", "RecursionError"), ("becomes an int", "was validated and became int")],
)
def test_a_hostile_validator_is_one_named_error(how: str, text: str) -> None:
    for error in (refusal(Hostile.model_construct(how=how), Hostile), unreadable(f'{{"how":"{how}"}}', Hostile)):
        assert "result: Hostile" in str(error)
        assert text in str(error)


@pytest.mark.parametrize(
    "text",
    [
        '{"role":"user"}',
        '{"role":"user","text":5}',
        '{"role":"user","text":"x","tone":1}',
        '{"role":"user","text":"x","$unset":["size"]}',
        '{"role":"user","text":"x","$unset":5}',
        "[]",
    ],
)
def test_text_that_no_model_has_written_is_refused(text: str) -> None:
    unreadable(text, Message)
    unreadable('{"a":1,"$extra":{"a":2}}', Open)


def test_a_struct_is_checked_field_by_field() -> None:
    assert ".r: str is no float" in str(refusal(Circle("x"), Circle))  # type: ignore[arg-type]
    assert "Circle lacks the field 'r'" in str(unreadable("{}", Circle))
    assert issubclass(Circle, Struct)


@pytest.mark.parametrize(("plain", "price"), [("3.25", "3.25"), ("3", "3"), ('"3.10"', "3.10"), ("-1e2", "-100.0")])
def test_a_number_is_read_where_a_field_is_a_decimal_as_pydantic_does(plain: str, price: str) -> None:
    """Signals and arguments come from other programs too, whose JSON has numbers."""
    for annotation in (Priced, Discounted):
        model = CODEC.decode(f'{{"price":{plain}}}', annotation, where="it")
        assert model.price == Decimal(price)
        assert check(model, annotation) == f'{{"price":"{model.price}"}}'


def test_what_is_no_number_is_no_decimal_of_a_field_either() -> None:
    for plain in ("true", "[1]", '"x"'):
        assert "price" in str(unreadable(f'{{"price":{plain}}}', Priced))
