"""Values that the release before has recorded are read by types that have changed since, or are refused by name."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Union
from uuid import UUID

import attrs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from durable_trio.codec import UNANNOTATED, Codec
from durable_trio.codec.sameness import is_same
from durable_trio.errors import CodecError
from tests.codec import changed_types
from tests.codec.changed_types import (
    RECORDED,
    Box,
    Card,
    CardThatNeedsLimit,
    CardWithLimit,
    CardWithoutNumber,
    Cash,
    Cheque,
    Coin,
    Color,
    Crate,
    CreditCard,
    Marked,
    Money,
    NumberedNote,
    Paint,
    Shape,
    Voucher,
    codec,
    read,
    refused,
)
from tests.codec.codec_examples import CODEC, annotated, of

CARD = Card("1")


def check_equal(found: object, value: object) -> None:
    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("card", Card | Cash, CARD),
        ("card", Card | Cash | None, CARD),
        ("card", Card | NumberedNote, CARD),  # the same field, of another type
        ("card", Card | Marked, CARD),  # which must have one more
        ("card", Card | Money, CARD),
        ("cash", Card | Cash, Cash(Decimal("1.5"))),
        ("cheque", Cheque | Cash, Cheque("1")),
        ("coin", Coin | Cash, Coin(5)),
        ("voucher", Voucher | Cash, {"code": "v"}),
        ("color", Color | Shape, Color.RED),
        ("shape", Shape | Color, Shape.POINT),
        ("money", Money | Cash, Money("1")),
        ("decimal", Decimal | date, Decimal("1.50")),
        ("decimal", Decimal | None, Decimal("1.50")),
        ("date", date | datetime, date(2024, 1, 2)),
        ("literal", Literal["a"] | str, "a"),
        ("literal", Literal["a", "b"] | bytes, "a"),
        ("box", Box[Card] | Card, Box(CARD)),
        ("box", Box[Card | Cash], Box(CARD)),
        ("cards", list[Card | Cash], [CARD]),
        ("cards", list[Card | Cash | None] | None, [CARD]),
        ("tuple", tuple[Card | Cash, ...], (CARD,)),
        ("tuple", tuple[Card, ...] | set[int], (CARD,)),
        ("tuple", set[Any] | frozenset[Any] | tuple[Card, ...], (CARD,)),
        ("card", CreditCard | Cash, CreditCard("1")),  # nothing that was stored says otherwise
        ("by name", dict[str, Card | Cash], {"a": CARD}),
        ("by color", dict[Color | Shape, int], {Color.RED: 1}),
        ("by decimal", dict[Decimal | UUID, int], {Decimal("1.5"): 1}),
        ("optional", Card | Cash | None, CARD),
        ("in a field", Box[list[Card | Cash]], Box([CARD])),
    ],
    ids=str,
)
def test_what_was_no_union_is_read_as_the_one_member_that_takes_it(name: str, annotation: Any, value: Any) -> None:
    check_equal(read(name, annotation), value)


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("card", Card, CARD),
        ("cash", Cash, Cash(Decimal("1.5"))),
        ("cheque", Cheque, Cheque("1")),
        ("coin", Coin, Coin(5)),
        ("voucher", Voucher, {"code": "v"}),
        ("color", Color, Color.RED),
        ("shape", Shape, Shape.POINT),
        ("money", Money, Money("1")),
        ("decimal", Decimal, Decimal("1.50")),
        ("date", date, date(2024, 1, 2)),
        ("bytes", bytes, b"x"),
        ("literal", str, "a"),
        ("literal", Literal["a"], "a"),
        ("box", Box[Card], Box(CARD)),
        ("cards", list[Card], [CARD]),
        ("tuple", tuple[Card, ...], (CARD,)),
        ("by name", dict[str, Card], {"a": CARD}),
        ("by name", dict[str, Card | None], {"a": CARD}),
        ("by color", dict[Color, int], {Color.RED: 1}),
        ("by decimal", dict[Decimal, int], {Decimal("1.5"): 1}),
        ("optional", Card | None, CARD),
        ("optional", Card, CARD),
        ("in a field", Box[list[Card]], Box([CARD])),
    ],
    ids=str,
)
def test_what_was_a_union_is_read_as_the_one_type_that_is_left(name: str, annotation: Any, value: Any) -> None:
    """And as its own before, which has not changed."""
    check_equal(read(f"{name} of union", annotation), value)
    if name != "literal":
        check_equal(read(name, annotation), value)


@pytest.mark.parametrize(
    ("name", "annotation", "value"),
    [
        ("card of union", Card | Cash | Cheque, CARD),
        ("cheque of union", Cheque | Card, Cheque("1")),
        ("box of union", Box[Card | Cash] | Card, Box(CARD)),
        ("tuple of union", tuple[Card | Cash, ...] | list[Card | Cash], (CARD,)),
        ("date of union", date | Decimal, date(2024, 1, 2)),
        ("decimal of union", Decimal | bytes | None, Decimal("1.50")),
    ],
    ids=str,
)
def test_a_union_with_other_members_knows_those_that_are_left(name: str, annotation: Any, value: Any) -> None:
    assert is_same(read(name, annotation), value)


def test_a_class_that_was_told_from_another_by_its_module_is_found_by_both_names() -> None:
    home = Card.__module__
    text = RECORDED["card of two"].replace("shop.new", home)
    for annotation in (Card, Card | Cash, list[Card] | Card):
        assert codec().decode(text, annotation, where="x") == CARD
    assert read("card of two", Card | Cash, {"shop.new.Card": Card}) == CARD
    assert "Engine(aliases={" in refused("card of two", Card)


def test_a_class_of_the_program_is_found_under_its_old_name() -> None:
    for annotation in (Card, Card | Cash):
        assert read("program's card of two", annotation) == CARD


def test_two_classes_of_one_name_are_asked_which_of_them_takes_it() -> None:
    other = attrs.make_class("Card", {"pin": attrs.field(type=str)}, frozen=True)
    assert read("card of union", Card | other) == CARD
    same = attrs.make_class("Card", {"number": attrs.field(type=str)}, frozen=True)
    assert "taken by Card and Card" in refused("card of union", Card | same)
    assert read("card of union", Card | same, {"Card": Card}) == CARD
    found = read("card of union", Card | same, {"Card": same})
    assert type(found) is same


@pytest.mark.parametrize(
    ("name", "annotation", "aliases", "value"),
    [
        ("card of union", CreditCard, {"Card": CreditCard}, CreditCard("1")),
        ("card of union", CreditCard | Cash, {"Card": CreditCard}, CreditCard("1")),
        ("card of union", CreditCard | Card, {"Card": CreditCard}, CreditCard("1")),
        ("optional of union", CreditCard | None, {"Card": CreditCard}, CreditCard("1")),
        ("cards of union", list[CreditCard], {"Card": CreditCard}, [CreditCard("1")]),
        ("color of union", Paint, {"Color": Paint}, Paint.RED),
        ("color of union", Paint | str, {"Color": Paint}, Paint.RED),
        ("box of union", Crate[Card], {"Box": Crate}, Crate(CARD)),
        ("box of union", Crate[CreditCard] | Card, {"Box": Crate, "Card": Card}, Crate(CreditCard("1"))),
        ("coin of union", Cash | Coin, {"Coin": Coin}, Coin(5)),
    ],
    ids=str,
)
def test_a_class_that_was_renamed_is_found_by_its_alias(
    name: str, annotation: Any, aliases: dict[str, type], value: Any
) -> None:
    assert is_same(read(name, annotation, aliases), value)


def test_aliases_make_no_chain() -> None:
    aliases: dict[str, type] = {"Card": CreditCard, "CreditCard": Cash}
    assert read("card of union", CreditCard | Cash, aliases) == CreditCard("1")
    assert "aliases say that it is" in refused("card of union", Cash | Coin, aliases)


def test_a_new_class_may_have_the_name_that_an_alias_gives_to_another() -> None:
    """It is stored with its module then, and so told from what was stored under the bare name."""
    known = codec({"Card": CreditCard})
    for value in (CARD, CreditCard("2")):
        text, first = known.encode(value, Card | CreditCard, where="x")
        assert is_same(first, value)
        assert is_same(known.decode(text, Card | CreditCard, where="x"), value)
    assert is_same(read("card of union", Card | CreditCard, {"Card": CreditCard}), CreditCard("1"))


@pytest.mark.parametrize(
    ("name", "annotation", "text"),
    [
        ("card", Card | CreditCard, "dict without $type is taken by Card and CreditCard"),
        ("card", Card | CardWithLimit, "dict without $type is taken by Card and CardWithLimit"),
        ("cards", list[Card | CreditCard], "[0]: dict without $type is taken by Card and CreditCard"),
        ("decimal", Decimal | Path, "str without $type is taken by Decimal and Path"),
        ("card", Cash | Coin, "dict without $type is no Cash | Coin"),
        ("card", CardThatNeedsLimit, "CardThatNeedsLimit lacks the field 'limit'"),
        ("card", CardThatNeedsLimit | Coin, "dict without $type is no CardThatNeedsLimit | Coin"),
        ("card", CardWithoutNumber, "CardWithoutNumber has no field 'number'"),
        ("card of union", CardThatNeedsLimit, "is none of CardThatNeedsLimit"),
        ("cash of union", Card, "$type 'Cash' is none of Card; put it back, or say what it is called now"),
        ("cash of union", list[Card], ""),
        ("color of union", Shape, "$type 'Color' is none of Shape"),
        ("decimal of union", date, "$type 'Decimal' is none of date"),
        ("card of union", dict[str, str], "$type 'Card' is none of dict[str, str]"),
        ("card of union", Any, "unknown tag '$type'"),
    ],
    ids=str,
)
def test_what_no_member_takes_or_several_is_refused_by_their_names(name: str, annotation: Any, text: str) -> None:
    assert text in refused(name, annotation)


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        ("card of union", CreditCard),
        ("card of union", CreditCard | Cash),
        ("by name of union", dict[str, CreditCard | Cash | None]),
        ("in a field of union", Box[list[CreditCard]]),
        ("box of union", Crate[Card]),
        ("color of union", Paint),
        ("color of union", Paint | Decimal),
        ("card of two", CardWithLimit | Cash),
    ],
    ids=str,
)
def test_the_line_that_the_message_names_is_the_one_that_helps(name: str, annotation: Any) -> None:
    text = refused(name, annotation)

    found = re.search(r"Engine\(aliases=(\{.*?\})\)", text)
    assert found is not None, text
    aliases = eval(found[1], vars(changed_types))
    value = read(name, annotation, aliases)

    assert is_same(codec().encode(value, annotation, where="x").value, value)


def test_a_field_that_was_added_is_read_with_its_default_wherever_the_class_is() -> None:
    text = RECORDED["card"]
    assert codec().decode(text, CardWithLimit, where="x") == CardWithLimit("1")
    assert read("card of union", CardWithLimit, {"Card": CardWithLimit}) == CardWithLimit("1")
    assert read("card of union", CardWithLimit | Cash, {"Card": CardWithLimit}) == CardWithLimit("1")
    for annotation in (CardThatNeedsLimit, CardThatNeedsLimit | Cash):
        assert "lacks the field 'limit'" in refused("card of union", annotation, {"Card": CardThatNeedsLimit})


def test_arguments_and_fields_of_errors_are_read_the_same_way() -> None:
    text = f"[{RECORDED['card of union']},{RECORDED['card']}]"
    found = codec().decode_arguments(text, lambda _: [Card, Card | NumberedNote], where="x")
    assert found == (CARD, CARD)
    assert codec().from_plain({"$type": "Card", "number": "1"}, Card) == CARD
    assert codec().own.decode(RECORDED["card of union"], Card, where="x") == CARD


def test_a_tag_that_is_no_name_is_not_repeated_at_length() -> None:
    for tag in ("x" * 100_000, "x y", "$type", ""):
        with pytest.raises(CodecError, match="is none of Card") as caught:
            codec().decode(f'{{"$type":"{tag}","number":"1"}}', Card, where="x")
        assert len(str(caught.value)) < 200
        assert "aliases" not in str(caught.value)


def test_what_was_written_by_hand_is_read_the_same_way() -> None:
    """As a signal from a shell, where nobody knows the classes: an object with a key that begins with ``$``."""
    text = codec().encode({"$type": "Card", "number": "1"}, Any, where="x").text
    assert codec().decode(text, Card, where="x") == CARD
    assert codec({"Card": CreditCard}).decode(text, CreditCard, where="x") == CreditCard("1")
    assert codec({"Card": CreditCard}).decode(text, CreditCard | Cash, where="x") == CreditCard("1")
    assert codec().decode(text, dict[str, str], where="x") == {"$type": "Card", "number": "1"}


@attrs.define
class Fork:
    n: int
    next: Fork | Knife | None = None


@attrs.define
class Knife:
    n: int
    next: Fork | Knife | None = None


def test_a_union_within_itself_is_read_in_bounded_time_at_any_depth() -> None:
    """Each level could be either: two members at fifty levels are not two to the power of fifty."""
    text = '{"n":1,"next":' * 50 + "null" + "}" * 50
    with pytest.raises(CodecError, match="taken by Fork and Knife"):
        Codec().decode(text, Fork | Knife, where="x")
    last = '{"n":1,"next":' * 50 + '{"$type":"Spoon"}' + "}" * 50
    with pytest.raises(CodecError, match="Spoon' is none of"):
        Codec().decode(last, Fork | Knife, where="x")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_of_any_two_types_a_union_may_be_made_and_unmade(data: st.DataObject) -> None:
    """Unmade, each value is the same. Made, it may be refused by the names of both, or be JSON's own type's."""
    (mine, values), (other, _) = data.draw(annotated()), data.draw(annotated())
    assume(UNANNOTATED not in (mine, other))
    value, both = data.draw(values), of(Union, (mine, other))
    made = outcome(lambda: CODEC.encode(value, both, where="x").text)
    assume(not isinstance(made, CodecError))  # two members of one name

    assert is_same(CODEC.decode(made, mine, where="x"), value)
    text = CODEC.encode(value, mine, where="x").text
    found = outcome(lambda: CODEC.decode(text, both, where="x"))
    if isinstance(found, CodecError):
        assert "is taken by" in str(found)
    else:
        assert is_same(found, value) or type(found) in (str, int, float, list, dict)


def outcome(convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except CodecError as error:
        return error


def test_what_is_read_at_the_same_time_in_several_threads_is_not_mixed_up() -> None:
    wrong: list[object] = []

    def work(amount: int) -> None:
        shared = Codec()
        for _ in range(50):
            found = shared.decode(
                f'[{{"n":{amount},"next":{{"$type":"Fork","n":{amount}}}}}]', list[Fork | Coin], where="x"
            )
            wrong.extend(each for each in found if each != Fork(amount, Fork(amount)))

    threads = [threading.Thread(target=work, args=[amount]) for amount in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
