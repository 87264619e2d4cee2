"""The rule of compensation: reverse order of completion, under keys that no step has."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from durable_trio.rows import Key
from durable_trio.rules.compensation import compensation_key, in_order

# Names that may collide after escaping or joining, and branches as a body's keys have them: `part#n/part#n`.
NAMES = st.text("a/#%é0", min_size=1, max_size=4) | st.sampled_from(["compensate", "compensate#0", "compensate/x"])
KEYS = st.builds(Key, st.just(""), NAMES, st.integers(0, 3))
NESTED = st.builds(lambda outer, inner: Key(str(outer), inner.name, inner.n), KEYS, KEYS)
BODY_KEYS = KEYS | NESTED | st.builds(lambda outer, inner: Key(f"{outer}", inner.name, inner.n), NESTED, KEYS)


@given(st.lists(st.integers(0, 10**9), unique=True), st.randoms(use_true_random=False))
def test_the_last_completed_comes_first_whatever_the_order_of_registration(
    seqs: list[int], chance: random.Random
) -> None:
    registered = [(seq, f"undo {seq}") for seq in seqs]
    chance.shuffle(registered)
    assert in_order(registered) == [f"undo {seq}" for seq in sorted(seqs, reverse=True)]


@given(st.lists(BODY_KEYS, unique=True))
def test_no_key_of_a_compensation_is_that_of_another_or_of_a_step(keys: list[Key]) -> None:
    undo = [compensation_key(key) for key in keys]
    assert len({*undo, *keys}) == 2 * len(keys)
    assert len({str(key) for key in (*undo, *keys)}) == 2 * len(keys)


@given(BODY_KEYS)
def test_keys_read_back_from_their_text(key: Key) -> None:
    assert Key.parse(str(key)) == key
    assert Key.parse(str(compensation_key(key))) == compensation_key(key)
