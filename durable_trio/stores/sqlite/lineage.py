"""Whether a database goes on from what this process knows to be committed, whoever has committed to it since.

SQLite itself can write a copy over a database that others have open (its backup interface, ``.restore`` in its shell):
in one transaction, by way of the log. The files stay the same, no lock is broken, and steps that were acknowledged are
gone. So whenever another connection has committed, it is looked whether what is known is still there; nobody else has
committed as long as the *data version* of the writer's connection is the same, which SQLite tells in a microsecond.

What is known: the identity of the store; the highest change number and mailbox entry, and how often an executor of this
process has renewed its lease, which only grow; and the last row of a history that this process has committed, or of a
wait, for most commits write nothing else. A row goes only with its run, which then is gone or hidden, or when its run
is changed by somebody: then the run has a change number that is higher than all were before the row, or another owner.
No earlier state has that. A transaction that would leave nothing of this behind takes a change number (``leave_mark``);
but what processes report of themselves may be lost.

Each process looks for what it has committed or seen itself; of a state that comes after all of that, its memory tells
nothing false. Whoever finds something missing tells the others (``Files.tell_others``). What cannot be told is a copy
that has gone on elsewhere, further than this one in all numbers, and was made since this process last renewed a lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durable_trio.rows import Key
from durable_trio.stores.contract import Advance, Operation, PutReport, Sent
from durable_trio.stores.sqlite.library import ERROR, code_of, is_undecodable, sqlite3
from durable_trio.stores.sqlite.transaction import Transaction

__all__ = ["Lineage"]

DATA_VERSION: Final = "PRAGMA data_version"
SCHEMA_COOKIE: Final = "PRAGMA schema_version"
# The nonce as bytes: one that is damaged may be no text.
_FIND_KNOWN: Final = """
    SELECT (SELECT CAST(nonce AS BLOB) FROM store_identity),
        (SELECT changed FROM change_counter),
        (SELECT seq FROM sqlite_sequence WHERE name = 'mailbox'),
        (SELECT renewals FROM executors WHERE id = :executor),
        EXISTS (SELECT 1 FROM {table} WHERE run = :run AND branch = :branch AND name = :name AND n = :n AND {content})
            OR NOT EXISTS (
                SELECT 1 FROM runs WHERE run = :run AND changed <= :changed AND token <= :token AND hidden_at IS NULL
            )
