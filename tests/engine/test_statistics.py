"""Which failures are the same: their texts are, but for numbers and ids in them."""

from __future__ import annotations

import pytest

from durable_trio.engine.statistics import without_numbers


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("order 17 is 3.5 late", "order <n> is <n> late"),
        ("no 6432772f-8d59-44e2-ac46-c0a39bf0e3b0", "no <id>"),
        ("at 0x7f8df219c7d0", "at <id>"),
        ("blob 3f2a91c7de", "blob <id>"),
        ("commit 3f2a91c is gone", "commit <id> is gone"),
        ("commit f3a2c9 is gone", "commit <id> is gone"),
    ],
)
def test_numbers_and_ids_are_left_out(message: str, text: str) -> None:
    assert without_numbers(message) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("decade of a facade", "decade of a facade"),
        ("error E11000 of b2b", "error E<n> of b<n>b"),  # a code, and a word of the language
        ("abc123 and 123abc", "abc<n> and <n>abc"),
        ("a1b2c", "a<n>b<n>c"),
    ],
)
def test_a_short_word_of_hexadecimal_digits_may_be_another_word_and_is_left(message: str, text: str) -> None:
    assert without_numbers(message) == text
