"""What becomes of a store when its server goes, is full, refuses, hangs, or has lost what it had acknowledged."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from durable_trio.errors import DurableError, OwnershipLost, StoreAway, StoreCorrupt, StoreError, StoreFull
from durable_trio.stores.contract import Advance
from durable_trio.stores.postgres import guarded
from durable_trio.stores.postgres import store as store_module
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.questions import CountRuns, FindRun, ListExecutors, ListHistory, LoadRun
from durable_trio.testing.store_contract.kit import (
    add,
    claim,
    fence_of,
    one,
    owned,
    register,
    row_of,
    start,
    start_operation,
    step,
)
from durable_trio.testing.store_contract.kit import (
    signal as send,
)
from tests.kit.postgres import port_of, server
from tests.kit.proxy import Proxy
from tests.stores.postgres.kit import Doing, Rows, connect, wait_until

_PATIENCE_SECONDS = 30


def again_until_it_is_back(store: PostgresStore, batch: list[Any]) -> list[Any]:
    """Give the same batch until the server is there, as the engine does."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            outcomes = store.apply(batch)
        except StoreAway:
            assert time.monotonic() < until
            time.sleep(0.02)
        else:
            assert outcomes is not None
            return outcomes


@contextmanager
def commits_that_hang(rows: Rows, url: str) -> Iterator[None]:
    """Around a block in which whoever waits for standbys as well waits for one that is not there."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'probe'"
    rows.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    rows.execute("SELECT pg_reload_conf()")
    with connect(url) as connection:
        connection.execute("SET application_name = probe")
        connection.execute("SET synchronous_commit = on")
        try:
            while True:  # the process of the server that has to know of the setting may not know yet
                probe = Doing(lambda: connection.execute("SELECT pg_logical_emit_message(true, 'probe', '')"))
                wait_until(lambda probe=probe: probe.is_done or rows.one(waiting) == 1)  # type: ignore[misc]
                if not probe.is_done:
                    break
            yield
        finally:
            rows.execute("ALTER SYSTEM RESET synchronous_standby_names")
            rows.execute("SELECT pg_reload_conf()")
        probe.result()


@contextmanager
def refusing(rows: Rows, state: str, *, table: str = "runs") -> Iterator[None]:
    """Around a block in which the server refuses to write into a table."""
    rows.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{state}'; END $$"
    )
    rows.execute(f"CREATE TRIGGER refuses BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()")
    try:
        yield
    finally:
        rows.execute("DROP FUNCTION refuse() CASCADE")


# ---- the server goes -------------------------------------------------------------------------------------------------


def backends(rows: Rows) -> list[int]:
    """Return the server's processes that work for others."""
    return [
        pid
        for (pid,) in rows.all(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'durable_trio' AND pid <> pg_backend_pid()"
        )
    ]


def test_connections_that_the_server_has_ended_are_made_anew_without_a_word(store: PostgresStore, rows: Rows) -> None:
    row, fence = owned(store)
    assert store.ask(FindRun("run")) == row
    for pid in backends(rows):
        rows.execute("SELECT pg_terminate_backend(%s, 10000)", pid)
    add(store, fence, step(1))
    assert store.ask(LoadRun(row.run)).history == (step(1),)
    assert store.read_clock() > 0
    store.tidy()


