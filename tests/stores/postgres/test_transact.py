"""A user's function in a transaction of the store: whatever it does, its rows and its checkpoint are one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

from durable_trio.errors import OwnershipLost, StepFailed, StepTimeout, StoreAway, StoreFull
from durable_trio.stores.contract import Advance
from durable_trio.stores.postgres import transact
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.testing.store_contract.executors import reap
from durable_trio.testing.store_contract.kit import owned, step
from tests.stores.postgres.kit import Doing, Rows
from tests.stores.postgres.payments import Connection, Payments


@pytest.fixture
def role(rows: Rows) -> Iterator[str]:
    """A role that may do nothing."""
    rows.execute("CREATE ROLE cashier")
    yield "cashier"
    rows.execute("DROP OWNED BY cashier")
    rows.execute("DROP ROLE cashier")


ENDS_IN_PYTHON: dict[str, Callable[[Connection], Any]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "close": lambda connection: connection.close(),
    "autocommit": lambda connection: setattr(connection, "autocommit", False),
    "set_autocommit": lambda connection: connection.set_autocommit(True),
    "isolation": lambda connection: setattr(connection, "isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
    "read_only": lambda connection: setattr(connection, "read_only", True),
    "pipeline": lambda connection: connection.pipeline().__enter__(),
    "two phases": lambda connection: connection.tpc_begin("x"),
}


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("end", ENDS_IN_PYTHON.values(), ids=ENDS_IN_PYTHON)
def test_a_connection_refuses_what_is_not_for_the_function(
    payments: Payments, end: Callable[[Connection], Any], is_swallowed: bool
) -> None:
    """Refused it changes nothing, so that who goes on after it is committed."""

    def pay(connection: Connection) -> None:
        payments.pay(connection)
        if is_swallowed:
            with suppress(psycopg.Error):
                end(connection)
        else:
            end(connection)

    if is_swallowed:
        assert payments.call(pay) is True
        assert (payments.amounts, len(payments.history)) == ([7], 1)
    else:
        with pytest.raises(psycopg.ProgrammingError):
            payments.call(pay)
        payments.must_have_written_nothing()


ENDS_IN_SQL = (
    "COMMIT",
    "COMMIT AND CHAIN",
    "END",
    "PREPARE TRANSACTION 'x'",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "ROLLBACK",
    "ROLLBACK AND CHAIN",
    "ABORT",
    "ROLLBACK; BEGIN",
    "COMMIT; BEGIN",
    "ROLLBACK TO SAVEPOINT nowhere",
    "BEGIN; COMMIT",
    "SET TRANSACTION READ ONLY",
    "SET transaction_read_only = on",
)


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("end", ENDS_IN_SQL)
def test_nothing_is_committed_of_a_transaction_that_the_function_has_ended(
    payments: Payments, end: str, is_swallowed: bool
) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection)
        if is_swallowed:
            with suppress(psycopg.Error):
                connection.execute(end.encode())
        else:
            connection.execute(end.encode())
            payments.pay(connection)

    with pytest.raises((StepFailed, psycopg.Error)) as raised:
        payments.call(pay)
    if is_swallowed:
        assert isinstance(raised.value, StepFailed)
    payments.must_have_written_nothing()


def test_savepoints_are_the_functions_own(payments: Payments) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection, 1)
        with suppress(LookupError), connection.transaction():
            payments.pay(connection, 2)
            raise LookupError
        with connection.transaction(), connection.transaction():
            payments.pay(connection, 3)
        with suppress(psycopg.Error), connection.transaction():
            connection.execute("SELECT 1 / 0")
        connection.execute("SAVEPOINT before")
        payments.pay(connection, 4)
        connection.execute("ROLLBACK TO SAVEPOINT before")
        with connection:  # psycopg's block, which commits and closes connections of its own
            payments.pay(connection, 5)
        payments.pay(connection, 6)

    assert payments.call(pay) is True
    assert (payments.amounts, len(payments.history)) == ([1, 3, 5, 6], 1)


def test_neither_a_savepoint_nor_a_table_of_that_name_takes_the_guard_away(payments: Payments, rows: Rows) -> None:
    rows.execute("CREATE TABLE public.guards (transaction xid8)")

    def pay(connection: Connection) -> None:
        payments.pay(connection)
        connection.execute("SAVEPOINT before")
        with suppress(psycopg.Error):
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        connection.execute("ROLLBACK TO SAVEPOINT before")

    assert payments.call(pay) is True
    assert payments.amounts == [7]

    def end(connection: Connection) -> None:
        connection.execute("SAVEPOINT before")
        payments.pay(connection)
        connection.execute("COMMIT")

    with pytest.raises(psycopg.Error, match="committed by the engine"):
        payments.call(end)
    assert payments.amounts == [7]


def test_an_error_that_is_swallowed_leaves_the_transaction_broken(payments: Payments) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection)
        with suppress(psycopg.Error):
            connection.execute("SELECT 1 / 0")

    with pytest.raises(StepFailed, match="left its transaction broken"):
        payments.call(pay)
    payments.must_have_written_nothing()


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_function_leaves_in_its_connection_the_next_one_does_not_find(
    payments: Payments, role: str, count: int
) -> None:
    """Also if the function fails; a few of them leave things on top of each other."""
    left = f"""
        CREATE TEMPORARY TABLE left_behind (a integer) ON COMMIT PRESERVE ROWS;
        SET SESSION work_mem = '123kB';
        SET SESSION search_path = pg_catalog;
        SET SESSION lock_timeout = 1;
        SET SESSION statement_timeout = '10s';
        SET SESSION default_transaction_read_only = on;
        SET SESSION bytea_output = 'escape';
        PREPARE left_behind AS SELECT 1;
        DECLARE left_cursor CURSOR WITH HOLD FOR SELECT 1;
        LISTEN left_behind;
        SELECT pg_advisory_lock(4711);
        SELECT set_config('app.customer', 'joe', false);
        SET SESSION ROLE {role};
    """

    def leave(connection: Connection) -> None:
        payments.pay(connection)
        connection.execute(left.encode())

    for number in range(count):
        run = Payments(payments.store, payments._rows, f"run-{number}")
        assert run.call(leave) is True

    def look(connection: Connection) -> None:
        def one(text: str) -> Any:
            (found,) = connection.execute(text.encode()).fetchone() or ()
            return found

        assert one("SELECT to_regclass('pg_temp.left_behind')") is None
        assert one("SHOW work_mem") == "4MB"
        assert one("SHOW search_path") == '"$user", public'
        assert one("SHOW lock_timeout") == "0"
        assert one("SHOW bytea_output") == "hex"
        assert one("SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_behind'") == 0
        assert one("SELECT count(*) FROM pg_cursors WHERE name = 'left_cursor'") == 0
        assert one("SELECT count(*) FROM pg_listening_channels()") == 0
        assert one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711") == 0
        assert one("SELECT coalesce(current_setting('app.customer', true), '')") == ""
        assert one("SELECT current_user = session_user")

    assert payments.call(look) is True


@pytest.mark.parametrize("how", ["SET", "SET LOCAL"])
def test_a_function_does_not_change_how_its_checkpoint_is_committed(payments: Payments, rows: Rows, how: str) -> None:
    """What it sets is for its own statements; the next one finds the connection as it was at first."""
    rows.execute("CREATE TABLE public.seen (setting text)")
    rows.execute(
        """
        CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen SELECT current_setting(name)
            FROM unnest(ARRAY['synchronous_commit', 'client_min_messages', 'client_encoding']) AS name;
            RETURN NULL;
        END $$
        """
    )
    rows.execute("CREATE TRIGGER see AFTER INSERT ON history FOR EACH ROW EXECUTE FUNCTION public.see()")

    def change(connection: Connection) -> None:
        for setting in ("client_encoding = latin1", "synchronous_commit = off", "client_min_messages = error"):
            connection.execute(f"{how} {setting}".encode())
        connection.execute("DEALLOCATE ALL")

    with closing(PostgresStore(payments.store.address)) as full:
        full.open()
        for number, fn in enumerate((change, payments.pay)):
            run = Payments(full, rows, f"run-{number}")
            assert run.call(fn, result='"größe €"') is True
            assert [row.result for row in run.history] == ['"größe €"']
    seen = [setting for (setting,) in rows.all("SELECT setting FROM public.seen")]
    rows.execute("DROP FUNCTION public.see CASCADE")
    assert seen == ["on", "notice", "UTF8"] * 2


def test_a_function_has_the_settings_of_its_role(payments: Payments) -> None:
    """Its own queries are planned as everywhere else."""

    def look(connection: Connection) -> None:
        for name in ("enable_seqscan", "enable_hashjoin", "plan_cache_mode", "standard_conforming_strings", "jit"):
            shown = connection.execute("SELECT setting = reset_val FROM pg_settings WHERE name = %s", [name]).fetchone()
            assert shown == (True,), name

    assert payments.call(look) is True


def test_a_function_that_becomes_somebody_else_is_committed_as_the_store(payments: Payments, role: str) -> None:
    payments._rows.execute(f"GRANT INSERT ON public.account TO {role}")
    for number, become in enumerate(
        ("SET LOCAL ROLE", "SET ROLE", "SET SESSION AUTHORIZATION", "SET LOCAL SESSION AUTHORIZATION")
    ):
        run = Payments(payments.store, payments._rows, f"run-{number}")

        def pay(connection: Connection, become: str = become) -> None:
            connection.execute(f"{become} {role}".encode())
            payments.pay(connection)

        assert run.call(pay) is True
        assert len(run.history) == 1
    assert payments.amounts == [7, 7, 7, 7]
    assert payments.call(payments.pay) is True


def test_names_without_a_schema_are_the_users(payments: Payments, rows: Rows) -> None:
    """Of the engine's tables a function sees none unless it names their schema."""
    rows.execute("CREATE TABLE public.runs (a integer)")

    def pay(connection: Connection) -> None:
        connection.execute("INSERT INTO runs VALUES (1)")

    assert payments.call(pay) is True
    assert rows.all("SELECT a FROM public.runs") == [(1,)]

    def change(connection: Connection) -> None:
        connection.execute("INSERT INTO mailbox VALUES (1)")

    with pytest.raises(psycopg.errors.UndefinedTable):
        payments.call(change)


