"""A user's function and the checkpoint that records it, in one transaction, on a connection of its own.

Nothing is locked while the function works: whether the run is still the caller's is looked at before, and again at the
end, with the lock that lets nobody reap its executor. Other batches of the process go on meanwhile.

Whose error is it? That the connection is lost, or the server's disk is full, is the store's, wherever it surfaces and
whatever the function makes of it. A deadlock or a conflict of two transactions is nobody's: the function is called
again, while there is time. All else that comes of the function is its own failure, also what it has deferred to the
commit, which is done before anything of the store's.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import psycopg
from psycopg import pq

from durable_trio.errors import OwnershipLost, StepFailed, StepTimeout, StoreAway
from durable_trio.looks import qualified_name
from durable_trio.stores.contract import Advance, Fence
from durable_trio.stores.outcomes import fence_lost
from durable_trio.stores.postgres.batch import apply_within
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError
from durable_trio.stores.postgres.guarded import GuardedConnection, server_error
from durable_trio.stores.postgres.ledger import Ledger, is_known_commit, is_other_past
from durable_trio.stores.postgres.link import Link
from durable_trio.stores.postgres.schema import quoted
from durable_trio.stores.postgres.sqlstates import CONFLICTS, IDLE_TOO_LONG, READ_ONLY
from durable_trio.stores.postgres.transaction import FIND_OWNER, Transaction
from durable_trio.stores.postgres.url import ENGINE
from durable_trio.stores.postgres.wire import Request, Wire

__all__ = ["Transactions"]

GUARD: Final = "INSERT INTO guards (transaction) VALUES (pg_current_xact_id()) RETURNING transaction"
UNGUARD: Final = "DELETE FROM {schema}.guards WHERE transaction = $1::xid8"
SET: Final = "SELECT set_config($1, $2, true)"
OWN_TRANSACTION: Final = "SELECT pg_current_xact_id_if_assigned(), current_setting('transaction_read_only') = 'off'"
# What a function finds as its role has it by default, whatever a store needs.
_USERS_SETTINGS: Final = [
    Request(f"SET LOCAL {name} TO DEFAULT")
    for name in ("search_path", "standard_conforming_strings", "client_min_messages", "jit")
]
# A margin, so that it is this process which says that the function was too slow.
_LATE_MS: Final = 50
# A function whose connection is lost again and again, for so long, is what brings that about.
_LOSSES_MAX: Final = 10
_LOSSES_SECONDS: Final = 60.0
# After a conflict the other one goes on first, or they meet again.
_PAUSES_SECONDS_MAX: Final = (0.02, 0.04, 0.08, 0.16, *[0.3] * 1000)


@attrs.define(eq=False)
class Transactions:
    """Runs transactions of the user's, each on a connection that it has alone; one that is free is used again.

    Args:
        make: makes a connection, to a database that has what was committed before.
        schema: where the tables of the store are, which the function does not see unless it names it.
    """

    _make: Callable[[], Wire]
    _ledger: Ledger
    _schema: str
    _links: list[Link] = attrs.Factory(list)
    _idle: list[Link] = attrs.Factory(list)
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _is_open: bool = True
    # The numbers of those of which it is not known whether they were committed. The same function is given again, until
    # the writer ends, and this with it.
    _in_doubt: dict[Callable[[Any], Advance], int] = attrs.Factory(dict)
    # How often those have lost their connection while they worked, and since when.
    _losses: dict[Callable[[Any], Advance], tuple[int, float]] = attrs.Factory(dict)

    def run(self, fence: Fence, fn: Callable[[Any], Advance], *, seconds_max: float) -> Any:
        """Commit what a function writes together with the ``Advance`` it returns (see ``Store.transact``).

        Raises:
            ConnectionLost, StoreAway: give the same function again.
            ServerError: the server's; nothing is committed.
            StepFailed, StepTimeout: the function has spoilt its transaction, or took too long.
        """
        number = self._in_doubt.pop(fn, None)
        if number is not None:
            self._ledger.resent_count += 1
        else:
            number = self._ledger.next_number()
        try:
            with self._used() as wire:
                outcome = _Call(wire, self._ledger, self._schema, fence, number).until_it_passes(fn, seconds_max)
        except (ConnectionLost, StoreAway, ServerError) as error:  # the last of these may come before it is known
            if isinstance(error, ConnectionLost) and error.is_at_work:
                self._note_loss(fn, error)
            self._in_doubt[fn] = number
            raise
        except BaseException:  # the function's own: it is not given again
            self._losses.pop(fn, None)
            raise
        self._losses.pop(fn, None)
        return outcome

    def _note_loss(self, fn: Callable[[Any], Advance], error: ConnectionLost) -> None:
        """Give a function up that cannot keep its connection, so that its run does not go on like that for ever."""
        now = time.monotonic()
        count, since = self._losses.pop(fn, (0, now))
        if count + 1 >= _LOSSES_MAX and now >= since + _LOSSES_SECONDS:
            raise StepFailed(
                f"the connection was lost {count + 1} times in a row while the function worked, "
                f"which may be what it does: {error}"
            ) from error
        self._losses[fn] = count + 1, since

    def close(self) -> None:
        """Let go of the connections; of those in use, when they are given back."""
        self._is_open = False
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def hurry(self, seconds_max: float) -> None:
        """Wait for the server no longer than so many seconds from now on; functions have their own time."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.hurry(seconds_max)

    @contextmanager
    def _used(self) -> Iterator[Wire]:
        with self._lock:
            if not self._idle:
                self._idle.append(Link(self._make))
                self._links.append(self._idle[-1])
            link = self._idle.pop()
        try:
            with link.used() as wire:
                try:
                    yield wire
                finally:
                    wire.renew()
        finally:
            with self._lock:
                if self._is_open:
                    self._idle.append(link)
            if not self._is_open:
                link.close()