@pytest.mark.skipif("DURABLE_TRIO_TEST_PG" in os.environ, reason="the server is not ours to stop")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_store_outlives_its_server(url: str, how: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    """Runs stay its own: nobody takes it for dead, for its lease goes on."""
    store = PostgresStore(url)
    store.open()
    try:
        _must_outlive_its_server(store, url, how)
    finally:
        store.close()
    assert not caplog.records


def _must_outlive_its_server(store: PostgresStore, url: str, how: signal.Signals) -> None:
    row, fence = owned(store)
    server().stop(how)
    batch: list[Any] = [Advance(fence=fence, rows=(step(1),), now=20), start_operation("other")]
    for _ in range(2):
        with pytest.raises(StoreAway, match="cannot be reached"):
            store.apply(batch)
    with pytest.raises(StoreAway):
        store.ask(FindRun("run"))
    with pytest.raises(ValueError, match="another batch"):
        store.apply([start_operation("third")])
    server().start()
    advanced, started = again_until_it_is_back(store, batch)
    assert (advanced, started.created) == (True, True)
    assert store.ask(LoadRun(row.run)).history == (step(1),)
    seen: list[bool | None] = []

    def is_seen_to_be_there() -> bool:
        seen.append(store.ask(ListExecutors())[0].is_locked)
        return seen[-1] is True

    wait_until(is_seen_to_be_there)
    assert False not in seen, "it was taken for gone"


# ---- the server is there, and cannot ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("53100", StoreFull, "is full"),
        ("XX001", StoreCorrupt, "is damaged"),
        ("XX002", StoreCorrupt, "is damaged"),
        ("42501", StoreError, "migrate --grants"),
        ("57P01", StoreAway, "cannot be reached"),
        ("57P02", StoreAway, "cannot be reached"),
        ("57P03", StoreAway, "cannot be reached"),
        ("25006", StoreAway, "cannot be reached"),
        ("08006", StoreAway, "cannot be reached"),
        ("53300", StoreAway, "too many connections"),
        ("53200", StoreAway, "cannot do it now"),
        ("40P01", StoreAway, "cannot do it now"),
        ("40001", StoreAway, "cannot do it now"),
        ("57014", StoreAway, "cannot do it now"),
    ],
)
def test_what_the_server_refuses_is_said_in_our_words(
    store: PostgresStore, rows: Rows, state: str, kind: type[DurableError], said: str
) -> None:
    """Nothing was done; and the same batch is done once it can be."""
    batch = [start_operation("run")]
    with refusing(rows, state):
        with pytest.raises(kind, match=said) as raised:
            store.apply(batch)
        assert type(raised.value) is kind
    assert store.ask(FindRun("run")) is None
    (outcome,) = again_until_it_is_back(store, batch)
    assert outcome.created


def test_a_batch_in_doubt_stays_so_while_there_is_no_room(url: str, rows: Rows) -> None:
    """It may have been committed before: whoever takes it for undone does it twice."""
    proxy = Proxy(port_of(url))
    store = PostgresStore(proxy.url(url))
    store.open()
    try:
        batch = [start_operation("run")]
        with proxy.cut(loses_reply=True), pytest.raises(StoreAway):
            store.apply(batch)
        with refusing(rows, "53100", table="commits"), pytest.raises(StoreAway, match="is full"):
            store.apply(batch)
        with pytest.raises(ValueError, match="another batch"):
            store.apply([start_operation("other")])
        (outcome,) = again_until_it_is_back(store, batch)
        assert outcome.created
    finally:
        store.close()
        proxy.close()


def test_a_server_that_only_reads_is_one_that_is_away(store: PostgresStore, rows: Rows) -> None:
    rows.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        for pid in backends(rows):
            rows.execute("SELECT pg_terminate_backend(%s, 10000)", pid)
        batch = [start_operation("run")]
        with pytest.raises(StoreAway, match="read-only"):
            store.apply(batch)
    finally:
        rows.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    assert again_until_it_is_back(store, batch)[0].created


def test_too_many_connections_are_an_outage_that_names_the_limit(store: PostgresStore, url: str, rows: Rows) -> None:
    held: list[psycopg.Connection[Any]] = []
    limit = rows.one("SHOW max_connections")
    try:
        with pytest.raises(psycopg.OperationalError):
            held.extend(iter(lambda: psycopg.connect(parse_url(url).conninfo), None))
        with pytest.raises(StoreAway, match=f"too many connections \\(of {limit}; each process takes"):
            register(store)
        with pytest.raises(StoreAway, match="too many connections"):
            PostgresStore(url).open()
    finally:
        for each in held:
            each.close()


