"""What is handed over to a run from its mailbox: as good as reading it, or it is read."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_trio.rows import MailboxEntry
from durable_trio.stores.questions import Loaded, MailboxLook
from durable_trio.turns.mailbox import Mailbox
from tests.turns.kit import entry, look


def mailbox_after(*unread: MailboxEntry, left_out: tuple[int, int] | None = None) -> Mailbox:
    """Return the mailbox of a run that was loaded with these."""
    mailbox = Mailbox(cast(Any, None), {})
    mailbox.load(Loaded((), (), unread, {}, left_out=left_out))
    return mailbox


def handed(number: int, after: int) -> MailboxLook:
    return look([entry(number, "signal", "go")], after=after)


@pytest.mark.parametrize(
    ("looks", "ids"),
    [
        ([handed(9, 4)], [9]),
        ([handed(9, 0)], [9]),  # what was before it is read, and is unread no more
        ([handed(9, 7)], None),  # another process has sent 7
        ([handed(9, 4), handed(12, 9)], [9, 12]),
        ([handed(12, 9), handed(9, 4)], [9, 12]),  # those who have sent them went on in another order
        ([handed(9, 4), handed(12, 11)], None),
        ([handed(12, 9)], None),
        ([handed(4, 0)], []),  # it was loaded with the run
        ([handed(9, 4), handed(9, 4)], [9]),
        ([handed(3, 0), handed(9, 4)], [9]),
    ],
)
def test_what_is_handed_over_is_taken_if_nothing_can_have_come_between(
    looks: list[MailboxLook], ids: list[int] | None
) -> None:
    joined = mailbox_after(entry(4, "signal", "go")).joined(looks)
    assert (None if joined is None else [item.id for item in joined.entries]) == ids


def test_what_was_left_in_the_store_is_known_to_be_there() -> None:
    mailbox = mailbox_after(entry(4, "signal", "go"), left_out=(4, 900))
    assert mailbox.joined([handed(905, 900)]) is not None
    assert mailbox.joined([handed(905, 901)]) is None


@given(st.lists(st.tuples(st.sampled_from(["own", "foreign", "taken"]), st.integers(0, 3)), max_size=30), st.randoms())
def test_what_is_joined_is_all_that_a_look_at_the_store_would_have_found(
    happened: list[tuple[str, int]], randomness: Any
) -> None:
    """Whoever sends, whatever is taken meanwhile, and in whatever order it is handed over."""
    known = entry(1, "signal", "go")
    stored, looks = [known], []
    for number, (what, place) in enumerate(happened, start=2):
        if what == "taken":
            stored[place : place + 1] = []
            continue
        after = max((item.id for item in stored), default=0)
        stored.append(entry(number, "signal", "go"))
        if what == "own":
            looks.append(look([stored[-1]], after=after))
    mailbox = mailbox_after(known)
    randomness.shuffle(looks)
    looks = [item for item in looks if item.entries[0] in stored]  # one that it has taken it knows
    joined = mailbox.joined(looks)
    if joined is None or not joined.entries:
        return
    up_to = joined.entries[-1].id
    assert [item for item in stored if 1 < item.id <= up_to] == list(joined.entries)
