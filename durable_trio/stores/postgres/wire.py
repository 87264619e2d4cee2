"""One connection to the server: requests go out together and come back together, in one round trip.

It is libpq's pipeline, by psycopg's public ``pq.PGconn``. (What psycopg builds on that costs several times as much for
a few statements.) Each text is prepared once. Parameters and values travel as text.

Nothing here blocks with the interpreter's lock held: the socket is waited for until libpq has all of an answer. A store
that waits for a row's lock would otherwise stop the whole process, with whoever is to let go of the lock.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import pq

from durable_trio.stores.postgres.faults import ConnectionLost, ServerError
from durable_trio.stores.postgres.sqlstates import COMMITTED_HERE_ONLY, NO_TEXT, TOO_LARGE

__all__ = ["Answer", "Request", "Wire"]


_BYTES: Final[dict[type, Callable[[Any], bytes | None]]] = {
    int: lambda value: b"%d" % value,
    str: str.encode,
    bool: lambda value: b"t" if value else b"f",
    type(None): lambda _: None,
    bytes: lambda value: b"\\x" + value.hex().encode(),
    float: lambda value: repr(value).encode(),
}
# A statement is planned once, for the size that its tables have then. They grow: so it is planned again after each
# doubling of what was asked, which is often at first and then hardly ever.
_PLAN_ANEW: Final = "DISCARD PLANS"
_ENDS: Final = ("COMMIT", "ROLLBACK")  # of a transaction: what comes then is in none


def _encoded(values: tuple[Any, ...]) -> list[bytes | None] | None:
    """Return values as they are sent.

    Raises:
        ServerError: one is no text for the server (libpq would cut it off at the first NUL, silently), or they are too
            large.
    """
    try:
        encoded = [_BYTES[type(value)](value) for value in values]
    except UnicodeEncodeError as error:
        raise ServerError(NO_TEXT, str(error)) from error
    for value in encoded:
        if value is not None and b"\0" in value:
            raise ServerError(NO_TEXT, f"PostgreSQL has no text with a NUL in it, such as {value[:100]!r}")
    if _size(encoded) > _STATEMENT_BYTES_MAX:
        raise ServerError(TOO_LARGE, f"PostgreSQL takes at most {_STATEMENT_BYTES_MAX:,} bytes at once")
    return encoded or None


def _size(values: Sequence[bytes | None] | None) -> int:
    return sum(len(value) for value in values or () if value is not None)


def _bytea(raw: bytes) -> bytes:
    return bytes.fromhex(raw[2:].decode())


def _text_array(raw: bytes) -> tuple[str, ...]:
    """Read ``{a,"b c"}``; our texts are no NULL."""
    items, item, is_quoted, is_escaped, was_quoted = [], [], False, False, False
    for letter in raw.decode()[1:-1]:
        if is_escaped:
            item.append(letter)
            is_escaped = False
        elif letter == "\\":
            is_escaped = True
        elif letter == '"':
            is_quoted, was_quoted = not is_quoted, True
        elif letter == "," and not is_quoted:
            items.append("".join(item))
            item, was_quoted = [], False
        else:
            item.append(letter)
    return (*items, "".join(item)) if item or was_quoted or items else ()


# By the number of a type in every PostgreSQL. What is not here is read as text.
_VALUES: Final[dict[int, Callable[[bytes], Any]]] = {
    16: lambda raw: raw == b"t",  # bool
    17: _bytea,
    20: int,
    21: int,
    23: int,
    26: int,  # oid
    700: float,
    701: float,
    1009: _text_array,
    1700: float,  # numeric
    5069: int,  # xid8
}


# How often it is looked whether an answer is waited for for too long.
_LOOK_SECONDS: Final = 0.5
# What a server makes of a large value takes its time, during which it says nothing: at least so much a second.
_BYTES_A_SECOND: Final = 2_000_000
# A little more, and libpq has no room for it, or the server ends the connection: each time that it is tried.
_STATEMENT_BYTES_MAX: Final = 800_000_000


class _LateError(psycopg.OperationalError):
    """Nothing has come for too long."""


class Request(NamedTuple):
    """A statement, with ``$1`` for its first value."""

    text: str
    values: tuple[Any, ...] = ()


class Answer(NamedTuple):
    """The rows of a statement, and how many it has changed."""

    rows: list[tuple[Any, ...]]
    changed: int


class Wire:
    """A connection. It belongs to one thread at a time.

    Args:
        connection: in autocommit, with nothing under way. It is this object's from now on.
        settings: statements that make it what it is to be.
    """

    def __init__(self, connection: psycopg.Connection[Any], settings: Sequence[str] = ()) -> None:
        self._connection = connection
        #: What was done to make it what it is to be.
        self.settings = tuple(settings)
        self._is_used = False  # lent since it was as it should be
        self._pg = connection.pgconn
        self._names: dict[str, bytes] = {}  # of texts that are prepared
        self._named_count = 0
        self._doubt = ""  # why what was committed may be lost
        self._pg.notice_handler = self._notice
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pg.socket, selectors.EVENT_READ)
        #: How long to wait for an answer, or for any sign of life while much is sent or comes; ``None``: as long as the
        #: connection stands.
        self.seconds_max: float | None = None
        self._more_seconds = 0.0  # for the exchange that is under way
        self._until = math.inf  # when to give it up
        self._is_in_a_hurry = False
        #: How many round trips it has made.
        self.exchange_count = 0
        self._plans_until = 1
        self.exchange([Request(each) for each in settings])

    @property
    def socket(self) -> int:
        """Its descriptor."""
        return self._pg.socket

    @contextmanager
    def lent(self) -> Iterator[pq.abc.PGconn]:
        """Around a block in which somebody else uses the connection, one statement after the other.

        Whatever he does to its settings stays until ``renew``.
        """
        self._pg.exit_pipeline_mode()
        self._is_used = True
        try:
            yield self._pg
        finally:
            self._names.clear()  # he may have had them deallocated
            self._pg.notice_handler = self._notice
            try:
                if not self.is_lost:
                    self._pg.nonblocking = 1
                    self._pg.enter_pipeline_mode()
            except psycopg.OperationalError:  # he has left an answer on its way
                self.close()

    def renew(self) -> None:
        """Make the connection as it was when it was made, if it was lent since: settings, locks, tables of its own.

        A transaction is rolled back. If it cannot be made so, it is closed.
        """
        if self._is_used and not self.is_lost:
            try:
                if self.is_in_transaction:
                    self.execute("ROLLBACK")
                self.execute("DISCARD ALL")
                self._names.clear()
                self.exchange([Request(each) for each in self.settings])
                self._is_used = False
            except (ConnectionLost, ServerError):
                self.close()

    @property
    def backend_pid(self) -> int:
        """The process of the server that answers."""
        return self._pg.backend_pid

    @property
    def is_in_transaction(self) -> bool:
        """Whether a transaction was begun and has not ended, as far as is known."""
        return self._pg.transaction_status != pq.TransactionStatus.IDLE

    @property
    def is_lost(self) -> bool:
        """Whether it was closed, or the server has gone."""
        return self._pg.status != pq.ConnStatus.OK

    def roll_back(self) -> None:
        """End a transaction, if the server is there to be told; without, it does so by itself."""
        with suppress(ConnectionLost, ServerError):
            self.execute("ROLLBACK")

    def give_up(self, error: ServerError) -> ConnectionLost:
        """Let go of the connection because of what the server has said, and return what is to be raised for that."""
        self.close()
        return ConnectionLost(str(error), sqlstate=error.sqlstate)

    def close(self) -> None:
        """Let go of the connection. Twice is nothing."""
        self._selector.close()
        self._connection.close()

    def execute(self, text: str, *values: Any) -> Answer:
        """Have one statement done, and wait for its answer (see ``exchange``)."""
        return self.exchange([Request(text, values)])[0]

    def exchange(self, requests: Sequence[Request]) -> list[Answer]:
        """Have statements done in their order, in one round trip, and return their answers.

        After one that fails none is done. Whether there is a transaction then is for the caller to see: without
        ``BEGIN``, all of them together are one. For no statements there is no round trip.

        Raises:
            ServerError: the server has refused a statement.
            ConnectionLost: it is not known what became of them. The connection is closed.
        """
        if not requests:
            return []
        texts = [(text, _encoded(values)) for text, values in requests]
        self.exchange_count += 1
        is_planned_anew = self.exchange_count >= self._plans_until and texts[-1][0] in _ENDS
        if is_planned_anew:
            texts.append((_PLAN_ANEW, None))
            self._plans_until = 2 * self.exchange_count
        self._more_seconds = sum(_size(values) for _, values in texts) / _BYTES_A_SECOND
        self._until = self._deadline()
        new: list[str] = []  # texts that are being prepared
        # One for each answer that comes back: the text that is prepared with it, or None for a statement that is done.
        expected: list[str | None] = []
        try:
            for text, values in texts:
                name = self._names.get(text)
                if name is None:
                    self._named_count += 1
                    name = self._names[text] = b"durable_trio_%d" % self._named_count
                    self._pg.send_prepare(name, text.encode())
                    expected.append(text)
                    new.append(text)
                self._pg.send_query_prepared(name, values)
                expected.append(None)
            self._pg.pipeline_sync()
            self._flush()
            answers, prepared, error = self._receive(expected)
        except psycopg.OperationalError as lost:
            self.close()
            raise ConnectionLost(str(lost).strip(), is_late=isinstance(lost, _LateError)) from lost
        except BaseException:  # an answer may be on its way, to nobody
            self.close()
            raise
        for text in new[prepared:]:
            del self._names[text]
        doubt, self._doubt = self._doubt, ""
        if doubt and not self.is_in_transaction:  # else it is a warning of somebody's trigger; nothing is committed
            self.close()
            raise ConnectionLost(doubt, sqlstate=COMMITTED_HERE_ONLY)
        if error is not None:
            if error.ends_connection:
                raise self.give_up(error) from error
            raise error
        return answers[:-1] if is_planned_anew else answers

    def take_notifications(self) -> list[str]:
        """Return the texts of what has been notified to this connection, without waiting.

        Raises:
            ConnectionLost: the server has gone. The connection is closed.
        """
        found: list[str] = []
        try:
            self._pg.consume_input()
            while (notify := self._pg.notifies()) is not None:
                found.append(notify.extra.decode())
        except psycopg.OperationalError as lost:
            self.close()
            raise ConnectionLost(str(lost).strip()) from lost
        return found

    # ---- inside --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._pg.flush():
            if self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE) & selectors.EVENT_READ:
                self._pg.consume_input()  # the server writes only to whom who reads

    def _receive(self, expected: Sequence[str | None]) -> tuple[list[Answer], int, ServerError | None]:
        """Return the answers, how many texts were prepared, and the first error."""
        answers: list[Answer] = []
        prepared = 0
        error: ServerError | None = None
        for each in expected:
            while (result := self._next()) is not None:
                if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                    if each is None:
                        answers.append(_answer(result))
                    else:
                        prepared += 1
                elif result.status == pq.ExecStatus.PIPELINE_ABORTED:
                    pass  # the one that has failed came before
                elif error is None:
                    error = ServerError.of(result)
        synchronised = self._next()
        if synchronised is None or synchronised.status != pq.ExecStatus.PIPELINE_SYNC:
            if synchronised is not None and synchronised.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(synchronised.get_error_message())
            raise psycopg.OperationalError("the server has answered something else than was asked")
        return answers, prepared, error

    def _next(self) -> pq.abc.PGresult | None:
        """Return the next result, for which nobody waits with the interpreter's lock held."""
        while self._pg.is_busy():
            self._wait(selectors.EVENT_READ)
            self._pg.consume_input()
        return self._pg.get_result()

    def _wait(self, events: int) -> int:
        key = self._selector.get_key(self._pg.socket)
        if key.events != events:
            self._selector.modify(self._pg.socket, events)
        while not (ready := self._selector.select(_LOOK_SECONDS)):
            if time.monotonic() > self._until:
                raise _LateError("the server has not answered in time")
        if not self._is_in_a_hurry:
            self._until = self._deadline()
        return ready[0][1]

    def _deadline(self) -> float:
        return math.inf if self.seconds_max is None else time.monotonic() + self.seconds_max + self._more_seconds

    def hurry(self, seconds_max: float) -> None:
        """Wait for answers no longer than so many seconds: for the one that is waited for just now, too.

        Another thread than that of the connection may call it.
        """
        self._is_in_a_hurry = True
        self.seconds_max = seconds_max
        self._until = min(self._until, time.monotonic() + seconds_max)

    def _notice(self, result: pq.abc.PGresult) -> None:
        notice = ServerError.of(result)
        if notice.sqlstate == COMMITTED_HERE_ONLY:
            self._doubt = notice.text


def _answer(result: pq.abc.PGresult) -> Answer:
    count = result.command_tuples or 0
    if not result.nfields:
        return Answer([], count)
    columns = range(result.nfields)
    readers = [_VALUES.get(result.ftype(column)) for column in columns]
    rows = []
    value_at = result.get_value
    for number in range(result.ntuples):
        row = []
        for column, read in zip(columns, readers, strict=True):
            raw = value_at(number, column)
            row.append(None if raw is None else raw.decode() if read is None else read(raw))
        rows.append(tuple(row))
    return Answer(rows, count)
