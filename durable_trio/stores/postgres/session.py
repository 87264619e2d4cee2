"""The connection by which a store is seen to be open: it holds the lock of its instance, and it carries the bell.

It belongs to a thread of its own. Twenty times a second at most it tells the others that something was committed, never
within a commit: a NOTIFY there holds a lock that all commits of the server wait for. What others tell rings the
*doorbell*, as rarely. A lost one costs nothing but time: it is looked every ``POLL_SECONDS`` all the same.

When the connection is lost another one is made. Until it has the lock again this store seems gone, and others wait
for its lease to pass (``answers.executors``).
"""

from __future__ import annotations

import secrets
import selectors
import threading
import time
from contextlib import suppress
from typing import Final

from durable_trio.errors import StoreError
from durable_trio.logger import Logger
from durable_trio.processes import ProcessIdentity
from durable_trio.stores.postgres.bell import Bell
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError
from durable_trio.stores.postgres.locks import FIND_LOCK_CLASS, LET_GO, POSTMASTER, SCHEMA, TAKE_LOCK, is_free
from durable_trio.stores.postgres.transaction import NOW
from durable_trio.stores.postgres.url import Place
from durable_trio.stores.postgres.wire import Request, Wire

__all__ = ["DOUBT_SECONDS", "FORGET_INSTANCES", "NOTE_FREE", "NOTIFY", "POLL_SECONDS", "Session"]

_LOGGER: Final = Logger("durable_trio.store")

POLL_SECONDS: Final = 1.0
_POLL_SECONDS_WITHOUT: Final = 0.25  # while there is no session that would ring
# A connection whose other end has gone without a word is noticed only by speaking.
_HEARTBEAT_SECONDS: Final = 5.0
#: By then a session that was cut, while the server was there, holds its lock again.
DOUBT_SECONDS: Final = 1.0
_RINGS_APART_SECONDS: Final = 0.05
_RETRY_SECONDS: Final = (0.02, 1.0)
_ANSWER_SECONDS_MAX: Final = 10.0
_LEAVING_SECONDS_MAX: Final = 1.0
_LOCK_RETRY_SECONDS: Final = 0.2  # while the server has not noticed that the connection before has gone

# A number of a store is given to no other one, also not by a server that has lost what was last committed.
_INSTANCE_MAX: Final = 2**31 - 1
# By then one whose connection was cut is there again.
_FORGOTTEN_AFTER_SECONDS: Final = 86_400

ADD_INSTANCE: Final = f"""
    INSERT INTO instances (instance, process, postmaster, opened_at) VALUES ($1::bigint, $2::text, {POSTMASTER}, {NOW})
    ON CONFLICT DO NOTHING
"""
# In a database that has lost it, it is stored again.
KEEP_INSTANCE: Final = f"""
    INSERT INTO instances (instance, process, postmaster, opened_at)
    VALUES ($1::bigint, $2::text, {POSTMASTER}, {NOW})
    ON CONFLICT (instance) DO UPDATE SET postmaster = excluded.postmaster, free_since = NULL
"""
# A look takes a lock for each that is free, in memory that all of the server's databases share: so some at a time are
# looked at, any of them. One that has come back says so itself. Who looks at the same time looks at others.
_LOOKED_AT_MAX: Final = 200


def _free_of(which: str) -> str:
    """Return the question which instances nobody holds, of those that are looked at."""
    return f"""
        SELECT instance FROM (
            SELECT instance, {is_free("$1", "instance")} AS is_free FROM (
                SELECT instance FROM instances WHERE {which} ORDER BY random() LIMIT {_LOOKED_AT_MAX}
                FOR UPDATE SKIP LOCKED
            ) AS chosen OFFSET 0
        ) AS looked WHERE is_free
    """