# ---- it does not answer ----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, url: str, rows: Rows) -> Iterator[PostgresStore]:
    """A store that waits for an answer only a moment, and for standbys as for the disk."""
    monkeypatch.setattr(store_module, "_ANSWER_SECONDS_MAX", 0.2)
    store = PostgresStore(url)
    store.open()
    yield store
    store.close()


def test_a_commit_that_hangs_is_given_up_and_found_later(impatient: PostgresStore, rows: Rows, url: str) -> None:
    """Whoever waits for a standby that is not there has committed: it is there once the wait is over."""
    _, fence = owned(impatient)
    batch = [Advance(fence=fence, rows=(step(1),), now=20)]
    with commits_that_hang(rows, url):
        for _ in range(3):
            with pytest.raises(StoreAway, match="in time"):
                impatient.apply(batch)
        assert [each for each in impatient.ask(CountRuns()).warnings if "none is connected: commits wait" in each]
        # Who is no longer waited for does not wait in the server either, but the first.
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: rows.one(waiting) == 0)
    assert again_until_it_is_back(impatient, batch) == [True]
    assert impatient.ask(ListHistory(fence.run)) == (step(1),)


def test_a_wait_for_a_standby_that_was_cut_short_is_a_reply_that_was_lost(
    store: PostgresStore, url: str, rows: Rows
) -> None:
    full = PostgresStore(url)
    full.open()
    try:
        batch = [start_operation("run")]
        with commits_that_hang(rows, url):
            doing = Doing(lambda: full.apply(batch))
            waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name <> 'probe'"
            wait_until(lambda: bool(rows.all(waits)))
            rows.execute(f"SELECT pg_cancel_backend(pid) FROM ({waits}) AS waiting")
            (outcome,) = doing.result()  # it is asked for again at once, and found
        assert outcome.created
        assert full._ledger.found_count == 1
    finally:
        full.close()


def test_who_leaves_waits_only_a_moment_longer(
    monkeypatch: pytest.MonkeyPatch, url: str, rows: Rows, store: PostgresStore
) -> None:
    monkeypatch.setattr(store_module, "_LEAVING_SECONDS_MAX", 0.1)
    full = PostgresStore(url)
    full.open()
    try:
        with commits_that_hang(rows, url):
            doing = Doing(lambda: full.apply([start_operation("run")]))
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name <> 'probe'"
            wait_until(lambda: bool(rows.all(waits)))
            full.hurry()
            with pytest.raises(StoreAway, match="in time"):
                doing.result()
    finally:
        full.close()


def test_a_question_does_not_wait_for_a_server_that_says_nothing(impatient: PostgresStore) -> None:
    assert impatient.ask(LoadRun(1)).history == ()
    with impatient._readers[False].used() as wire:
        pid = wire.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreAway, match="in time"):
            impatient.ask(LoadRun(1))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert impatient.ask(LoadRun(1)).history == ()


def test_a_function_does_not_wait_for_a_server_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch, store: PostgresStore, rows: Rows
) -> None:
    monkeypatch.setattr(guarded, "_GRACE_SECONDS", 0.0)
    _, fence = owned(store)
    stopped: list[int] = []

    def pay(connection: Any) -> Advance:
        pid = connection.info.backend_pid
        if not stopped:
            stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)
        connection.execute("SELECT 1")
        return Advance(fence=fence, rows=(step(1),), now=20)

    try:
        with pytest.raises(StoreAway, match="in time"):
            store.transact(fence, pay, seconds_max=0.2)
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    assert store.transact(fence, pay, seconds_max=30) is True


# ---- it has lost something -------------------------------------------------------------------------------------------


@contextmanager
def rewound(rows_url: str) -> Iterator[None]:
    """Around a block of which the server knows nothing afterwards, as a standby that was behind."""
    ours = server()
    copy = ours.folder / "copy"
    ours.stop()
    shutil.copytree(ours.data, copy)
    ours.start()
    yield
    ours.stop(signal.SIGQUIT)
    shutil.rmtree(ours.data)
    copy.rename(ours.data)
    for path in [ours.data, *ours.data.rglob("*")]:
        os.chown(path, ours.data.parent.stat().st_uid, -1)
    ours.start()


