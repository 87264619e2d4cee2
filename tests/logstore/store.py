"""``LogStore``: the contract on a log that any number of processes append to, each with all data in memory."""

from __future__ import annotations

import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import attrs

from durable_trio.errors import OwnershipLost, StepTimeout, StoreAway, StoreError, StoreInUse
from durable_trio.processes import ProcessIdentity
from durable_trio.rows import DeathRow, ExecutorRow, ReportRow
from durable_trio.stores.contract import Advance, Fence, Operation, RegisterExecutor, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.questions import ListOpenSteps, OpenSteps, Question
from tests.logstore.answers import ANSWERS
from tests.logstore.feed import parse_cursor
from tests.logstore.locks import ExecutorLocks
from tests.logstore.log import Log
from tests.logstore.operations import OPERATIONS
from tests.logstore.state import State
from tests.logstore.tables import Change, Tables, UserConnection, write

__all__ = ["LogStore"]

T = TypeVar("T")

# How long a store waits for others who write; and once its process is leaving.
_PATIENCE_SECONDS = 10.0
_LEAVING_PATIENCE_SECONDS = 1.0


class Entry(NamedTuple):
    """One commit. The same number of the same instance is the same commit, whose reply was lost.

    ``changes``: what a transaction step has written beside its one operation, if that is not refused.
    """

    instance: str
    number: int
    batch: tuple[Operation, ...]
    changes: tuple[Change, ...] = ()