NOTE_FREE: Final = f"""
    UPDATE instances SET free_since = {NOW} WHERE instance IN ({_free_of("free_since IS NULL")})
"""
_OWNS_NOTHING: Final = """
    NOT EXISTS (
        SELECT 1 FROM executors WHERE executors.instance = instances.instance
            AND (ended_at IS NULL OR EXISTS (SELECT 1 FROM runs WHERE owner = executors.id))
    )
"""
_FORGET: Final = f"""
    WITH gone AS (DELETE FROM instances WHERE {_OWNS_NOTHING} AND {{which}} RETURNING instance)
    DELETE FROM commits USING gone WHERE commits.instance = gone.instance
"""
# Stores that are gone, and that own nothing any more.
_LONG_FREE: Final = f"free_since < {NOW} - {_FORGOTTEN_AFTER_SECONDS} * 1000000::bigint"
FORGET_INSTANCES: Final = _FORGET.format(which=f"instance IN ({_free_of(_LONG_FREE)})")
FORGET_OWN: Final = _FORGET.format(which="instance = $1::bigint")
FIND_CHANNEL: Final = f"SELECT 'durable_trio_' || {SCHEMA}, current_setting('max_connections')"
NOTIFY: Final = "SELECT pg_notify($1, $2)"


class Session:
    """An open store, as others see it.

    Args:
        place: where to connect when the connection is lost.
        wire: a connection to it. It is this object's from now on, also if it cannot be made.

    Raises:
        ConnectionLost: the server has gone meanwhile.
    """

    def __init__(self, place: Place, wire: Wire) -> None:
        self._place = place
        try:
            _prepare(wire)
            self._find_place(wire)
            self.instance = _new_instance(wire)
            if not self._take_lock(wire):
                raise StoreError(f"{place.name}: somebody else holds the lock of the new instance {self.instance}")
            wire.execute(f'LISTEN "{self._channel}"')
        except BaseException:
            wire.close()
            raise
        #: Readable once others have told that they have committed something.
        self._bell = Bell()
        self.doorbell = self._bell.descriptor
        self._wake = Bell()
        #: Whether the lock is held and others can ring.
        self.is_up = True
        self._must_tell = False  # this store has committed, and others do not know
        self._is_mute = False  # others cannot be told
        self._is_closing = False
        self._looked_at = time.monotonic()
        self._was_told = False  # others have committed, and this store has not looked
        self._thread = threading.Thread(target=self._serve, args=(wire,), name="durable_trio session", daemon=True)
        self._thread.start()

    @property
    def poll_seconds(self) -> float:
        """How long to wait for the bell at most."""
        return POLL_SECONDS if self.is_up else _POLL_SECONDS_WITHOUT

    def tell_others(self) -> None:
        """Let others know, soon, that something was committed."""
        if not self._must_tell:
            self._must_tell = True
            self._wake.ring()

    def has_been_told(self) -> bool:
        """Return whether others have told of a commit since this was last asked, or have had long enough to do so."""
        now = time.monotonic()
        if self._was_told or now - self._looked_at >= self.poll_seconds:
            self._was_told, self._looked_at = False, now
            return True
        return False

    def close(self) -> None:
        """Leave: others see at once that this store is gone. Twice is nothing."""
        if self._is_closing:
            return
        self._is_closing = True
        self._wake.ring()
        self._thread.join()
        self._wake.close()
        self._bell.close()

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _serve(self, wire: Wire | None) -> None:
        pause = _RETRY_SECONDS[0]
        while not self._is_closing:
            try:
                if wire is None:
                    wire = self._come_back()
                    pause = _RETRY_SECONDS[0]
                    self._ring()  # who knows what was missed
                self._listen(wire)
            except Exception as error:
                if not isinstance(error, StoreError | ConnectionLost | ServerError):
                    _LOGGER.error("the session with %s has failed, and begins anew", self._place.name, exc_info=error)
                self.is_up = False
                if wire is not None:
                    wire.close()
                wire = None
                self._rest(pause)
                pause = min(2 * pause, _RETRY_SECONDS[1])
        if wire is not None:
            self._leave(wire)

    def _leave(self, wire: Wire) -> None:
        """Let go of the lock, and know that it is free: the server notices only some time later who has gone."""
        wire.seconds_max = _LEAVING_SECONDS_MAX
        with suppress(ConnectionLost, ServerError):
            wire.exchange([Request(LET_GO), Request(FORGET_OWN, (self.instance,))])
        wire.close()

    def _come_back(self) -> Wire:
        """Return a new connection that holds the lock."""
        wire = self._place.connect()
        try:
            _prepare(wire)
            self._find_place(wire)
            while not self._take_lock(wire):  # the server may take the one before for alive
                self._rest(_LOCK_RETRY_SECONDS)
                if self._is_closing:
                    raise ConnectionLost("this store is being closed")
            wire.execute(KEEP_INSTANCE, self.instance, str(ProcessIdentity.own()))
            wire.execute(f'LISTEN "{self._channel}"')
        except BaseException:
            wire.close()
            raise
        self.is_up = True
        return wire

    def _find_place(self, wire: Wire) -> None:
        """See of which schema locks and bells are: it may have been made anew, from a backup."""
        ((self.lock_class,),) = wire.execute(FIND_LOCK_CLASS).rows
        if self.lock_class is None:
            raise StoreError(f"{self._place.name}: the schema is gone")
        ((self._channel, self._place.said["max_connections"]),) = wire.execute(FIND_CHANNEL).rows

    def _take_lock(self, wire: Wire) -> bool:
        return bool(wire.execute(TAKE_LOCK, self.lock_class, self.instance).rows[0][0])

    def _listen(self, wire: Wire) -> None:
        """Pass on what rings, here and elsewhere, until the store is closed."""
        own, told_at, rung_at = str(self.instance), 0.0, 0.0
        is_due = False  # others have rung, and the bell has not
        with selectors.DefaultSelector() as selector:
            selector.register(wire.socket, selectors.EVENT_READ)
            selector.register(self._wake.descriptor, selectors.EVENT_READ)
            beat_at = time.monotonic() + _HEARTBEAT_SECONDS
            while not self._is_closing:
                now = time.monotonic()
                until = beat_at
                if self._must_tell:
                    until = min(until, told_at + _RINGS_APART_SECONDS)
                if is_due:
                    until = min(until, rung_at + _RINGS_APART_SECONDS)
                selector.select(max(0.0, until - now))
                self._wake.silence()
                now = time.monotonic()
                is_due = any(text != own for text in wire.take_notifications()) or is_due
                if is_due and now >= rung_at + _RINGS_APART_SECONDS:
                    is_due, rung_at = False, now
                    self._ring()
                if self._must_tell and now >= told_at + _RINGS_APART_SECONDS:
                    self._must_tell, told_at = False, now
                    self._notify(wire)
                    beat_at = now + _HEARTBEAT_SECONDS
                elif now >= beat_at:
                    if wire.execute(FIND_LOCK_CLASS).rows != [(self.lock_class,)]:
                        raise ConnectionLost("the schema has been made anew")
                    beat_at = now + _HEARTBEAT_SECONDS

    def _notify(self, wire: Wire) -> None:
        """Tell others. If the server has no room for that, or forbids it, they look by themselves: the lock is kept."""
        try:
            wire.execute(NOTIFY, self._channel, str(self.instance))
        except ServerError as error:
            if not self._is_mute:
                _LOGGER.warning(
                    "%s does not let others be told of commits: they notice them up to %g s later: %s",
                    self._place.name,
                    POLL_SECONDS,
                    error,
                    extra={"event": "store_mute"},
                )
            self._is_mute = True
        else:
            self._is_mute = False

    def _ring(self) -> None:
        self._was_told = True
        self._bell.ring()

    def _rest(self, seconds: float) -> None:
        """Wait, but not once the store is to be closed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake.descriptor, selectors.EVENT_READ)
            selector.select(seconds)
            self._wake.silence()


def _prepare(wire: Wire) -> None:
    wire.seconds_max = _ANSWER_SECONDS_MAX
    # What is written here need not outlive the server; so nobody who only wants to look waits for a standby.
    wire.execute("SET synchronous_commit = off")


def _new_instance(wire: Wire) -> int:
    while True:
        instance = 1 + secrets.randbelow(_INSTANCE_MAX)
        if wire.execute(ADD_INSTANCE, instance, str(ProcessIdentity.own())).changed:
            return instance