def test_a_connection_that_was_kept_does_nothing_afterwards(payments: Payments) -> None:
    kept: list[Any] = []

    def pay(connection: Connection) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        kept.extend((connection, cursor))
        payments.pay(connection)

    assert payments.call(pay) is True
    connection, cursor = kept
    for use in (
        lambda: connection.execute("INSERT INTO account VALUES (8)"),
        lambda: cursor.execute("INSERT INTO account VALUES (8)"),
        lambda: connection.transaction().__enter__(),
        connection.commit,
        connection.close,
    ):
        with pytest.raises(psycopg.Error):
            use()
    assert payments.call(lambda _: None) is not True  # the checkpoint is there already
    assert payments.amounts == [7]


def test_a_statement_that_is_left_under_way_is_the_functions_failure(payments: Payments) -> None:
    kept: list[Any] = []

    def pay(connection: Connection) -> None:
        payments.pay(connection)
        kept.append(connection.cursor().copy("COPY account FROM STDIN"))
        kept[0].__enter__()

    with pytest.raises(StepFailed, match="under way"):
        payments.call(pay)
    payments.must_have_written_nothing()


def test_a_constraint_that_fails_at_the_commit_is_the_functions_failure(payments: Payments, rows: Rows) -> None:
    rows.execute("ALTER TABLE public.account ADD UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED")

    def twice(connection: Connection) -> None:
        payments.pay(connection)
        payments.pay(connection)

    with pytest.raises(StepFailed, match="cannot be committed"):
        payments.call(twice)
    payments.must_have_written_nothing()