class LogStore(Store):
    """Runs in an append-only file. It can be cut off, as a database is that a network leads to.

    ``is_away`` cuts it off. ``loses_replies``: the next that comes then is committed all the same, and not told.

    Args:
        clock_off_seconds: by how much the clock of the database is ahead of that of this machine.
    """

    transact_concurrency = 2
    takes_open_steps = True
    has_clock = True

    def __init__(self, path: object, *, durability: str = "normal", clock_off_seconds: float = 60.0) -> None:
        self.path = str(path)
        self.durability = durability
        self._clock_off_seconds = clock_off_seconds
        self.is_away = False
        self.loses_replies = False
        #: How often it was called in vain; and how often what was asked again had been committed, and had not.
        self.vain_count = self.known_count = self.repeated_count = 0
        self._lock = threading.RLock()  # of all below: a thread has the state as it is for as long as it looks
        self._log: Log | None = None
        self._locks = ExecutorLocks(self.path)
        self._state = State()
        self._instance = ""
        self._last_number = 0
        self._outcomes: dict[int, list[Any]] = {}  # of own commits that nobody was told of yet, by number
        self._in_doubt: tuple[list[Operation], int] | None = None
        self._doubtful: dict[Callable[[Any], Advance], int] = {}  # the numbers of transactions
        self._has_foreign_changes = False
        self._patience_seconds = _PATIENCE_SECONDS

    # ---- open, close ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or create the file, and read it."""
        with self._lock:
            if self._log is None:
                self._reach()
                self._log = Log(self.path, is_synced=self.durability == "full")
                self._state, self._instance = State(), secrets.token_hex(8)
                self._last_number, self._in_doubt = 0, None
                self._outcomes, self._doubtful = {}, {}
                self._patience_seconds = _PATIENCE_SECONDS
                self._read_on()
                self._has_foreign_changes = False

    def close(self) -> None:
        """Let go of the file, and of the locks of this store's executors."""
        with self._lock:
            if self._log is not None:
                self._locks.close()
                self._log.close()
                self._log = None

    def hurry(self) -> None:
        """Wait for others only a second from now on."""
        self._patience_seconds = _LEAVING_PATIENCE_SECONDS

    # ---- writing -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch (see ``Store.apply``)."""
        operations = list(batch)
        for operation in operations:
            if type(operation) not in OPERATIONS:
                raise TypeError(f"{type(operation).__name__} is no operation of a store")
        if not self._lock.acquire(blocking=block):
            return None
        try:
            number = self._number_of(operations)
            if not operations:
                return []
            self._commit(Entry(self._instance, number, tuple(operations)), block=block)
            self._in_doubt = None
            return self._outcomes.pop(number)
        except StoreInUse:
            if block:
                raise
            return None
        except StoreAway:
            self._in_doubt = operations, number
            raise
        finally:
            self._lock.release()

    def _number_of(self, operations: list[Operation]) -> int:
        """Return the number of a batch: the same one again if it is the same batch."""
        if self._in_doubt is None:
            return self._next_number()
        before, number = self._in_doubt
        if len(before) != len(operations) or any(a is not b for a, b in zip(before, operations, strict=True)):
            raise ValueError("another batch, while it is not known what became of the one before")
        return number

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _commit(self, entry: Entry, *, block: bool = True, tables: Tables | None = None) -> bool:
        """Append an entry, unless it was before; return False if what a user's transaction has read is outdated."""
        self._reach(loses_reply=True)
        is_own = entry.instance == self._instance
        is_again = is_own and self._is_doubtful(entry.number)
        with self._writing(block=block) as log:
            if is_own and entry.number in self._outcomes:
                self.known_count += 1
            elif tables is not None and tables.is_outdated():
                return False
            else:
                self.repeated_count += is_again
                count = sum(isinstance(operation, RegisterExecutor) for operation in entry.batch)
                for offset in range(count):  # before anybody can see them
                    self._locks.take(self._state.last_executor + 1 + offset)
                log.append(pickle.dumps(entry))
            if self.is_away:
                self.loses_replies = False
                self._reach()
            self._read_on()
        return True

    def _is_doubtful(self, number: int) -> bool:
        """Return whether it is not known of an entry whether it was committed."""
        return number in self._doubtful.values() or (self._in_doubt is not None and number == self._in_doubt[1])

    @contextmanager
    def _writing(self, *, block: bool = True) -> Iterator[Log]:
        """Be the one who writes, and know all that is written."""
        log = self._usable()
        with log.locked(patience_seconds=self._patience_seconds if block else 0.0):
            self._read_on()
            yield log

    def _read_on(self) -> None:
        """Apply what was appended since this store has last looked, by whomever."""
        log = self._usable()
        if not log.has_more():
            return
        for data in log.read_on():
            entry: Entry = pickle.loads(data)
            self._state.begin()
            outcomes = [OPERATIONS[type(operation)](self._state, operation) for operation in entry.batch]
            if all(outcome is True for outcome in outcomes) or not entry.batch:
                write(self._state.tables, entry.changes)
            if entry.instance == self._instance:
                self._outcomes[entry.number] = outcomes
            else:
                self._has_foreign_changes = True
        for executor in self._locks.held:
            if executor <= self._state.last_executor and executor not in self._state.executors:
                self._locks.release(executor)

    def _usable(self) -> Log:
        if self._log is None:
            raise StoreError(f"the store {self.path!r} is not open")
        return self._log

    def _reach(self, *, loses_reply: bool = False) -> None:
        if self.is_away and not (loses_reply and self.loses_replies):
            self.vain_count += 1
            raise StoreAway("the database does not answer")

    # ---- the user's tables ---------------------------------------------------------------------------------------

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Run a user's function and commit what it writes with the ``Advance`` it returns (see ``Store.transact``)."""
        began = time.monotonic()
        with self._lock:
            number = self._doubtful.get(fn) or self._next_number()
        try:
            while True:
                with self._lock:
                    self._reach(loses_reply=True)
                    self._read_on()
                    if number in self._outcomes:
                        self.known_count += 1
                        break
                    if self._state.owned(fence) is None:
                        raise self._state.ownership_lost(fence)
                tables = Tables(self._table)
                advance = _call(fn, tables, fence, until=began + seconds_max)
                with self._lock:
                    if self._commit(Entry(self._instance, number, (advance,), tables.changes), tables=tables):
                        break
        except StoreAway:
            self._doubtful[fn] = number
            raise
        except BaseException:
            self._doubtful.pop(fn, None)
            raise
        self._doubtful.pop(fn, None)
        return self._outcome_of(number)

    def _outcome_of(self, number: int) -> Any:
        (outcome,) = self._outcomes.pop(number)
        if isinstance(outcome, OwnershipLost):
            raise outcome
        return outcome

    def _table(self, name: str) -> Mapping[Any, Any]:
        with self._lock:
            self._reach()
            self._read_on()
            return dict(self._state.tables.get(name, {}))

    def connect(self) -> UserConnection:
        """Return a connection to the user's tables."""

        def commit(tables: Tables) -> bool:
            with self._lock:  # as somebody else, whose commit this store notices
                return self._commit(Entry(secrets.token_hex(8), 1, (), tables.changes), tables=tables)

        return UserConnection(self._table, commit)

    def tidy(self) -> None:
        """Remove the locks of executors that have ended without doing it themselves."""
        with self._lock:
            self._read_on()
            self._locks.tidy(self._state.executors, below=self._state.last_executor + 1)

    # ---- noticing and reading ------------------------------------------------------------------------------------

    def read_cursor(self, text: str) -> Cursor:
        """Return a cursor that was written down (see ``Store.read_cursor``)."""
        return parse_cursor(text)

    def foreign_changes(self) -> bool | None:
        """Return whether others have committed since this was last asked (see ``Store.foreign_changes``)."""
        self._reach()
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._read_on()
            has_changed, self._has_foreign_changes = self._has_foreign_changes, False
        finally:
            self._lock.release()
        return has_changed

    def read_clock(self) -> int:
        """Return the present by the clock of the database, which is off."""
        self._reach()
        return time.time_ns() // 1000 + round(self._clock_off_seconds * 1_000_000)

    def ask(self, question: Question[T]) -> T:
        """Answer a question, at the instant at which it is asked."""
        function = ANSWERS.get(type(question))
        if function is None:
            raise TypeError(f"{type(question).__name__} is no question of a store")
        with self._lock:
            self._reach()
            self._read_on()
            answer: Any = judged(function(self._state, question), self._locks)
            if isinstance(question, ListOpenSteps):
                answer = open_steps(answer, self._locks)
            return cast(T, answer)


