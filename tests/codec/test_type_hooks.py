"""A class that the codec does not know is stored as its hook says, exactly or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs
import pytest

from durable_trio import Engine, TypeHook
from durable_trio.codec import Codec
from durable_trio.errors import CodecError


class Money:
    """It has no fields that anybody knows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.text == other.text

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"


class Euro(Money):
    pass


class Handle:
    """Equal to itself only."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Handle({self.number})"


@attrs.frozen
class Wallet:
    money: Money
    handles: list[Handle | None] = attrs.Factory(list)


@attrs.define
class Linked:
    """It has fields, and they lead back to itself."""

    name: str
    other: Any = None


def money(text: str) -> Money:
    return Euro(text[1:]) if text.startswith("€") else Money(text)


HOOKS: list[TypeHook[Any]] = [
    TypeHook(Money, lambda value: ("€" if isinstance(value, Euro) else "") + value.text, money),
    TypeHook(Handle, lambda handle: {"$n": handle.number}, lambda plain: Handle(plain["$n"])),
    TypeHook(Linked, lambda linked: linked.name, Linked),
]
CODEC = Codec(types=HOOKS)


def roundtrip(value: Any, annotation: Any, codec: Codec = CODEC) -> tuple[str, Any]:
    text, first = codec.encode(value, annotation, where="result")
    again = codec.decode(text, annotation, where="result")
    assert codec.encode(again, annotation, where="result").text == text
    return text, first


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (Money("3"), Money, '"3"'),
        (Euro("3"), Money, '"€3"'),
        ([Money("3")], list[Money], '["3"]'),
        ({"a": Money("3")}, dict[str, Money | None], '{"a":{"$type":"Money","value":"3"}}'),
        (Money("3"), Money | str, '{"$type":"Money","value":"3"}'),
        ("3", Money | str, '"3"'),
        (Wallet(Money("3"), [Handle(4), None]), Wallet, None),
        (Handle(4), Handle, '{"$dict":{"$n":4}}'),
    ],
    ids=str,
)
def test_a_class_is_stored_as_its_hook_says(value: Any, annotation: Any, text: str | None) -> None:
    written, first = roundtrip(value, annotation)

    assert text is None or written == text
    assert type(first) is type(value)


def test_a_hook_comes_before_what_is_done_without_it() -> None:
    linked = Linked("a")
    linked.other = linked

    with pytest.raises(CodecError):
        CODEC.encode(linked, Linked, where="x")  # its own == never ends
    text, first = roundtrip(Linked("b"), Linked)
    assert (text, first) == ('"b"', Linked("b"))


def test_arguments_with_hooks_have_the_digest_of_what_is_stored() -> None:
    digests = [CODEC.encode_arguments([Money(m), 1], [Money, int], where="x")[1] for m in ("3", "3", "4")]

    assert digests[0] == digests[1] != digests[2]


def raising(_: Any) -> Any:
    raise SystemExit(3)


def endless(value: Any) -> Any:
    return endless(value)


def shared() -> Any:
    value: Any = 1
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("encode", "decode", "text"),
    [
        (raising, money, "encode of the TypeHook of Money has raised: SystemExit"),
        (endless, money, "encode of the TypeHook of Money has raised: RecursionError|nested"),
        (lambda m: m.text, raising, "decode of the TypeHook of Money has raised: SystemExit"),
        (lambda m: m.text, lambda text: text, "decode of the TypeHook of Money has returned str"),
        (lambda m: m.text, Euro, "Money would come back as .*Euro, by its TypeHook"),
        (lambda m: m.text, lambda text: Money("x"), "Money would come back as another value, by its TypeHook"),
        (lambda m: (1, 2), money, "encode of the TypeHook of Money must give JSON: tuple"),
        (lambda m: m, money, "encode of the TypeHook of Money must give JSON: .*Money"),
        (lambda m: {1: 2}, money, "must give JSON"),
        (lambda m: shared(), money, "gives more than can be stored"),
        (lambda m: "\ud800", money, "result"),
    ],
)
def test_a_wrong_hook_is_one_named_error(encode: Callable[[Any], Any], decode: Callable[[Any], Any], text: str) -> None:
    codec = Codec(types=[TypeHook(Money, encode, decode)])

    with pytest.raises(CodecError, match=text):
        codec.encode(Money("3"), Money, where="result")


def test_what_would_be_stored_differently_the_next_time_is_refused() -> None:
    numbers = iter(range(100))
    codec = Codec(types=[TypeHook(Handle, lambda _: next(numbers), Handle)])

    with pytest.raises(CodecError, match="would come back as"):
        codec.encode(Handle(1), Handle, where="result")


def test_what_has_no_hook_is_refused_with_the_line_to_write() -> None:
    line = re.escape("Engine(types=[TypeHook(Money, encode, decode)])")

    with pytest.raises(CodecError, match=line):
        Codec().encode(Money("3"), Money, where="result")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TypeHook("Money", str, money), TypeError, "a class first"),  # type: ignore[arg-type]
        (lambda: TypeHook(Money, "str", money), TypeError, "encode must be a function"),  # type: ignore[arg-type]
        (lambda: TypeHook(Money, str, None), TypeError, "decode must be a function"),  # type: ignore[arg-type]
        (lambda: TypeHook(datetime, str, datetime.fromisoformat), ValueError, "takes no TypeHook"),
        (lambda: TypeHook(dict, str, dict), ValueError, "takes no TypeHook"),
        (lambda: Engine(":memory:", types=HOOKS[0]), TypeError, "a list, also of one"),  # type: ignore[arg-type]
        (lambda: Engine(":memory:", types=[Money]), TypeError, "must be TypeHooks"),  # type: ignore[list-item]
        (lambda: Engine(":memory:", types=[HOOKS[0], TypeHook(Money, str, Money)]), ValueError, "two hooks for"),
    ],
)
def test_a_hook_checks_itself_at_construction(make: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
