"""Who is said to be there: by the locks of open stores, as far as these can tell."""

from __future__ import annotations

from collections.abc import Callable

from durable_trio.processes import ProcessIdentity
from durable_trio.rows import DeathRow, DeathStage
from durable_trio.stores.contract import PutReport, ReapExecutor, RegisterExecutor, StartRun
from durable_trio.stores.postgres.store import PostgresStore
from durable_trio.stores.questions import ListDeaths, ListExecutors, ListReports
from tests.stores.postgres.kit import Rows

_REGISTER = RegisterExecutor(pid=1, host="host", lease=1, now=1)


def register(store: PostgresStore) -> int:
    """Register an executor."""
    outcomes = store.apply([_REGISTER])
    assert outcomes is not None
    return int(outcomes[0])


def test_an_executor_is_there_while_its_store_is_open(
    store: PostgresStore, open_store: Callable[[], PostgresStore], rows: Rows
) -> None:
    other = open_store()
    executor = register(other)
    assert [row.is_locked for row in store.ask(ListExecutors())] == [True]
    rows.execute("UPDATE instances SET postmaster = 'before'")  # the server was started since
    assert [row.is_locked for row in store.ask(ListExecutors())] == [None]
    other.close()
    assert [row.is_locked for row in store.ask(ListExecutors())] == [None]
    rows.execute("DELETE FROM instances WHERE instance = (SELECT instance FROM executors WHERE id = %s)", executor)
    assert [row.is_locked for row in store.ask(ListExecutors())] == [None]


def test_who_has_closed_his_store_has_ended(store: PostgresStore, open_store: Callable[[], PostgresStore]) -> None:
    other = open_store()
    register(other)
    other.close()
    ((locked, silent),) = ((row.is_locked, row.silent) for row in store.ask(ListExecutors()))
    assert locked is False
    assert silent is not None
    assert silent >= 0


def test_ended_executors_are_listed_while_they_own_runs(store: PostgresStore, rows: Rows) -> None:
    executor = register(store)
    start = StartRun(
        id="run", workflow="w", args="", args_digest=b"", seed=b"", created_at=1, due_at=1, owner=executor, version=0
    )
    store.apply([start])
    rows.execute("UPDATE executors SET ended_at = 5")
    assert store.ask(ListExecutors()) == ()
    assert [(row.id, row.ended_at) for row in store.ask(ListExecutors(ended=True))] == [(executor, 5)]


def test_a_process_is_there_while_it_has_a_store_open(store: PostgresStore, rows: Rows) -> None:
    """Also on another machine, where nobody could ask its kernel."""
    own = str(ProcessIdentity.own())
    elsewhere = "host/boot/7/started"
    for process in (own, elsewhere, "no process"):
        store.apply([PutReport(process=process, report="{}", now=1)])
    for executor, process in ((register(store), own), (register(store), elsewhere)):
        death = DeathRow(executor=executor, pid=1, stage=DeathStage.DIED, teller=f"a/b/{process}")
        store.apply([ReapExecutor(executor=executor, now=2, death=death)])

    def alive() -> dict[str, bool | None]:
        return {row.process: row.is_alive for row in store.ask(ListReports())}

    def tellers() -> list[bool]:
        return [row.is_teller_alive for row in store.ask(ListDeaths())]

    assert alive() == {own: True, elsewhere: False, "no process": None}
    rows.execute("UPDATE deaths SET teller = substr(teller, 3)")
    assert tellers() == [True, False]
    rows.execute(
        "INSERT INTO instances (instance, process, postmaster, opened_at) VALUES (7, %s, 'before', 1)", elsewhere
    )
    assert alive() == {own: True, elsewhere: True, "no process": None}
    assert tellers() == [True, True]
    rows.execute("DELETE FROM instances WHERE process = %s", elsewhere)
    rows.execute(
        "INSERT INTO instances (instance, process, postmaster, opened_at) SELECT 7, %s, postmaster, 1 FROM instances",
        elsewhere,
    )
    assert alive() == {own: True, elsewhere: False, "no process": None}
