"""What goes before what, as far as no commit is needed to see it: sizes, and what waits for a transaction."""

from __future__ import annotations

from typing import Any, get_args

import attrs
import pytest

from durable_trio.limits import BATCH_BYTES_MAX
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow, Key
from durable_trio.stores import submitted as submitted_module
from durable_trio.stores.contract import Advance, Fence, Operation, SendSignal, SignalWithStart, StartRun
from durable_trio.stores.precedence import CALLERS, OWNERS, SERVICES, Item, UserTransaction
from durable_trio.stores.sizes import size_of
from durable_trio.stores.submitted import Entry, Submitted
from tests.stores.scripted import caller, owner


def take(submitted: Submitted) -> list[Any]:
    items: list[Entry] = []
    submitted.take(items)
    return [item for item, _ in items]


def put(submitted: Submitted, *operations: Any) -> None:
    submitted.waiting.extend((operation, print) for operation in operations)


def start(args: str) -> StartRun:
    return StartRun(id="r", workflow="w", args=args, args_digest=b"", seed=b"", created_at=0, due_at=0)


def result(run: int, text: str) -> Advance:
    row = HistoryRow(seq=1, key=Key("", "s", 1), kind=StepKind.STEP, result=text, started_at=0, finished_at=0)
    return attrs.evolve(owner(run), rows=(row,))


SIGNAL = SendSignal(run_id="r", name="n", payload="12345", signal_id=None, now=0)


@pytest.mark.parametrize(
    ("operation", "size"),
    [
        (result(1, "123"), 3),
        (attrs.evolve(result(1, "123"), published=(("k", "12"),), error="1", children=(start("1234"),)), 10),
        (start("12"), 2),
        (SIGNAL, 5),
        (SignalWithStart(start=start("12"), signal=SIGNAL), 7),
        (attrs.evolve(owner(1)), 0),
    ],
)
def test_an_operation_is_as_large_as_its_payloads(operation: Operation, size: int) -> None:
    assert size_of(operation) == size


def test_a_batch_is_bounded_by_what_its_operations_hold_and_one_larger_than_that_goes_alone() -> None:
    third, larger = "x" * (BATCH_BYTES_MAX // 3), "x" * (BATCH_BYTES_MAX + 1)
    submitted = Submitted()
    operations = [*(result(run, third) for run in range(5)), result(5, larger), owner(6), owner(7)]
    put(submitted, *operations)
    batches = [take(submitted) for _ in range(4)]
    assert batches == [operations[:3], operations[3:5], operations[5:6], operations[6:]]


def test_starts_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitted_module, "BATCH_BYTES_MAX", 10)
    submitted = Submitted()
    put(submitted, result(1, "1234567"))
    submitted.starts.extend((start(args), print) for args in ("123", "1", "12345678901", "1"))
    assert [[size_of(item) for item in take(submitted)] for _ in range(4)] == [[7, 3], [1], [11], [1]]


def test_what_a_run_writes_waits_for_its_transaction_and_holds_up_no_other() -> None:
    def transaction(run: int) -> UserTransaction:
        return UserTransaction(Fence(run, 1, 1), lambda connection: owner(run), 1)

    first, second = transaction(1), transaction(2)
    submitted = Submitted(commits_beside=True)
    put(submitted, owner(1), first, owner(1), owner(2), owner(3), second, owner(2), caller("a"))
    assert [*map(str, take(submitted))] == [*map(str, (owner(1), owner(2), owner(3), caller("a")))]
    assert [item for item, _ in submitted.beside] == [first, second]
    submitted.beside.clear()
    put(submitted, owner(2), owner(3))
    assert take(submitted) == [owner(3)]
    submitted.release_behind(2)
    assert take(submitted) == [owner(2), owner(2)]
    submitted.release_behind(1)
    assert take(submitted) == [owner(1)]
    assert not submitted.all()


def test_each_operation_is_a_runs_or_a_callers_or_a_services() -> None:
    """Who is told what while the store is away depends on it."""
    kinds = [*OWNERS, *CALLERS, *SERVICES]
    assert sorted(kinds, key=str) == sorted(set(get_args(Item)) | set(get_args(Operation)), key=str)
