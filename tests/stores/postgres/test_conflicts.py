"""Transactions that come together: whom a deadlock or a conflict meets is called again, while there is time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from durable_trio.errors import StepTimeout
from tests.stores.postgres.kit import Rows, at_once
from tests.stores.postgres.payments import Connection, Payments


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_after_a_conflict_the_function_is_called_again(payments: Payments, state: str, is_swallowed: bool) -> None:
    calls: list[int] = []

    def pay(connection: Connection) -> None:
        calls.append(1)
        payments.pay(connection)
        if len(calls) < 3:
            text = f"DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '{state}'; END $$"
            if is_swallowed:
                with suppress(psycopg.Error):
                    connection.execute(text.encode())
            else:
                connection.execute(text.encode())

    assert payments.call(pay) is True
    assert (len(calls), payments.amounts, len(payments.history)) == (3, [7], 1)


@pytest.mark.parametrize("is_renamed", [False, True], ids=["as it is", "as an error of the function's"])
def test_a_conflict_in_a_savepoint_has_the_function_called_again_too(payments: Payments, is_renamed: bool) -> None:
    calls: list[int] = []

    def pay(connection: Connection) -> None:
        calls.append(1)
        payments.pay(connection)
        if len(calls) == 3:
            return
        try:
            with connection.transaction():
                connection.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40P01'; END $$")
        except psycopg.Error:
            if is_renamed:
                raise LookupError("the account is in use") from None
            raise

    assert payments.call(pay) is True
    assert (len(calls), payments.amounts, len(payments.history)) == (3, [7], 1)


def test_a_function_may_get_over_a_conflict_in_a_savepoint_by_itself(payments: Payments) -> None:
    calls: list[int] = []

    def pay(connection: Connection) -> None:
        calls.append(1)
        with suppress(psycopg.Error), connection.transaction():
            connection.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40P01'; END $$")
        payments.pay(connection)

    assert payments.call(pay) is True
    assert (len(calls), payments.amounts, len(payments.history)) == (1, [7], 1)

    def fail(connection: Connection) -> None:
        pay(connection)
        raise LookupError("something else")

    with pytest.raises(LookupError):
        payments.call(fail)
    assert (len(calls), payments.amounts) == (2, [7])


def test_conflicts_without_an_end_are_a_step_that_is_too_slow(payments: Payments) -> None:
    def pay(connection: Connection) -> None:
        connection.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")

    with pytest.raises(StepTimeout):
        payments.call(pay, seconds_max=0.1)
    payments.must_have_written_nothing()


def test_two_that_wait_for_each_other_both_come_through(payments: Payments, rows: Rows) -> None:
    rows.execute("INSERT INTO public.account VALUES (1), (2)")
    rows.execute("ALTER DATABASE postgres SET deadlock_timeout = '50ms'")
    other = Payments(payments.store, rows, "other")
    meeting = threading.Barrier(2)
    calls: list[int] = []

    def change(first: int, second: int) -> Callable[[Connection], None]:
        def both(connection: Connection) -> None:
            calls.append(first)
            for number in (first, second):
                connection.execute("UPDATE account SET amount = amount WHERE amount = %s", [number])
                if number == first and len(calls) <= 2:
                    meeting.wait(20)

        return both

    try:
        outcomes = at_once(lambda: payments.call(change(1, 2)), lambda: other.call(change(2, 1)))
    finally:
        rows.execute("ALTER DATABASE postgres RESET deadlock_timeout")
    assert outcomes == [True, True]
    assert len(calls) >= 3
