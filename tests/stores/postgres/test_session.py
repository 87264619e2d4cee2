"""The connection by which a store is seen to be open."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from urllib.parse import quote

import psycopg
import pytest

from durable_trio.stores.postgres import session as session_module
from durable_trio.stores.postgres.locks import is_free
from durable_trio.stores.postgres.schema import migrate, quoted
from durable_trio.stores.postgres.session import POLL_SECONDS, Session
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import Place, parse_url
from durable_trio.stores.postgres.wire import Wire
from tests.stores.postgres.kit import Rows

IS_FREE = f"SELECT {is_free('$1', '$2')}"
END_BACKENDS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid
        AND classid = ($2::bigint & 4294967295)::oid
"""


HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid
        AND classid = ($2::bigint & 4294967295)::oid
"""


@pytest.fixture
def wire(place: Place) -> Iterator[Wire]:
    """A connection to look with."""
    made = place.connect()
    yield made
    made.close()


@pytest.fixture
def sessions(place: Place) -> Iterator[Callable[[], Session]]:
    """Makes sessions, which are closed at the end."""
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(place, place.connect()))
        return made[-1]

    yield make
    for each in made:
        each.close()


def is_there(wire: Wire, session: Session) -> bool:
    """Return whether others see a store."""
    return not wire.execute(IS_FREE, session.lock_class, session.instance).rows[0][0]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not condition():
        time.sleep(0.005)


def has_rung(session: Session, seconds: float) -> bool:
    """Wait for the bell, and return whether it has rung."""
    return bool(select.select([session.doorbell], [], [], seconds)[0])


def test_a_store_is_seen_to_be_there_until_it_is_closed(wire: Wire, sessions: Callable[[], Session]) -> None:
    first, second = sessions(), sessions()
    assert first.instance != second.instance
    assert is_there(wire, first)
    assert is_there(wire, second)
    first.close()
    assert not is_there(wire, first)
    assert is_there(wire, second)


def test_what_one_commits_rings_the_bell_of_others_and_not_its_own(sessions: Callable[[], Session]) -> None:
    first, second, third = sessions(), sessions(), sessions()
    first.tell_others()
    assert has_rung(second, 30)
    assert has_rung(third, 30)
    assert second.has_been_told()
    assert not has_rung(first, 0)


def test_many_commits_ring_a_few_times(sessions: Callable[[], Session]) -> None:
    first, second = sessions(), sessions()
    began = time.monotonic()
    for _ in range(1000):
        first.tell_others()
        time.sleep(0.0002)
    rung = 0
    while has_rung(second, 0.3 if rung else 30):
        rung += len(os.read(second.doorbell, 100))
    assert 1 <= rung <= 2 + (time.monotonic() - began) / 0.05


def test_who_is_not_told_looks_all_the_same(sessions: Callable[[], Session], monkeypatch: pytest.MonkeyPatch) -> None:
    session = sessions()
    assert session.poll_seconds == POLL_SECONDS
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + POLL_SECONDS / 2)
    assert not session.has_been_told()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1.1 * POLL_SECONDS)
    assert session.has_been_told()
    assert not session.has_been_told()


def test_a_connection_that_is_lost_is_made_anew_and_the_lock_taken_again(
    wire: Wire, sessions: Callable[[], Session]
) -> None:
    session, other = sessions(), sessions()
    assert wire.execute(END_BACKENDS, session.instance, session.lock_class).rows == [(True,)]
    assert has_rung(session, 30)  # it may have missed something
    wait_until(lambda: is_there(wire, session))
    other.tell_others()
    wait_until(session.has_been_told)


def test_two_schemas_disturb_each_other_in_nothing(
    place: Place, other_place: Place, wire: Wire, sessions: Callable[[], Session]
) -> None:
    session, other = sessions(), Session(other_place, other_place.connect())
    assert session.lock_class != other.lock_class
    other.tell_others()
    other.close()
    assert is_there(wire, session)
    assert not has_rung(session, 0.2)


@pytest.mark.parametrize("name", ["A.b", 'Say "so"', "X; SELECT 1 --", "Größe"])
def test_a_schema_may_have_any_name(url: str, name: str) -> None:
    """One that differs from another in nothing but capitals is a store of its own."""
    base = url.rpartition("=")[0]
    places = [parse_url(f"{base}={quote(each)}") for each in (name, name.lower())]
    with psycopg.connect(places[0].conninfo, autocommit=True) as connection, ExitStack() as opened:
        classes = set()
        for place in places:
            opened.callback(connection.execute, f"DROP SCHEMA {quoted(place.schema)} CASCADE".encode())
            with closing(place.connect()) as wire:
                migrate(wire, place.schema, place.name)
            session = opened.enter_context(closing(Session(place, place.connect())))
            classes.add(session.lock_class)
        assert len(classes) == 2


def test_who_leaves_in_order_leaves_nothing_behind(wire: Wire, sessions: Callable[[], Session]) -> None:
    first, second = sessions(), sessions()
    first.close()
    assert wire.execute("SELECT instance FROM instances").rows == [(second.instance,)]


def test_a_fault_inside_ends_no_session(
    sessions: Callable[[], Session], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wire: Wire
) -> None:
    """Else the store would seem gone, and lose its runs, while it works."""
    take, faults = Wire.take_notifications, [ZeroDivisionError("a fault")]

    def fails_once(self: Wire) -> list[str]:
        if faults:
            raise faults.pop()
        return take(self)

    session = sessions()
    monkeypatch.setattr(Wire, "take_notifications", fails_once)
    session.tell_others()
    assert has_rung(session, 30)  # it is back
    wait_until(lambda: is_there(wire, session))
    assert "has failed, and begins anew" in caplog.text


def test_where_nobody_can_be_told_the_lock_is_kept(
    wire: Wire, sessions: Callable[[], Session], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else this store would seem gone again and again, and others would take its runs."""
    monkeypatch.setattr(session_module, "NOTIFY", "SELECT 1 / 0, $1::text, $2::text")
    session = sessions()
    holders = wire.execute(HOLDER, session.instance, session.lock_class).rows
    session.tell_others()
    wait_until(lambda: session._is_mute)
    assert wire.execute(HOLDER, session.instance, session.lock_class).rows == holders
    session.tell_others()
    wait_until(lambda: not session._must_tell)
    session.close()
    told = [record for record in caplog.records if getattr(record, "event", "") == "store_mute"]
    assert len(told) == 1


