"""Arguments are one array, and their digest tells whether two calls are the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import (
    Any,
)

import pytest
from hypothesis import given, settings

from durable_trio.codec import UNANNOTATED
from durable_trio.codec.sameness import is_same
from durable_trio.errors import CodecError
from tests.codec.codec_examples import CODEC, Card, jsons


def digest(*args: Any, annotations: Sequence[Any] | None = None) -> bytes:
    return CODEC.encode_arguments(args, annotations or [UNANNOTATED] * len(args), where="x")[1]


def test_arguments_come_back_in_order_and_with_their_types() -> None:
    annotations = [Card, tuple[int, ...], UNANNOTATED, bytes | None]
    args = (Card("1"), (1, 2), {"a": math.nan}, b"x")

    text, _ = CODEC.encode_arguments(args, annotations, where="x")

    assert is_same(CODEC.decode_arguments(text, lambda _: annotations, where="x"), args)
    assert CODEC.decode_arguments(text, lambda _: [*annotations, int], where="x") is not None


def test_an_argument_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(CodecError, match=r"order: arguments\[1\]\['a'\]: tuple"):
        CODEC.encode_arguments([1, {"a": ()}], [int, UNANNOTATED], where="order: arguments")


def test_more_arguments_than_parameters_are_refused() -> None:
    with pytest.raises(CodecError, match="2 arguments, but only 1"):
        CODEC.encode_arguments([1, 2], [int], where="x")
    with pytest.raises(CodecError, match="2 arguments, but only 1"):
        CODEC.decode_arguments("[1,2]", lambda _: [int], where="x")
    with pytest.raises(CodecError, match="a list of arguments"):
        CODEC.decode_arguments("{}", lambda _: [int], where="x")


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=100, deadline=None)
@given(jsons)
def test_the_digest_does_not_depend_on_the_order_of_dicts(value: Any) -> None:
    assert digest(value) == digest(reordered(value))


@settings(max_examples=100, deadline=None)
@given(jsons, jsons)
def test_values_that_differ_have_digests_that_differ(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == is_same(sort(a), sort(b))


def sort(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sort(value[key]) for key in sorted(value)}
    return [sort(item) for item in value] if isinstance(value, list) else value


def test_types_tell_in_the_digest_and_order_in_sets_does_not() -> None:
    assert len({digest(1), digest(True), digest(1.0), digest("1"), digest(None), digest([1]), digest(1, None)}) == 7
    one, other = set(range(100)), set(range(99, -1, -1))
    assert digest(one, annotations=[set[int]]) == digest(other, annotations=[set[int]])
    keys = dict[int | str, int]
    assert digest({1: 1, "1": 2}, annotations=[keys]) == digest({"1": 2, 1: 1}, annotations=[keys])