"""
FIND_KNOWN_ROW: Final = _FIND_KNOWN.format(table="history", content="seq = :number AND finished_at = :instant")
FIND_KNOWN_WAIT: Final = _FIND_KNOWN.format(table="waits", content="attempt = :number AND started_at = :instant")
_NO_ROW: Final = (FIND_KNOWN_ROW, -1, 0, Key("", "", 0), 0, 0, 0)


class Lineage:
    """What is known of a database through one connection, its writer. Whoever calls has the writer to himself."""

    def __init__(self, writer: sqlite3.Connection) -> None:
        self._writer = writer
        self._nonce: bytes | None = None
        self._change = self._entry = 0
        self._executor, self._renewals = -1, 0
        # Where the last row is found, its run and token, key, number and instant, and the change number before it.
        self._row = _NO_ROW
        self._mark: tuple[Advance | None, int] = (None, 0)  # of a transaction under way
        self._written_count = 0
        self._version = self._cookie = 0
        self.settle()

    def has_moved_on(self) -> bool:
        """Return whether another connection has committed since ``settle``."""
        version: int = self._writer.execute(DATA_VERSION).fetchone()[0]
        return version != self._version

    def settle(self) -> str | None:
        """Take what others have committed for known, or return words for what the database is instead."""
        version = self._writer.execute(DATA_VERSION).fetchone()[0]  # first: what comes after it has another one
        lost = self._look()
        if lost is None:
            self._version, self._cookie = version, self._writer.execute(SCHEMA_COOKIE).fetchone()[0]
        return lost

    def was_written_over(self) -> bool:
        """Return whether SQLite itself has written a copy over the database: it counts that as a change of schema."""
        return (
            self.has_moved_on()
            and self._look() is not None
            and self._writer.execute(SCHEMA_COOKIE).fetchone()[0] > self._cookie
        )

    # ---- own commits: each passes here -------------------------------------------------------------------------------

    def begun(self, transaction: Transaction) -> bool:
        """Note that a transaction has begun, and return whether another connection has committed since ``settle``."""
        self._written_count = self._writer.total_changes
        version: int = transaction.execute(DATA_VERSION).fetchone()[0]
        return version != self._version

    def leave_mark(self, transaction: Transaction, batch: Sequence[Operation], outcomes: Sequence[Any]) -> None:
        """Find out, before the commit, by what the transaction will be known; if by nothing, give it something."""
        if len(batch) == 1:  # nearly always it is known by its row
            operation = batch[0]
            if type(operation) is Advance and outcomes[0] is True and (operation.rows or operation.waits):
                self._mark = (operation, 0)
                return
        advance, entry = None, 0
        for operation, outcome in zip(reversed(batch), reversed(outcomes), strict=True):
            if outcome is True and type(operation) is Advance:
                advance = operation
                break
            if type(outcome) is Sent and outcome.created:
                entry = max(entry, outcome.entry.id)
        self._mark = (advance, entry)
        if entry or (advance is not None and (advance.rows or advance.waits)):
            return
        has_written = self._writer.total_changes != self._written_count and transaction.is_there
        if has_written and any(type(operation) is not PutReport for operation in batch):
            transaction.change()

    def committed(self, transaction: Transaction) -> None:
        """Know what ``leave_mark`` has found: it was committed."""
        advance, entry = self._mark
        if advance is not None and not self.know(advance) and (transaction.change_taken or entry):
            self._row = _NO_ROW  # a wait may have gone; what is known instead was committed after it
        if entry > self._entry:
            self._entry = entry
        if transaction.renewed is not None:
            self._executor, self._renewals = transaction.renewed
        if transaction.change_taken > self._change:
            self._change = transaction.change_taken

    def committed_apart(self, change: int) -> None:
        """Know what was committed one operation at a time, each with a change number; the last one is ``change``."""
        if change:
            self._row = _NO_ROW  # any of them may have removed it
            self._change = max(self._change, change)

    def know(self, advance: Advance) -> bool:
        """Know the last row of an ``Advance`` that was committed; return whether it has one."""
        run, token = advance.fence.run, advance.fence.token
        if advance.rows:
            row = advance.rows[-1]
            self._row = (FIND_KNOWN_ROW, run, token, row.key, row.seq, row.finished_at, self._change)
        elif advance.waits:
            wait = advance.waits[-1]
            self._row = (FIND_KNOWN_WAIT, run, token, wait.key, wait.attempt, wait.started_at, self._change)
        else:
            return False
        return True

    def look_through(self, connection: sqlite3.Connection) -> str | None:
        """Return words for what a database that is seen through some connection is, if what is known is not there.

        Raises:
            sqlite3.Error: it cannot be told.
        """
        return self._judge(self._find_known(connection))

    def _find_known(self, connection: sqlite3.Connection) -> tuple[Any, ...]:
        sql, run, token, key, number, instant, change = self._row
        values = {"run": run, "token": token, "branch": key.branch, "name": key.name, "n": key.n, "number": number}
        values |= {"instant": instant, "changed": change, "executor": self._executor}
        found: tuple[Any, ...] = connection.execute(sql, values).fetchone()
        return found

    def _judge(self, found: tuple[Any, ...]) -> str | None:
        nonce, change, entry, renewals, has_row = found
        if nonce and self._nonce and nonce != self._nonce:
            return "another store"
        numbers = ((change, self._change), (entry or 0, self._entry), (renewals, self._renewals))
        if not has_row or any(type(number) is int and number < known for number, known in numbers):
            return "an earlier state of it"
        return None

    def _look(self) -> str | None:
        try:
            found = self._find_known(self._writer)
        except sqlite3.OperationalError as error:
            if code_of(error) == ERROR and not is_undecodable(error):  # a table is not there, or another one
                return "another database"
            raise
        lost = self._judge(found)
        if lost is None:
            nonce, change, entry, *_ = found
            self._nonce = nonce or self._nonce  # a row that was removed in place: it is still known by what it was
            self._change, self._entry = (number if type(number) is int else 0 for number in (change, entry))
        return lost
