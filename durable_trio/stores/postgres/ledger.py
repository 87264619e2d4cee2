"""Which batches were committed, where the answer to a commit was lost.

Each batch has a number, which it inserts as its first statement. The same batch again has the same number: while the
old connection still works on it, the insert waits; if that has committed, it conflicts, and what was decided then is
the outcome; if not, it passes, and the batch is decided anew. (The server's own word for what became of a transaction,
``pg_xact_status``, cannot be trusted: numbers of transactions are given out again after a crash.)

The numbers of commits that were acknowledged are compared after each loss of a connection: a database that has lost
some, as a standby may that has become the server, is another past than the one that this process knows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import attrs

from durable_trio.stores.contract import Operation
from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.sqlstates import IS_NULL, IS_THERE
from durable_trio.stores.postgres.wire import Request, Wire

__all__ = ["COUNT", "Ledger", "is_known_commit", "is_other_past"]

# Only if what was acknowledged last is there. Also without a loss of the connection may the tables be those of another
# past: somebody has restored a backup into the schema. A number that is none, which no commit can have, says so.
INSERT: Final = """INSERT INTO commits (instance, batch) VALUES ($1::bigint, CASE
    WHEN $3::bigint IS NULL OR EXISTS (SELECT 1 FROM commits WHERE instance = $1::bigint AND batch = $3::bigint)
    THEN $2::bigint
END)
"""
COUNT: Final = """
    SELECT count(*) FROM commits
    WHERE instance = $1::bigint AND batch IN (SELECT value::bigint FROM json_array_elements_text($2::json) AS value)
"""
FORGET: Final = "DELETE FROM commits WHERE instance = $1::bigint AND batch < $2::bigint"

# So many numbers are remembered here and kept in the table.
KEPT: Final = 1000


@attrs.define(eq=False)
class Ledger:
    """The numbers that one open store gives. Used by several threads: each method is one step for the others."""

    instance: int
    _last: int = 0
    _acknowledged: deque[int] = attrs.Factory(lambda: deque(maxlen=KEPT))
    #: The batch of which it is not known what became of it, its number, and what was decided, if it came so far.
    in_doubt: tuple[Sequence[Operation], int] | None = None
    #: Executors of this store that a database which has lost commits may know nothing of, and give their numbers anew.
    dead: set[int] = attrs.Factory(set)
    #: How often a batch was sent again because its answer was lost, and how often it was found committed then.
    resent_count: int = 0
    found_count: int = 0
    _begun: int = 0
    #: Held while it is looked whether the database has lost commits.
    looking: threading.Lock = attrs.Factory(threading.Lock)
    _executors: set[int] = attrs.Factory(set)
    _decided: dict[int, Any] = attrs.Factory(dict)

    def number_of(self, batch: Sequence[Operation]) -> int:
        """Return the number of a batch: the same one again if it is the same batch.

        Raises:
            ValueError: it is another one than that of which it is not known what became of it.
        """
        if self.in_doubt is None:
            return self.next_number()
        before, number = self.in_doubt
        if len(before) != len(batch) or any(a is not b for a, b in zip(before, batch, strict=True)):
            raise ValueError("another batch, while it is not known what became of the one before")
        return number

    def next_number(self) -> int:
        """Return a number that was not given before."""
        self._last += 1
        return self._last

    def begin(self, number: int) -> None:
        """A batch of that number is sent; it may have been before."""
        self.resent_count += number == self._begun
        self._begun = number

    def request(self, number: int) -> Request:
        """Return the first statement of a transaction."""
        acknowledged = self._acknowledged
        return Request(INSERT, (self.instance, number, acknowledged[-1] if acknowledged else None))

    def decide(self, number: int, outcome: Any) -> None:
        """Remember what comes of it if it is committed: before the commit is asked for."""
        self._decided[number] = outcome

    def decided(self, number: int) -> Any:
        """Return what was decided when it was committed: its number was found."""
        self.found_count += 1
        return self._decided[number]

    def acknowledge(self, number: int) -> None:
        """The server has said that it is committed, or the table does."""
        self._decided.pop(number, None)
        self._acknowledged.append(number)

    def count_lost(self, wire: Wire) -> int:
        """Return how many of the commits that were acknowledged the database does not have."""
        numbers = list(self._acknowledged)
        ((found,),) = wire.execute(COUNT, self.instance, str(numbers)).rows
        return len(numbers) - int(found)

    def note_executor(self, executor: int) -> None:
        """An executor of this store was registered."""
        self._executors.add(executor)
        self.dead.discard(executor)

    def forget(self) -> None:
        """Remember nothing of what was acknowledged, and take own executors for dead: the database has another past."""
        self._acknowledged.clear()
        self.dead |= self._executors
        self._executors.clear()

    def tidy_request(self) -> Request:
        """Return what removes the numbers that nobody will compare or insert again."""
        first = min([*self._decided, self._last + 1]) - KEPT
        if self._acknowledged:
            first = min(first, self._acknowledged[0])
        return Request(FORGET, (self.instance, first))


def is_other_past(error: ServerError) -> bool:
    """Return whether an error says that the last commit that was acknowledged is not there."""
    return error.sqlstate == IS_NULL and error.table == "commits"


def is_known_commit(error: ServerError) -> bool:
    """Return whether an error says that this number was committed before."""
    return error.sqlstate == IS_THERE and error.table == "commits"