@pytest.mark.parametrize("swallows", [False, True])
def test_a_function_that_the_server_has_given_up_is_too_slow(payments: Payments, swallows: bool) -> None:
    """It is not called again, as after an outage: it would take as long again."""
    calls: list[int] = []

    def pay(connection: Connection) -> None:
        calls.append(1)
        time.sleep(0.3)
        try:
            connection.execute("SELECT 1")
        except psycopg.Error:
            if not swallows:
                raise

    with pytest.raises(StepTimeout):
        payments.call(pay, seconds_max=0.05)
    assert len(calls) == 1
    payments.must_have_written_nothing()


def test_a_statement_that_takes_too_long_is_ended_in_the_server(payments: Payments) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection)
        connection.execute("SELECT pg_sleep(60)")

    with pytest.raises(StepTimeout):
        payments.call(pay, seconds_max=0.1)
    payments.must_have_written_nothing()


def test_four_are_called_at_once_while_batches_go_on(payments: Payments, rows: Rows) -> None:
    runs = [Payments(payments.store, rows, f"run-{number}") for number in range(4)]
    meeting = threading.Barrier(5)

    def pay(connection: Connection) -> None:
        payments.pay(connection)
        meeting.wait(20)

    doing = [Doing(lambda run=run: run.call(pay)) for run in runs]  # type: ignore[misc]
    owned(payments.store, "another")
    meeting.wait(20)
    assert [each.result() for each in doing] == [True] * 4
    assert payments.amounts == [7] * 4


