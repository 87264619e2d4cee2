"""A connection to the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_trio.stores.postgres import wire as wire_module
from durable_trio.stores.postgres.faults import ConnectionLost, ServerError
from durable_trio.stores.postgres.url import Place
from durable_trio.stores.postgres.wire import Request, Wire
from tests.stores.postgres.kit import Doing, Rows

_SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


@pytest.fixture
def wire(place: Place) -> Iterator[Wire]:
    """A connection."""
    connected = place.connect(settings=("SET plan_cache_mode = force_generic_plan",))
    yield connected
    connected.close()


def test_a_statement_is_planned_again_after_each_doubling_of_what_was_asked(wire: Wire) -> None:
    """What was right for a small table may walk through a large one."""
    find = "SELECT n FROM guests WHERE n = $1::bigint"
    wire.execute("CREATE TEMPORARY TABLE guests (n bigint PRIMARY KEY)")
    wire.exchange([Request("INSERT INTO guests VALUES (1)"), Request("ANALYZE guests")])
    wire.execute(find, 1)
    wire.execute("INSERT INTO guests SELECT generate_series(2, 20000)")
    ((name,),) = wire.execute("SELECT name FROM pg_prepared_statements WHERE statement = $1::text", find).rows
    explain = f"EXPLAIN EXECUTE {name}(7)"

    def plan() -> str:
        return "".join(line for (line,) in wire.execute(explain).rows)

    assert "Seq Scan" in plan()
    asked = wire.exchange_count
    while wire.exchange_count < 2 * asked + 2:
        begun, found, _ = wire.exchange([Request("BEGIN"), Request(find, (5,)), Request("COMMIT")])
        assert (begun.rows, found.rows) == ([], [(5,)])
    assert "Index" in plan()


def test_nothing_is_asked_in_no_round_trip_whenever_that_is(wire: Wire) -> None:
    asked = wire.exchange_count
    for number in range(asked + 1):  # among them that after which statements are planned anew
        assert wire.exchange([]) == []
        assert wire.exchange_count == asked + number
        wire.execute("SELECT 1")


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_what_is_no_text_for_the_server_is_not_sent(wire: Wire, text: str) -> None:
    """It would be cut off at the NUL."""
    with pytest.raises(ServerError) as caught:
        wire.exchange([Request("BEGIN"), Request("SELECT $1::text", (text,))])
    assert caught.value.is_of_operation
    assert not wire.is_in_transaction
    assert wire.execute("SELECT $1::text", "a").rows == [("a",)]


def test_who_waits_for_an_answer_does_not_hold_the_interpreter(wire: Wire, rows: Rows) -> None:
    for _ in range(20):  # one of them is enough: this machine may have had something else to do
        doing = Doing(lambda: wire.execute("SELECT pg_sleep(0.3)"))
        seen_count = 0
        while not doing.is_done:
            seen_count += rows.one(_SLEEPS)
        doing.result()
        if seen_count > 3:
            break
    else:
        pytest.fail("nothing else was done while a thread waited for its answer")


def test_after_a_request_that_fails_none_is_done_and_the_connection_goes_on(wire: Wire) -> None:
    wire.execute("CREATE TEMPORARY TABLE notes (n integer)")
    with pytest.raises(ServerError, match="division by zero") as raised:
        wire.exchange(
            [
                Request("INSERT INTO notes VALUES (1)"),
                Request("SELECT 1 / $1::integer", (0,)),
                Request("INSERT INTO notes VALUES (2)"),
            ]
        )
    assert raised.value.sqlstate == "22012"
    assert wire.execute("SELECT n FROM notes").rows == []
    assert wire.execute("SELECT 1 / $1::integer", 1).rows == [(1,)]


def test_an_answer_that_does_not_come_is_given_up(wire: Wire) -> None:
    wire.seconds_max = 0.01
    with pytest.raises(ConnectionLost) as raised:
        wire.execute("SELECT pg_sleep(60)")
    assert raised.value.is_late
    assert wire.is_lost


def test_a_server_that_takes_its_time_for_much_is_not_given_up(wire: Wire) -> None:
    """Neither while bytes go or come, nor while it makes something of them."""
    wire.seconds_max = 0.05
    size = 4_000_000
    slow = "SELECT length($1::text), repeat('x', $2::int), pg_sleep(0.5)"
    ((length, much, _),) = wire.execute(slow, size * "y", size).rows
    assert (length, len(much)) == (size, size)


def test_what_is_too_large_for_the_server_is_not_sent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end the connection, and the same would be sent again."""
    monkeypatch.setattr(wire_module, "_STATEMENT_BYTES_MAX", 1000)
    with pytest.raises(ServerError, match="at most 1,000 bytes") as raised:
        wire.execute("SELECT $1::text, $2::text", 500 * "x", 501 * "x")
    assert raised.value.is_of_operation
    assert wire.execute("SELECT 1").rows == [(1,)]


def test_values_come_back_as_they_were(wire: Wire) -> None:
    for cast, values in {
        "bigint": (0, -(2**63), 2**63 - 1, None),
        "text": ("", "ü🌍\\'\"\n{}", None),
        "boolean": (True, False, None),
        "bytea": (b"", bytes(range(256)), None),
        "double precision": (1.5, -1e300, None),
    }.items():
        for value in values:
            assert wire.execute(f"SELECT $1::{cast}", value).rows == [(value,)]
    for items in ((), ("a",), ("", "NULL", 'a"b', "c\\d", "e,f", "{g}", " ")):
        text = "{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in items) + "}"
        assert wire.execute("SELECT $1::text[]", text).rows == [(items,)]
