"""Where a run was when its time to live was over: what is kept of it, and how it is told."""

from __future__ import annotations

import pytest

from durable_trio.clock import MICROSECONDS
from durable_trio.records import StepKind
from durable_trio.rules.expiry import expiry, expiry_from, expiry_of

AT = 1_800_000_000 * MICROSECONDS


def test_the_oldest_come_first_and_others_are_counted() -> None:
    calls = [(StepKind.STEP, f"s#{n}", "s", AT - n * MICROSECONDS) for n in range(5)]
    found = expiry(calls, "before#0")
    assert [place.key for place in found.places] == ["s#4", "s#3", "s#2"]
    assert found.more == 2
    assert found.sentence().startswith("it was at step 's#4' since 2027-01-15 07:59:56 UTC, at step 's#3' since ")
    assert found.sentence().endswith(", and at 2 more")


def test_a_map_is_where_its_items_are() -> None:
    items = [(StepKind.STEP, "m#0/item#1", "item", AT), (StepKind.MAP, "m#0", "m", AT - 1)]
    assert [place.key for place in expiry(items, None).places] == ["m#0/item#1"]
    assert [place.key for place in expiry(items[1:], None).places] == ["m#0"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (StepKind.STEP, "at step 'k#0' since 2027-01-15 08:00:00 UTC"),
        (StepKind.TRANSACTION, "at transaction 'k#0' since 2027-01-15 08:00:00 UTC"),
        (StepKind.SLEEP, "at the timer 'name' since 2027-01-15 08:00:00 UTC"),
        (StepKind.SIGNAL, "at the wait for signal 'name' since 2027-01-15 08:00:00 UTC"),
        (StepKind.CHILD_END, "at the wait for child 'name' since 2027-01-15 08:00:00 UTC"),
    ],
)
def test_each_kind_of_call_has_its_words(kind: StepKind, text: str) -> None:
    assert expiry([(kind, "k#0", "name", AT)], None).sentence() == f"it was {text}"


def test_what_has_not_begun_comes_last() -> None:
    found = expiry([(StepKind.STEP, "a#0", "a", None), (StepKind.STEP, "b#0", "b", AT)], None)
    assert found.sentence() == "it was at step 'b#0' since 2027-01-15 08:00:00 UTC, before step 'a#0'"


def test_where_nothing_is_open_the_last_thing_done_is_told() -> None:
    assert expiry([], "a#0").sentence() == "it was at no step and no wait, after 'a#0'"
    assert expiry([], None).sentence() == "it was at no step and no wait"


def test_it_is_kept_as_it_was() -> None:
    found = expiry([(StepKind.STEP, "a#0", "a", None), (StepKind.SIGNAL, "b#0", "b", AT)], "c#0")
    assert expiry_of(found.to_text()) == found


@pytest.mark.parametrize("text", [None, "null", "7", "{}", "no json", '{"open": [{}], "more": 0, "after": null}'])
def test_of_what_an_earlier_version_has_stored_nothing_is_known(text: str | None) -> None:
    assert expiry_of(text) is None


def test_a_value_that_is_read_from_the_history_is_known_too() -> None:
    assert expiry_from({"open": [], "more": 0, "after": "a#0"}) == expiry([], "a#0")