def judged(answer: Any, locks: ExecutorLocks) -> Any:
    """Return an answer with what it says of who is there: that is no part of the log."""
    if not isinstance(answer, tuple):
        return answer
    return tuple(_judged(row, locks) for row in answer)


def open_steps(told: Mapping[int, OpenSteps], locks: ExecutorLocks) -> OpenSteps:
    """Return what executors have said that they are executing, and who of them is there."""
    alive = {executor: locks.is_held(executor) for executor in told}
    steps = (attrs.evolve(step, is_alive=alive[step.executor]) for each in told.values() for step in each.steps)
    unlisted_count = sum(each.unlisted_count for executor, each in told.items() if alive[executor])
    return OpenSteps(tuple(sorted(steps, key=lambda step: step.started_at)), unlisted_count)


def _judged(row: Any, locks: ExecutorLocks) -> Any:
    match row:
        case ExecutorRow():
            return attrs.evolve(row, is_locked=locks.is_held(row.id))
        case DeathRow():
            is_teller_alive = bool(_is_alive(row.teller.partition("/")[2]))
            return attrs.evolve(row, is_locked=locks.is_held(row.executor), is_teller_alive=is_teller_alive)
        case ReportRow():
            return attrs.evolve(row, is_alive=_is_alive(row.process))
        case _:
            return row


def _is_alive(process: str) -> bool | None:
    try:
        return ProcessIdentity.parse(process).is_alive()
    except ValueError:
        return None


def _call(fn: Callable[[Any], Advance], tables: Tables, fence: Fence, *, until: float) -> Advance:
    """Return what a user's function returns, if that can be committed."""
    try:
        advance = fn(tables)
    except Exception:
        if tables.fault is not None:  # whatever the function has made of it
            raise tables.fault from None
        raise
    if tables.fault is not None:
        raise tables.fault
    if time.monotonic() > until:
        raise StepTimeout("the transaction has taken too long; nothing of it was committed")
    if advance.fence != fence:
        raise ValueError(f"the function returned an Advance of {advance.fence}, not of {fence}")
    return advance
