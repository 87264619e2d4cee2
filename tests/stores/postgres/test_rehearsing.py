"""What new code would do is tried on a server, too: by a role that may only read, with nothing written."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import trio

from durable_trio import open_engine
from durable_trio.errors import StoreAway, StoreError
from durable_trio.stores.contract import RegisterExecutor
from durable_trio.stores.kinds import make_reader
from durable_trio.stores.postgres.url import parse_url
from durable_trio.stores.questions import FindRun
from tests.cli.rehearsed import order, visit
from tests.cli.test_rehearse import refused, rehearsed
from tests.engine.harness import wait_passivated
from tests.stores.postgres.test_roll_out import as_role

RUNS = 3


@pytest.fixture
def reader(url: str) -> Iterator[str]:
    """The URL of a database in which runs wait, for a role that may only read; with a password."""

    async def fill() -> None:
        async with open_engine(url, workflows=[order, visit]) as engine:
            for number in range(RUNS):
                for each in (order, visit):
                    await engine.start(each, number, id=f"{each.name}-{number}")
            await wait_passivated(engine)

    trio.run(fill)
    place = parse_url(url)
    with psycopg.connect(place.conninfo, autocommit=True) as connection:
        for text in (
            "CREATE ROLE reads_only LOGIN",
            f"GRANT USAGE ON SCHEMA {place.schema} TO reads_only",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {place.schema} TO reads_only",
        ):
            connection.execute(text.encode())
        yield as_role(url, "reads_only:secret")
        connection.execute("DROP OWNED BY reads_only")
        connection.execute("DROP ROLE reads_only")


def test_new_code_is_tried_by_who_may_only_read(reader: str) -> None:
    for said in (
        rehearsed("changed", "--db", reader, "--json"),
        rehearsed("changed", "--json", REHEARSED_DB=reader),  # the engine's own
    ):
        assert said.code == 1, said
        assert (said.json["counts"]["goes_on"], said.json["counts"]["diverges"]) == (2 * RUNS - 1, 1)
        assert "secret" not in said.out + said.err
        assert said.json["database"].startswith("postgresql://reads_only@127.0.0.1")


def test_why_a_database_cannot_be_rehearsed_is_said_in_one_line(url: str, new_url: str) -> None:
    assert "has no tables of this library" in refused(rehearsed("engine", "--db", new_url))
    gone = "postgresql://someone:secret@127.0.0.1:1/app"
    said = rehearsed("engine", "--db", gone)
    assert "cannot be reached" in refused(said)
    assert "secret" not in said.err


def test_who_only_reads_writes_nothing(reader: str) -> None:
    store = make_reader(reader)
    with pytest.raises(StoreError, match="not open"):
        store.ask(FindRun("order-1"))
    store.open()
    try:
        store.open()
        found = store.ask(FindRun("order-1"))
        assert found is not None
        assert found.workflow == "order"
        with pytest.raises(StoreError, match="is only read"):
            store.apply([RegisterExecutor(pid=1, host="here", lease=1, now=0)])
        with pytest.raises(StoreError, match="is only read"):
            store.tidy()
        with store.connect() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE mine (a integer)")
    finally:
        store.close()
    with pytest.raises(StoreAway):
        make_reader("postgresql://127.0.0.1:1/app").open()
