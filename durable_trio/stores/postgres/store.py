"""``PostgresStore``: the contract of ``stores.contract`` on a PostgreSQL database, for any number of machines.

Three connections. The *writer* applies batches; the *reader* answers what runs wait for; the *session* says that this
store is there (``session``). A fourth answers what people ask, once somebody does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from durable_trio.errors import StoreError
from durable_trio.processes import OWN_PROCESS
from durable_trio.stores.contract import Advance, Fence, Operation, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.postgres.answers.table import ANSWERS, Asking
from durable_trio.stores.postgres.batch import OPERATIONS, apply_batch
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError, translate
from durable_trio.stores.postgres.schema import migrate
from durable_trio.stores.postgres.session import Session
from durable_trio.stores.postgres.transaction import NOW, Transaction
from durable_trio.stores.postgres.url import must_be_direct, parse_url
from durable_trio.stores.postgres.wire import Request, Wire
from durable_trio.stores.questions import Question

__all__ = ["PostgresStore"]

T = TypeVar("T")

_BEGIN_TO_READ = Request("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_TRIES_MAX = 10


class PostgresStore(Store):
    """Runs in a schema of a PostgreSQL database.

    Args:
        url: ``postgresql://…`` as libpq reads it, and ``schema=`` (default ``durable_trio``) among its options.
        durability: "full" (default): a commit is on the server's disk, and on its synchronous standbys; "normal": it
            survives the death of any process, but the last ones may be missing after a crash of the server.
    """

    answers_apart = True
    has_clock = True

    def __init__(self, url: str, *, durability: str = "full") -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        self.durability = durability
        self._place = parse_url(url)
        self._session: Session | None = None
        self._writer: Wire | None = None
        self._wires: dict[bool, Wire] = {}  # that questions are asked on: of people, or not
        self._locks = {is_for_people: threading.Lock() for is_for_people in (False, True)}
        self._pid = 0

    def open(self) -> None:
        """Connect, and bring the tables up to date (see ``Store.open``)."""
        if self._writer is not None:
            return
        writer = self._place.connect(is_writer=True)
        try:
            must_be_direct(writer, self._place.name)
            migrate(writer, self._place.schema, self._place.name)
            self._session = Session(self._place)
        except BaseException:
            writer.close()
            raise
        self._writer = writer
        self._pid = OWN_PROCESS.pid

    def close(self) -> None:
        """Close all connections (see ``Store.close``)."""
        session, writer = self._session, self._writer
        self._session = self._writer = None
        for is_for_people, lock in self._locks.items():
            with lock:
                wire = self._wires.pop(is_for_people, None)
                if wire is not None:
                    wire.close()
        if writer is not None and session is not None and self._pid == OWN_PROCESS.pid:
            writer.close()
            session.close()

    def _usable(self) -> tuple[Wire, Session]:
        if self._writer is None or self._session is None:
            raise StoreError(f"the store {self._place.name} is not open; call open() first")
        if self._pid != OWN_PROCESS.pid:
            raise StoreError(
                f"the store {self._place.name} was opened by process {self._pid} and does not work after a fork; "
                "open another one in this process, or start processes by exec"
            )
        return self._writer, self._session

    # ---- writing -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch and return one outcome per operation (see ``Store.apply``)."""
        writer, session = self._usable()
        for operation in batch:
            if type(operation) not in OPERATIONS:
                raise TypeError(f"{type(operation).__name__} is no operation of a store")
        if not batch:
            return []
        if not block:
            return None
        for tried in range(_TRIES_MAX):
            try:
                return apply_batch(Transaction(writer, session.instance), batch)
            except ServerError as error:
                with suppress(ConnectionLost, ServerError):
                    if writer.is_in_transaction:
                        writer.execute("ROLLBACK")
                if not error.may_be_tried_again or tried == _TRIES_MAX - 1:
                    raise translate(error, self._place.name) from error
            except ConnectionLost as error:
                raise translate(error, self._place.name) from error
        raise AssertionError

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Run a user's function and commit its rows with its ``Advance`` (see ``Store.transact``)."""
        raise NotImplementedError

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection to the same database for the user; the user closes it."""
        raise NotImplementedError

    # ---- reading -------------------------------------------------------------------------------------------------

    def read_cursor(self, text: str) -> Cursor:
        """Return a cursor that was written down (see ``Store.read_cursor``)."""
        raise NotImplementedError

    def read_clock(self) -> int:
        """Return the present by the server's clock (see ``Store.read_clock``)."""
        return int(self._read(False, lambda wire: wire.execute(f"SELECT {NOW}").rows[0][0]))

    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``Store.ask``)."""
        function = ANSWERS.get(type(question))
        if function is None:
            raise TypeError(f"{type(question).__name__} is no question of a store")
        _, session = self._usable()

        def answer(wire: Wire) -> T:
            asking = Asking(wire, session.lock_class)
            wire.exchange([_BEGIN_TO_READ])
            try:
                found: T = function(asking, question)
            finally:
                if not wire.is_lost:
                    wire.execute("ROLLBACK")
            return found

        return self._read(question.is_for_people, answer)

    def _read(self, is_for_people: bool, fn: Callable[[Wire], T]) -> T:
        """Call a function with a connection for reading."""
        self._usable()
        try:
            with self._locks[is_for_people]:
                wire = self._wires.get(is_for_people)
                if wire is None or wire.is_lost:
                    wire = self._wires[is_for_people] = self._place.connect()
                return fn(wire)
        except (ConnectionLost, ServerError) as error:
            raise translate(error, self._place.name) from error
