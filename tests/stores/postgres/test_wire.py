"""A connection to the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_trio.stores.postgres.faults import ServerError
from durable_trio.stores.postgres.url import Place
from durable_trio.stores.postgres.wire import Request, Wire


@pytest.fixture
def wire(place: Place) -> Iterator[Wire]:
    """A connection."""
    connected = place.connect(plans=("SET plan_cache_mode = force_generic_plan",))
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


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_what_is_no_text_for_the_server_is_not_sent(wire: Wire, text: str) -> None:
    """It would be cut off at the NUL."""
    with pytest.raises(ServerError) as caught:
        wire.exchange([Request("BEGIN"), Request("SELECT $1::text", (text,))])
    assert caught.value.is_of_operation
    assert not wire.is_in_transaction
    assert wire.execute("SELECT $1::text", "a").rows == [("a",)]