@pytest.mark.skipif("DURABLE_TRIO_TEST_PG" in os.environ, reason="the server is not ours to stop")
def test_a_server_that_has_lost_commits_is_noticed_and_runs_go_on_from_what_it_has(
    url: str, open_store: Callable[[], PostgresStore], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written behind what it has: neither by who owned a run, nor under a number that is given anew."""
    store, other = open_store(), open_store()
    row, fence = owned(store)
    add(store, fence, step(1))
    with rewound(url):
        again_until_it_is_back(store, [Advance(fence=fence, rows=(step(2, "b"),), now=20)])
        again_until_it_is_back(other, [start_operation("lost")])
        later = register(store)  # of whom the server will know nothing, and give his number to somebody else
        mine = start(store, "of-later", owner=later)
        assert mine.token == 1
    caplog.clear()
    third = [Advance(fence=fence, rows=(step(3, "c"),), now=30), start_operation("unfenced")]
    lost, started = again_until_it_is_back(store, third)
    assert isinstance(lost, OwnershipLost)
    assert started.created
    told = [record for record in caplog.records if getattr(record, "event", "") == "store_rewound"]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert told[0].lost_count == 3  # type: ignore[attr-defined]
    assert "lacks 3 of the last" in told[0].getMessage()
    # Runs go on from what is stored, with anybody.
    found = row_of(store)
    assert (found.owner, store.ask(ListHistory(row.run))) == (None, (step(1),))
    assert store.ask(FindRun("lost")) is None
    taker = register(other)
    assert taker == later
    claim(other, taker, now=other.read_clock())
    assert row_of(other).owner == taker
    again_until_it_is_back(other, [start_operation("of-later", owner=taker)])
    stale = Advance(fence=fence_of(mine), rows=(step(9),), now=30)
    assert isinstance(one(store, stale), OwnershipLost)
    assert one(other, Advance(fence=fence_of(row_of(other, "of-later")), rows=(step(1),), now=40)) is True
    # Who has lost nothing but a start says so as well, and goes on.
    assert send(other, "run").entry.id > 0
    assert len([each for each in caplog.records if getattr(each, "event", "") == "store_rewound"]) == 2
    # It is noticed once.
    caplog.clear()
    mine_again = register(store)
    assert mine_again != taker
    assert start(store, "afterwards", owner=mine_again).token == 1
    assert not caplog.records


@pytest.mark.parametrize("is_transaction", [False, True], ids=["batch", "transaction"])
def test_a_backup_that_is_restored_under_a_living_store_is_noticed(
    store: PostgresStore, rows: Rows, caplog: pytest.LogCaptureFixture, is_transaction: bool
) -> None:
    """Also though no connection is lost: else what comes next would be written behind what is not there."""
    row, fence = owned(store)

    def write(seq: int) -> Any:
        advance = Advance(fence=fence, rows=(step(seq, f"step-{seq}"),), now=20)
        return store.transact(fence, lambda _: advance, seconds_max=20) if is_transaction else one(store, advance)

    assert [write(1), write(2)] == [True, True]
    rows.execute("DELETE FROM history WHERE seq = 2")
    rows.execute("DELETE FROM commits WHERE batch = (SELECT max(batch) FROM commits)")
    caplog.clear()
    if is_transaction:
        with pytest.raises(StoreAway):
            write(3)
        with pytest.raises(OwnershipLost):
            write(3)
    else:
        assert isinstance(write(3), OwnershipLost)
    assert store.ask(ListHistory(row.run)) == (step(1, "step-1"),)
    told = [record for record in caplog.records if getattr(record, "event", "") == "store_rewound"]
    assert [record.lost_count for record in told] == [1]  # type: ignore[attr-defined]
    assert start(store, "afterwards").id == "afterwards"