def test_any_number_of_stores_that_are_gone_is_forgotten(store: PostgresStore, rows: Rows) -> None:
    """Some at a time: the server has no room for a lock of each."""
    gone, day = 20_000, 86_400 * 1_000_000
    rows.execute(
        f"INSERT INTO instances (instance, process, postmaster, opened_at) "
        f"SELECT 2000000000 + n, 'gone', postmaster, 1 FROM instances, generate_series(1, {gone}) AS n"
    )
    store.tidy()
    assert 0 < rows.one("SELECT count(*) FROM instances WHERE free_since IS NOT NULL") < gone
    rows.execute(f"UPDATE instances SET free_since = opened_at - {day} WHERE process = 'gone'")
    store.tidy()
    left = rows.all("SELECT count(*) FILTER (WHERE process = 'gone'), count(*) FROM instances")
    assert left[0][0] < gone
    assert left[0][1] == left[0][0] + 1  # it is there itself


def test_a_schema_that_is_made_anew_is_another_place(new_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a backup that is restored: locks are of the new one, where others look for them."""
    monkeypatch.setattr(session_module, "_HEARTBEAT_SECONDS", 0.05)
    place = parse_url(new_url)
    with closing(place.connect()) as wire:
        migrate(wire, place.schema, place.name)
        with closing(Session(place, place.connect())) as session:
            before = session.lock_class
            wire.execute(f"DROP SCHEMA {quoted(place.schema)} CASCADE")
            migrate(wire, place.schema, place.name)
            wait_until(lambda: session.lock_class != before and session.is_up)
            wait_until(lambda: is_there(wire, session))
            assert wire.execute("SELECT instance FROM instances").rows == [(session.instance,)]
