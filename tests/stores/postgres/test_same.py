"""Random batches: PostgreSQL makes of them what SQLite makes of the same operations one by one.

The two give out different numbers, so what an operation refers to is translated, and what comes of it is compared
without them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest

from durable_trio.errors import RunConflict
from durable_trio.records import RunStatus
from durable_trio.rows import Key, MailboxEntry
from durable_trio.stores.contract import (
    Advance,
    DeleteRun,
    Fence,
    Finish,
    Operation,
    Prune,
    Pruned,
    RegisterExecutor,
    RequestCancel,
    SendSignal,
    Sent,
    SignalWithStart,
    Started,
    Store,
)
from durable_trio.stores.postgres.batch import OPERATIONS
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListRuns, ListUnread, LoadRun, RunFilter
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.store_contract.dice import Dice
from durable_trio.testing.store_contract.kit import one, start_operation, step

_NOBODY = 10**6
_REMOVES = (DeleteRun, Prune)


class Pair:
    """A store on SQLite, and one on PostgreSQL that is to be as it after each batch."""

    def __init__(self, sqlite: SqliteStore, postgres: PostgresStore, seed: int) -> None:
        self.sqlite, self.postgres = sqlite, postgres
        self._numbers = random.Random(seed)
        self._dice = Dice()
        self._now = 0
        # From numbers on SQLite to those on PostgreSQL.
        self._runs: dict[int, int] = {}
        self._executors: dict[int, int] = {}
        self._entries: dict[int, int] = {}
        # Not applied to PostgreSQL yet: operations in its numbers, and what SQLite has made of them.
        self._batch: list[Operation] = []
        self._expected: list[Any] = []
        self.kinds: set[type] = set()

    def step(self) -> None:
        """Have SQLite do something, and have it done on PostgreSQL with the next batch."""
        dice = self._numbers
        operation = self._more() if dice.random() < 0.4 else self._dice.operation(self.sqlite, dice)
        if type(operation) not in OPERATIONS:
            return
        if not self._is_known(operation) or any(isinstance(each, _REMOVES) for each in self._batch):
            self.catch_up()
        translated = self._translated(operation)
        outcome = one(self.sqlite, operation)
        self._batch.append(translated)
        self._expected.append(outcome)
        self.kinds.add(type(outcome))
        if dice.random() < 0.2:
            self.catch_up()

    def catch_up(self) -> None:
        """Apply the batch, and compare what has come of it."""
        batch, expected = self._batch, self._expected
        self._batch, self._expected = [], []
        outcomes = self.postgres.apply(batch)
        assert outcomes is not None
        assert len(outcomes) == len(batch)
        for operation, outcome, wanted in zip(batch, outcomes, expected, strict=True):
            if isinstance(operation, RegisterExecutor):
                self._executors[wanted] = outcome
            if isinstance(outcome, Sent) and isinstance(wanted, Sent):
                self._entries[wanted.entry.id] = outcome.entry.id
        self._learn()
        for operation, outcome, wanted in zip(batch, outcomes, expected, strict=True):
            if not isinstance(operation, RegisterExecutor):
                found, same = self._plain(outcome), self._plain(wanted)
                assert found == same, f"{operation}\n{found}\n{same}\nof {batch}"
                self._must_follow(outcome, wanted)
        found, same = self._everything(self.postgres), self._everything(self.sqlite)
        for run_id, value in same.items():
            assert found.pop(run_id) == value, f"{run_id} after {batch}"
        assert found == {}, batch

    def _must_follow(self, outcome: Any, wanted: Any) -> None:
        if isinstance(outcome, Sent) and outcome.follows is not None:
            assert wanted.follows is not None
            assert outcome.follows[0] == wanted.follows[0]
            if wanted.follows[1] in self._entries:
                assert outcome.follows[1] == self._entries[wanted.follows[1]]

    def _learn(self) -> None:
        numbers = {row.id: row.run for row in self._rows(self.postgres)}
        self._runs = {row.run: numbers[row.id] for row in self._rows(self.sqlite)}
        for run, other in self._runs.items():
            ours, theirs = self.sqlite.ask(ListUnread(run)), self.postgres.ask(ListUnread(other))
            self._entries.update(zip((each.id for each in ours), (each.id for each in theirs), strict=False))

    def _rows(self, store: Store) -> tuple[Any, ...]:
        return tuple(store.ask(ListRuns(RunFilter(), limit=1000)))

    def _everything(self, store: Store) -> Any:
        return {
            (row.id, name): value
            for row in self._rows(store)
            for name, value in [("row", self._plain(row)), *self._plain(store.ask(LoadRun(row.run)))[1].items()]
        }

    # ---- operations ----------------------------------------------------------------------------------------------

    def _more(self) -> Operation:
        """Return an operation with what dice throw rarely: limits, conditions, and several children."""
        dice = self._numbers
        self._now += dice.randrange(3)
        now = self._now
        rows = self._rows(self.sqlite)
        run_id = f"run-{dice.randrange(8)}"
        row = dice.choice([each for each in rows if each.owner is not None] or rows or [None])
        fence = Fence(1, 1, 1) if row is None else Fence(row.run, row.owner or 1, row.token)
        entries = self.sqlite.ask(ListUnread(fence.run))
        taken = tuple((entry.id, now) for entry in entries[: dice.randrange(3)])
        keys = [Key("", f"s{dice.randrange(200)}", 0) for _ in range(3)]
        name, signal_id = dice.choice("ab"), dice.choice([None, None, "i", "j"])
        signal = SendSignal(
            run_id=run_id, name=name, payload="1", signal_id=signal_id, unread_max=dice.randrange(1, 4), now=now
        )
        children = tuple(
            start_operation(f"run-{dice.randrange(12)}", created_at=now, owner=dice.choice([None, fence.owner]))
            for _ in range(dice.randrange(1, 3))
        )
        choices: list[Operation] = [
            signal,
            signal,
            RequestCancel(run_id=run_id, reason="null", error='{"type": "C"}', now=now),
            Advance(fence=fence, rows=tuple(step(now, key=key) for key in keys), taken=taken, now=now),
            Advance(fence=fence, rows=(step(now, key=keys[0]),), unless_cancelled=True, now=now),
            Advance(fence=fence, rows=(step(now, key=keys[0]),), unless_unread=(name, now - 1), now=now),
            Advance(fence=fence, published=(("k", str(now)), ("l", "2")), position=(now, 1), now=now),
            Advance(fence=fence, rows=(step(now, key=keys[0]),), children=children, now=now),
            Finish(fence=fence, status=RunStatus.COMPLETED, result=str(now), unless_cancelled=True, now=now),
            SignalWithStart(
                start=start_operation(run_id, created_at=now, parent=dice.choice([None, fence.run])),
                signal=attrs.evolve(signal, run_id=dice.choice([run_id, run_id, run_id, "run-0"])),
            ),
            start_operation(run_id, created_at=now, tags='{"a": "1", "b": "ü\\"\\\\"}', ttl_at=now + dice.randrange(9)),
        ]
        return dice.choice(choices)

    def _is_known(self, operation: Operation) -> bool:
        """Return whether all that it refers to is on PostgreSQL already."""
        of_sqlite = {row.run for row in self._rows(self.sqlite)}
        runs = [run for run in _runs_in(operation) if run in of_sqlite]
        entries = [entry for entry, _ in getattr(operation, "taken", ())]
        is_registered = not any(isinstance(each, RegisterExecutor) for each in self._batch)
        return (
            is_registered
            and all(run in self._runs for run in runs)
            and all(entry in self._entries for entry in entries)
        )

    def _translated(self, operation: Any) -> Any:
        changes: dict[str, Any] = {}
        for name, translate in (
            ("fence", self._fence),
            ("owner", self._executor),
            ("executor", self._executor),
            ("parent", self._run),
            ("children", lambda children: tuple(map(self._translated, children))),
            ("start", self._translated),
            ("taken", lambda taken: tuple((self._entries.get(entry, _NOBODY), seq) for entry, seq in taken)),
        ):
            value = getattr(operation, name, None)
            if value is not None:
                changes[name] = translate(value)
        return attrs.evolve(operation, **changes)

    def _fence(self, fence: Fence) -> Fence:
        return Fence(self._run(fence.run), self._executor(fence.owner), fence.token)

    def _run(self, run: int) -> int:
        return self._runs.get(run, _NOBODY)

    def _executor(self, executor: int) -> int:
        return self._executors.get(executor, _NOBODY)

    # ---- what comes of them --------------------------------------------------------------------------------------

    def _plain(self, value: Any) -> Any:
        """Return a value without what the stores number in their own ways."""
        match value:
            case RunConflict():  # of several reasons another one may be told
                return RunConflict
            case Exception():
                return type(value), re.sub(r"\d+", "#", str(value))
            case Sent():
                return "sent", self._plain(value.entry), value.created, value.owner is None
            case Pruned(position=(at, _)):
                return "pruned", value.count, at
            case Started():
                return "started", self._plain(value.row), value.created, value.claimed
            case MailboxEntry():
                return value.kind, value.name, value.payload, value.created_at
            case tuple() if not isinstance(value, Key):
                return tuple(map(self._plain, value))
            case dict():
                return {key: self._plain(each) for key, each in value.items()}
        kind: type[Any] = type(value)
        if not attrs.has(kind):
            return value
        plain = {field.name: self._plain(getattr(value, field.name)) for field in attrs.fields(kind)}
        if "history" in plain:  # dice give numbers twice, which no owner does
            plain["history"] = sorted(plain["history"], key=lambda row: (row[1]["seq"], row[1]["key"]))
        for name in ("run", "parent", "changed", "owner", "damage"):
            if name in plain:
                plain[name] = plain[name] is None
        return kind.__name__, plain


def _runs_in(operation: Any) -> Iterator[int]:
    fence, parent, start = (getattr(operation, name, None) for name in ("fence", "parent", "start"))
    if fence is not None:
        yield fence.run
    if parent is not None:
        yield parent
    if start is not None:
        yield from _runs_in(start)


@pytest.mark.parametrize("seed", range(3))
def test_both_stores_make_the_same_of_the_same_operations(open_store: Callable[[], PostgresStore], seed: int) -> None:
    with closing(SqliteStore(":memory:")) as sqlite:
        sqlite.open()
        pair = Pair(sqlite, open_store(), seed)
        for _ in range(200):
            pair.step()
        pair.catch_up()
    assert {bool, Started, Sent} <= pair.kinds
    assert len(pair.kinds) >= 9
