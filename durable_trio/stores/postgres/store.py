"""``PostgresStore``: the contract of ``stores.contract`` on a PostgreSQL database, for any number of machines.

Three connections. The *writer* applies batches; the *reader* answers what runs wait for; the *session* says that this
store is there (``session``). A fourth answers what people ask, once somebody does, and transactions of the user's have
some of their own (``transact``). One that is lost is made anew when it is needed; until that succeeds, the store is
away. What was perhaps committed is found in the *ledger*.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final, TypeVar

import psycopg

from durable_trio.errors import StoreAway, StoreError, StoreFull
from durable_trio.processes import OWN_PROCESS
from durable_trio.stores.contract import Advance, Fence, Operation, RegisterExecutor, Store
from durable_trio.stores.cursors import Cursor
from durable_trio.stores.postgres.answers.cursors import read_point
from durable_trio.stores.postgres.answers.table import ANSWERS, Asking
from durable_trio.stores.postgres.batch import OPERATIONS, apply_batch
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError, translating
from durable_trio.stores.postgres.fronts import Fronts
from durable_trio.stores.postgres.ledger import Ledger, is_known_commit, is_other_past
from durable_trio.stores.postgres.lineage import look_back
from durable_trio.stores.postgres.link import Link
from durable_trio.stores.postgres.operations.leases import RENEW_MEANWHILE
from durable_trio.stores.postgres.schema import migrate, must_be_there
from durable_trio.stores.postgres.session import DOUBT_SECONDS, FORGET_INSTANCES, NOTE_FREE, POLL_SECONDS, Session
from durable_trio.stores.postgres.transact import Transactions
from durable_trio.stores.postgres.transaction import NOW, Transaction
from durable_trio.stores.postgres.url import ENGINE, PEOPLE, Place, must_be_direct, parse_url
from durable_trio.stores.postgres.wire import Request, Wire
from durable_trio.stores.questions import Question

__all__ = ["PostgresStore"]

T = TypeVar("T")

# A deadlock, or a conflict, is over when it is tried again; so many in a row are none.
_TRIES_MAX: Final = 10
_PAUSE_SECONDS: Final = (0.005, 0.05)
_ANSWER_SECONDS_MAX: Final = 30.0  # also for a commit: nothing else ends the wait for a standby that is gone
_LEAVING_SECONDS_MAX: Final = 5.0


class PostgresStore(Store):
    """Runs in a schema of a PostgreSQL database.

    Args:
        url: ``postgresql://…`` as libpq reads it, and ``schema=`` (default ``durable_trio``) among its options.
        durability: "full" (default): a commit is on the server's disk, and on its synchronous standbys; "normal": it
            survives the death of any process, but the last ones may be missing after a crash of the server.
        creates: whether to make the tables where there are none; else that is a ``StoreError`` of ``open``.

    Raises:
        ValueError: an unknown durability, or no such URL.
    """

    answers_apart = True
    has_clock = True
    transact_concurrency = 4
    takes_open_steps = True

    def __init__(self, url: str, *, durability: str = "full", creates: bool = True) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability must be 'full' or 'normal', not {durability!r}")
        self.durability = durability
        self.address = url
        self._place = parse_url(url)
        self._creates = creates
        self._session: Session | None = None
        self._pid = 0

    def open(self) -> None:
        """Connect, and bring the tables up to date (see ``Store.open``)."""
        if self._session is not None:
            self._usable()
            return
        place = self._place
        with translating(place.name):
            session = Session(place, _up_to_date(place, creates=self._creates))
        self._pid = OWN_PROCESS.pid
        self._ledger = Ledger(session.instance)
        self._fronts = Fronts()
        self._seconds_max = _ANSWER_SECONDS_MAX
        self._has_written = False
        self._writer = Link(partial(self._connect_writer, ENGINE))
        # What a user's function asks is planned as the server does by default.
        self._transactions = Transactions(self._connect_writer, self._ledger, place.schema)
        self._readers = {
            False: Link(self._connect_reader),
            True: Link(partial(place.connect, settings=PEOPLE)),  # they wait as long as they like
        }
        self._session = session

    def close(self) -> None:
        """Close all connections (see ``Store.close``)."""
        session, self._session = self._session, None
        if session is None or self._pid != OWN_PROCESS.pid:
            return
        self._transactions.close()
        for link in (self._writer, *self._readers.values()):
            link.close()
        session.close()

    def hurry(self) -> None:
        """Wait for the server only some seconds from now on (see ``Store.hurry``)."""
        self._seconds_max = _LEAVING_SECONDS_MAX
        if self._session is not None:
            self._writer.hurry(_LEAVING_SECONDS_MAX)
            self._readers[False].hurry(_LEAVING_SECONDS_MAX)
            self._transactions.hurry(_LEAVING_SECONDS_MAX)

    def _usable(self) -> Session:
        if self._session is None:
            raise StoreError(f"the store {self._place.name} is not open; call open() first")
        if self._pid != OWN_PROCESS.pid:
            raise StoreError(
                f"the store {self._place.name} was opened by process {self._pid} and does not work after a fork; "
                "open another one in this process, or start processes by exec"
            )
        return self._session

    # ---- writing -------------------------------------------------------------------------------------------------

    def apply(self, batch: Sequence[Operation], *, block: bool = True) -> list[Any] | None:
        """Commit a batch and return one outcome per operation (see ``Store.apply``)."""
        session = self._usable()
        kinds = set(map(type, batch))
        unknown = kinds - OPERATIONS
        if unknown:
            raise TypeError(f"{unknown.pop().__name__} is no operation of a store")
        if not block:
            return None
        ledger = self._ledger
        was_in_doubt = ledger.in_doubt is not None
        number = ledger.number_of(batch)
        if not batch:
            return []
        ledger.in_doubt = None
        try:
            outcomes = self._with(self._writer, lambda wire: self._commit(wire, batch, number))
        except (StoreAway, StoreFull) as error:
            if was_in_doubt or isinstance(error, StoreAway):
                ledger.in_doubt = list(batch), number
            if was_in_doubt and not isinstance(error, StoreAway):  # it may have been committed before there was no room
                raise StoreAway(str(error)) from error
            raise
        ledger.acknowledge(number)
        if RegisterExecutor in kinds:
            for operation, outcome in zip(batch, outcomes, strict=True):
                if isinstance(operation, RegisterExecutor) and isinstance(outcome, int):
                    ledger.note_executor(outcome)
        session.tell_others()
        return outcomes

    def renew_meanwhile(self, executor: int) -> bool | None:
        """Renew a lease while the event loop is blocked, on a connection of its own (see ``Store.renew_meanwhile``)."""
        self._usable()
        with translating(self._place.name), closing(self._place.connect()) as wire:
            return bool(wire.execute(RENEW_MEANWHILE, executor).changed)

    def _with(self, link: Link, work: Callable[[Wire], T]) -> T:
        """Do what may be done twice. A connection may have been lost long ago: then it is done on a new one at once."""
        with translating(self._place.name):
            try:
                with link.used() as wire:
                    return work(wire)
            except ConnectionLost as error:
                if error.is_late:
                    raise
            with link.used() as wire:
                return work(wire)

    def _commit(self, wire: Wire, batch: Sequence[Operation], number: int) -> list[Any]:
        ledger = self._ledger
        ledger.begin(number)
        opening = (Request("BEGIN"), ledger.request(number))

        def apply() -> list[Any]:
            decided = partial(ledger.decide, number)
            try:
                return apply_batch(
                    Transaction(wire, ledger.instance, opening, decided, ledger.dead, self._fronts), batch
                )
            except ServerError as error:
                if is_other_past(error):
                    raise wire.give_up(error) from error  # it is looked at from a new connection (``lineage``)
                if not is_known_commit(error):
                    raise
                outcomes: list[Any] = ledger.decided(number)
                return outcomes

        return _again_after_conflict(wire, apply)

    def _connect_reader(self) -> Wire:
        wire = self._place.connect(settings=ENGINE)
        wire.seconds_max = self._seconds_max
        return wire

    def _connect_writer(self, settings: Sequence[str] = ()) -> Wire:
        """Return a connection to write on, to a database that has what was committed before."""
        waits = "on" if self.durability == "full" else "off"
        wire = self._place.connect(settings=(*settings, f"SET synchronous_commit = {waits}"))
        try:
            wire.seconds_max = self._seconds_max
            if self._has_written:
                look_back(wire, self._ledger, self._place.name)
        except BaseException:
            wire.close()
            raise
        self._has_written = True
        return wire

    def transact(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Run a user's function and commit its rows with its ``Advance`` (see ``Store.transact``)."""
        session = self._usable()
        with translating(self._place.name):
            outcome = self._transactions.run(fence, fn, seconds_max=seconds_max)
        session.tell_others()
        return outcome

    def connect(self) -> psycopg.Connection[Any]:
        """Return a new connection to the same database for the user, as the URL says; the user closes it."""
        self._usable()
        return self._place.connect_for_user()

    def tidy(self) -> None:
        """Remove what nobody will ask of commits, and of stores that are gone (see ``Store.tidy``)."""
        session = self._usable()
        own = (session.lock_class,)
        requests = [self._ledger.tidy_request(), Request(NOTE_FREE, own), Request(FORGET_INSTANCES, own)]
        self._with(self._writer, lambda wire: _again_after_conflict(wire, lambda: wire.exchange(requests)))

    # ---- noticing and reading ------------------------------------------------------------------------------------

    @property
    def doorbell(self) -> int | None:
        """What rings when others have committed (see ``Store.doorbell``)."""
        return None if self._session is None else self._session.doorbell

    @property
    def poll_seconds(self) -> float:
        """How soon to look for commits of others (see ``Store.poll_seconds``)."""
        return POLL_SECONDS if self._session is None else self._session.poll_seconds

    @property
    def doubt_seconds(self) -> float:
        """How long a session may take to come back (see ``Store.doubt_seconds``)."""
        return DOUBT_SECONDS

    def foreign_changes(self) -> bool | None:
        """Return whether others may have committed since this was last asked (see ``Store.foreign_changes``)."""
        return self._usable().has_been_told()

    def read_cursor(self, text: str) -> Cursor:
        """Return a cursor that was written down (see ``Store.read_cursor``)."""
        return read_point(text).cursor

    def read_clock(self) -> int:
        """Return the present by the server's clock (see ``Store.read_clock``)."""
        self._usable()
        return self._with(self._readers[False], lambda wire: int(wire.execute(f"SELECT {NOW}").rows[0][0]))

    def ask(self, question: Question[T]) -> T:
        """Answer a question (see ``Store.ask``)."""
        function = ANSWERS.get(type(question))
        if function is None:
            raise TypeError(f"{type(question).__name__} is no question of a store")
        session = self._usable()
        answer: T = self._with(
            self._readers[question.is_for_people], lambda wire: function(Asking(wire, session.lock_class), question)
        )
        return answer


def _up_to_date(place: Place, *, creates: bool) -> Wire:
    """Return a connection to a database of which the tables are up to date."""
    wire = place.connect()
    try:
        must_be_direct(wire, place.name)
        if not creates:
            must_be_there(wire, place.schema, place.name)
        migrate(wire, place.schema, place.name)
    except BaseException:
        wire.close()
        raise
    return wire


def _again_after_conflict(wire: Wire, work: Callable[[], T]) -> T:
    """Do something that two who came together may have kept each other from: it is over when it is tried again."""
    for tries_left in reversed(range(_TRIES_MAX)):
        try:
            return work()
        except ServerError as error:
            if not (error.may_be_tried_again and tries_left):
                raise
            if wire.is_in_transaction:
                wire.roll_back()
            if error.is_deadlock:  # the other one goes on before this begins anew, or they meet again
                time.sleep(random.uniform(*_PAUSE_SECONDS))
    raise AssertionError