def test_a_run_that_was_reaped_meanwhile_writes_nothing(payments: Payments) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection)
        reap(payments.store, payments.fence.owner)

    with pytest.raises(OwnershipLost):
        payments.call(pay)
    assert (payments.amounts, payments.history) == ([], ())


def test_who_reaps_waits_for_a_checkpoint_that_is_being_committed(payments: Payments, rows: Rows) -> None:
    """The row of the executor is held from the last look to the commit, and by no function at work."""
    rows.execute(
        """
        CREATE FUNCTION public.wait_here() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(99); RETURN NULL; END $$
        """
    )
    rows.execute(
        "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON history DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.wait_here()"
    )
    rows.execute("SELECT pg_advisory_lock(99)")
    paying = Doing(lambda: payments.call(payments.pay))
    rows.wait_until_blocked()
    reaping = Doing(lambda: reap(payments.store, payments.fence.owner))
    rows.wait_until_blocked(2)
    rows.execute("SELECT pg_advisory_unlock(99)")
    assert paying.result() is True
    assert reaping.result() == 1
    rows.execute("DROP FUNCTION public.wait_here CASCADE")
    assert (payments.amounts, len(payments.history)) == ([7], 1)


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
def test_a_full_disk_is_the_stores_whatever_the_function_makes_of_it(payments: Payments, is_swallowed: bool) -> None:
    def pay(connection: Connection) -> None:
        payments.pay(connection)
        try:
            connection.execute("DO $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$")
        except psycopg.Error:
            if not is_swallowed:
                raise LookupError from None

    with pytest.raises(StoreFull):
        payments.call(pay)
    payments.must_have_written_nothing()


# The last ones may be another server's, which the function speaks to.
_OWN_ERRORS = ["53200", "53400", "XX000", "XX001", "42501", "25006", "P0001", "57014", "58030", "57P01", "08006"]


@pytest.mark.parametrize("state", _OWN_ERRORS)
def test_what_a_function_brings_about_by_itself_is_its_own_failure(payments: Payments, state: str) -> None:
    def pay(connection: Connection) -> None:
        connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'mine' USING ERRCODE = '{state}'; END $$".encode())

    with pytest.raises(psycopg.Error, match="mine"):
        payments.call(pay)
    payments.must_have_written_nothing()


@pytest.mark.parametrize("state", [state for state in _OWN_ERRORS if state != "57014"])
def test_what_a_function_leaves_for_the_commit_is_its_own_failure(
    payments: Payments, deferred: Callable[[str], None], state: str
) -> None:
    deferred(f"RAISE EXCEPTION 'mine' USING ERRCODE = '{state}'")

    with pytest.raises(StepFailed, match="cannot be committed: mine"):
        payments.call(payments.pay)
    deferred("NULL")
    payments.must_have_written_nothing()


def test_a_warning_of_a_trigger_is_nothing(payments: Payments, deferred: Callable[[str], None], rows: Rows) -> None:
    """Though it has the number of the one that a standby was not waited for."""
    rows.execute("CREATE SEQUENCE public.tries")
    deferred("PERFORM nextval('public.tries'); RAISE WARNING 'look out'")
    assert payments.call(payments.pay) is True
    assert rows.one("SELECT last_value FROM public.tries") == 1
    rows.execute("DROP SEQUENCE public.tries CASCADE")