@attrs.define(eq=False)
class _Call:
    """One function on one connection, as often as it takes."""

    _wire: Wire
    _ledger: Ledger
    _schema: str
    _fence: Fence
    _number: int

    def until_it_passes(self, fn: Callable[[Any], Advance], seconds_max: float) -> Any:
        until = time.monotonic() + seconds_max
        for pause_seconds_max in _PAUSES_SECONDS_MAX:
            try:
                return self._once(fn, seconds_max, until)
            except ConnectionLost as error:
                if error.sqlstate == IDLE_TOO_LONG:  # between two statements; and so nothing is committed
                    raise _late(seconds_max) from error
                raise
            except (psycopg.Error, ServerError) as error:
                if isinstance(error, ServerError) and is_other_past(error):
                    raise self._wire.give_up(error) from error
                self._wire.roll_back()
                if isinstance(error, ServerError) and is_known_commit(error):
                    outcome = self._ledger.decided(self._number)
                    self._ledger.acknowledge(self._number)
                    return outcome
                # What the store asks may be cancelled by somebody; the function's own statements are its own.
                if not (error.may_be_tried_again if isinstance(error, ServerError) else error.sqlstate in CONFLICTS):
                    raise
                if time.monotonic() >= until:
                    raise _late(seconds_max) from error
                time.sleep(random.uniform(0, pause_seconds_max))
        raise _late(seconds_max)

    def _once(self, fn: Callable[[Any], Advance], seconds_max: float, until: float) -> Any:
        wire = self._wire
        transaction = Transaction(wire, self._ledger.instance, dead=self._ledger.dead)
        milliseconds = str(max(1, round((until - time.monotonic()) * 1000) + _LATE_MS))
        _, _, found, guard, *_ = wire.exchange(
            [
                Request("BEGIN"),
                self._ledger.request(self._number),
                Request(FIND_OWNER, (self._fence.run,)),
                Request(GUARD),
                Request(SET, ("statement_timeout", milliseconds)),
                Request(SET, ("idle_in_transaction_session_timeout", milliseconds)),
                # The tables of the store are not seen by a function that does not name their schema.
                *_USERS_SETTINGS,
            ]
        )
        if not found.rows or found.rows[0][1:] != (self._fence.owner, self._fence.token):
            raise fence_lost(self._fence, found.rows[0] if found.rows else None)
        ((own,),) = guard.rows
        advance = self._call(fn, seconds_max, until)
        if advance.fence != self._fence:
            raise ValueError(f"the function returned an Advance of {advance.fence}, not of {self._fence}")
        if self._assigned() != own:
            raise StepFailed("the function has ended its transaction; nothing of it was committed with the step")
        self._settle(own, until)
        try:
            (outcome,) = apply_within(transaction, [advance])
        except ServerError as error:
            if error.is_of_operation:
                raise _unfit(error) from error
            raise
        if isinstance(outcome, OwnershipLost):
            raise outcome
        if outcome is not True:
            return outcome  # what is open is rolled back
        self._ledger.decide(self._number, True)
        wire.exchange([Request("COMMIT")])
        self._ledger.acknowledge(self._number)
        return True

    def _assigned(self) -> int | None:
        """Return the transaction that goes on after the function, which is this process's role's again."""
        if not self._wire.is_in_transaction:
            return None
        try:
            *_, found = self._wire.exchange(
                [
                    Request("SET LOCAL statement_timeout = 0"),
                    Request("SET LOCAL lock_timeout = 0"),
                    Request("SET LOCAL SESSION AUTHORIZATION DEFAULT"),
                    Request("SET LOCAL ROLE NONE"),
                    Request(OWN_TRANSACTION),
                ]
            )
        except ServerError as error:
            if error.may_be_tried_again:
                raise
            raise StepFailed(f"the function has left its transaction broken; nothing was committed: {error}") from error
        ((number, may_write),) = found.rows
        if not may_write:
            raise StepFailed("the function has made its transaction read-only; nothing was committed")
        return None if number is None else int(number)

    def _settle(self, own: int, until: float) -> None:
        """Have done what the function has left for the commit: what fails of that is of the function.

        Constraints and triggers that were deferred find the settings that it has left. Then all are the store's again.
        """
        milliseconds = str(max(1, round((until - time.monotonic()) * 1000) + _LATE_MS))
        try:
            self._wire.exchange(
                [
                    Request(SET, ("statement_timeout", milliseconds)),
                    Request(UNGUARD.format(schema=quoted(self._schema)), (str(own),)),
                    Request("SET CONSTRAINTS ALL IMMEDIATE"),
                    *map(Request, (*self._wire.settings, *ENGINE)),
                ]
            )
        except ConnectionLost as error:
            if error.sqlstate == READ_ONLY:  # another server's: this one could be written to just now
                raise _unfit(error) from error
            raise
        except ServerError as error:
            if error.is_full or error.may_be_tried_again:
                raise
            raise _unfit(error) from error

    def _call(self, fn: Callable[[Any], Advance], seconds_max: float, until: float) -> Advance:
        with self._wire.lent() as pgconn:
            connection = GuardedConnection(pgconn, until)
            failure: Exception | None = None
            try:
                result = fn(connection)
            except Exception as error:
                failure = error
            finally:
                connection.end()
            left = pgconn.transaction_status
        if connection.fault is not None:
            raise _of_server(connection.fault) from failure
        if left == pq.TransactionStatus.UNKNOWN:
            raise ConnectionLost("the connection was lost", is_at_work=True) from failure
        if time.monotonic() > until:
            raise _late(seconds_max) from failure
        if connection.conflict is not None and (left == pq.TransactionStatus.INERROR or _is_of(failure, connection)):
            raise connection.conflict
        if failure is not None:
            raise failure
        if left == pq.TransactionStatus.ACTIVE:
            raise StepFailed("the function has left a statement under way; nothing was committed")
        return result


def _late(seconds_max: float) -> StepTimeout:
    return StepTimeout(f"the transaction took longer than {seconds_max:g} s; nothing of it was committed")


def _is_of(failure: BaseException | None, connection: GuardedConnection) -> bool:
    """Return whether a function has failed by a conflict. A savepoint around it has mended the transaction by then."""
    seen: set[int] = set()
    while failure is not None and id(failure) not in seen:
        if failure is connection.conflict:
            return True
        seen.add(id(failure))
        failure = failure.__cause__ or failure.__context__
    return False


def _of_server(error: psycopg.Error) -> Exception:
    found = server_error(error)
    return found if found.is_full else ConnectionLost(str(error), sqlstate=found.sqlstate, is_at_work=True)


def _unfit(error: ServerError | ConnectionLost) -> StepFailed:
    return StepFailed(f"what the function has done cannot be committed: {error}", type=qualified_name(type(error)))
