"""Operations that go together, whatever their number: facts, decide, write, in two round trips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from durable_trio.stores.postgres.decide import decide
from durable_trio.stores.postgres.facts import questions, read
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.known import Facts, RacedError
from durable_trio.stores.postgres.needs import needs_of
from durable_trio.stores.postgres.transaction import Transaction
from durable_trio.stores.postgres.wire import Request
from durable_trio.stores.postgres.write import requests

__all__ = ["apply_together"]


def _nothing_more(_: list[Any]) -> Sequence[Request]:
    return ()


def apply_together(
    transaction: Transaction,
    operations: Sequence[Any],
    *,
    before: Sequence[Request] = (),
    after: Callable[[list[Any]], Sequence[Request]] = _nothing_more,
    is_careful: bool = False,
) -> list[Any]:
    """Do operations (``needs.HOT``) in a transaction, and return their outcomes.

    Args:
        before: statements that go out before the facts.
        after: is given the outcomes, and returns statements that go out with what is written.
        is_careful: see ``needs_of``.

    Raises:
        NotTogetherError: nothing of them was done, but ``before``.
        ServerError: one of them cannot be stored, or somebody else came first.
    """
    reads = list(questions(needs_of(operations, is_careful=is_careful)))
    answers = transaction.wire.exchange([*before, *(request for request, _ in reads)])
    facts = read(Facts(), reads, answers[len(before) :])
    facts.living -= transaction.dead
    transaction.note_living(facts.living)
    try:
        outcomes, changes = decide(facts, operations)
    except RacedError as error:
        raise ServerError.of_conflict(str(error)) from error
    last = [*requests(changes), *after(outcomes)]
    if last:
        transaction.wire.exchange(last)
    return outcomes