def test_if_somebody_cancels_what_the_store_asks_the_function_is_called_again(
    payments: Payments, deferred: Callable[[str], None], rows: Rows
) -> None:
    rows.execute("CREATE SEQUENCE public.tries")
    deferred("IF nextval('public.tries') = 1 THEN RAISE EXCEPTION 'by somebody' USING ERRCODE = '57014'; END IF")
    assert payments.call(payments.pay) is True
    assert payments.amounts == [7]
    assert rows.one("SELECT last_value FROM public.tries") == 2
    rows.execute("DROP SEQUENCE public.tries CASCADE")


def test_what_is_deferred_finds_the_settings_and_the_time_of_the_function(
    payments: Payments, deferred: Callable[[str], None], rows: Rows
) -> None:
    """Also names without a schema are the user's; a table of the store may have the same."""
    rows.execute("CREATE TABLE public.runs (a integer)")
    deferred("INSERT INTO runs VALUES (1)")
    assert payments.call(payments.pay) is True
    assert rows.all("SELECT a FROM public.runs") == [(1,)]
    deferred("PERFORM pg_sleep(60)")
    with pytest.raises(StepTimeout):
        Payments(payments.store, rows, "other").call(payments.pay, seconds_max=0.2)


@pytest.fixture
def deferred(rows: Rows, payments: Payments) -> Iterator[Callable[[str], None]]:
    """Has the server do something when a payment is committed."""

    def defer(text: str) -> None:
        rows.execute(
            f"""
            CREATE OR REPLACE FUNCTION public.defer() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {text}; RETURN NULL; END $$
            """
        )
        if not rows.all("SELECT 1 FROM pg_trigger WHERE tgname = 'deferred'"):
            rows.execute(
                "CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON public.account DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION public.defer()"
            )

    yield defer
    rows.execute("DROP FUNCTION public.defer CASCADE")


def test_a_connection_that_was_ended_is_the_stores_and_the_function_is_called_again(
    payments: Payments, rows: Rows
) -> None:
    """The same function, once more: only what was committed counts."""
    calls: list[int] = []

    def pay(connection: Connection) -> None:
        calls.append(1)
        payments.pay(connection)
        if len(calls) == 1:
            rows.execute("SELECT pg_terminate_backend(%s, 10000)", connection.info.backend_pid)
            with suppress(psycopg.Error):
                connection.execute("SELECT 1")

    def whole(connection: Connection) -> Advance:
        pay(connection)
        return Advance(fence=payments.fence, rows=(step(1),), now=20)

    with pytest.raises(StoreAway):
        payments.store.transact(payments.fence, whole, seconds_max=20)
    assert (payments.amounts, payments.history) == ([], ())
    assert payments.store.transact(payments.fence, whole, seconds_max=20) is True
    assert (len(calls), payments.amounts) == (2, [7])


def test_a_function_that_ends_its_connection_each_time_is_given_up(
    payments: Payments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before it has been so for long, as it is where a server is in trouble."""

    def whole(connection: Connection) -> Advance:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return Advance(fence=payments.fence, rows=(step(1),), now=20)

    for _ in range(11):
        with pytest.raises(StoreAway):
            payments.store.transact(payments.fence, whole, seconds_max=20)
    monkeypatch.setattr(transact, "_LOSSES_SECONDS", 0.0)
    with pytest.raises(StepFailed, match="lost 12 times in a row"):
        payments.store.transact(payments.fence, whole, seconds_max=20)
    payments.must_have_written_nothing()


def test_a_function_that_fails_by_itself_after_a_lost_connection_is_forgotten(payments: Payments) -> None:
    """It is not given again, and so nobody would ask for it any more."""
    calls: list[int] = []

    def whole(connection: Connection) -> Advance:
        calls.append(1)
        if len(calls) == 1:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        raise ValueError("it is no use")

    with pytest.raises(StoreAway):
        payments.store.transact(payments.fence, whole, seconds_max=20)
    with pytest.raises(ValueError, match="it is no use"):
        payments.store.transact(payments.fence, whole, seconds_max=20)
    transactions = payments.store._transactions
    assert (transactions._losses, transactions._in_doubt) == ({}, {})
