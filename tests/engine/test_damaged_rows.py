"""A damaged row is the problem of its run: that one is parked, all others end as they should, and lists work.

Every column of every table gets every other kind of value that it should not hold, on a run in one of the states;
``DURABLE_TRIO_SEED=1`` has the other kinds, and ``DURABLE_TRIO_EVERY_DAMAGE`` each on a run in each state.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import cycle, product
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from click.testing import CliRunner

from durable_trio import DurableError, Engine, RunRecord, StoreCorrupt, sqlite3
from durable_trio.cli.program import program
from durable_trio.stores.sqlite.columns import OWNED_COLUMNS, text_from
from durable_trio.stores.sqlite.layout import LAYOUTS, decode
from tests.engine import damage_kit as kit
from tests.engine.damage_kit import Case
from tests.engine.harness import PATIENCE_SECONDS, serving
from tests.kit.crash_points import SEED
from tests.kit.stores import store_at

pytestmark = pytest.mark.on_sqlite("writes into its tables what no engine would")

EVERY: Final = "DURABLE_TRIO_EVERY_DAMAGE" in os.environ

# The states of runs that have a row in the table which matters to how they go on.
STATES: Final = {
    "runs": tuple(kit.ENDS),
    "history": ("waiting", "orphan", "told", "compensating", "parent", "failed"),
    "waits": ("waiting", "sleeping", "retrying", "compensating"),
    "mailbox": ("told", "cancelling"),
    "published": ("waiting", "cancelled", "parked"),
    "executors": ("orphan",),
    "reports": ("waiting",),
    "tags": ("waiting", "told"),
    "unread_counts": ("told",),
    "earlier_generations": ("told",),
    "earlier_history": ("told",),
}
# The row of a copied run that is damaged.
WHICH: Final = {
    "runs": "run = :run",
    "history": "id = (SELECT min(id) FROM history WHERE run = :run)",
    "waits": "run = :run",
    "mailbox": "run = :run AND seq IS NULL AND name <> 'other'",
    "published": "run = :run",
    "executors": "id = 1000 + :run",
    "reports": "process = 'case-' || :run",
    "tags": "run = :run",
    "unread_counts": "run = :run",
    "earlier_generations": "run = :run",
    "earlier_history": "run = :run",
}
# Where what stands in a column must be JSON.
JSON: Final = {"args", "earlier", "tags", "error", "result", "problem", "compensation_errors", "value", "payload"}
# A row that is another run's, or nobody's, can be told from none.
LOST: Final = {(table, "run") for table in STATES}
# No run depends on these.
BESIDE: Final = {
    "executors",
    "reports",
    "tags",
    "published",
    "unread_counts",
    "earlier_generations",
    "earlier_history",
}

# Cases in one file: with children, all runs fit into one page of a list.
CASES_MAX: Final = 450


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a run in each state; tests copy it."""
    path = tmp_path_factory.mktemp("damage") / "prepared.db"
    trio.run(kit.prepare, path)
    return path


@pytest.fixture
def path(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared file."""
    return Path(shutil.copy(prepared, tmp_path / "app.db"))


@attrs.frozen(kw_only=True)
class Planted:
    """A damage that is in the file."""

    case: Case
    run: int
    id: str
    fault: str | None  # None: the column may hold it


def cases(table: str) -> Iterator[Case]:
    states = cycle(STATES[table])
    for column_number, column in enumerate(LAYOUTS[table].columns):
        if (table, column.name) in kit.KEYS:
            continue
        for number, damage in enumerate(kit.DAMAGES):
            if (column_number + number + SEED) % 2 and not EVERY:
                continue
            for state in STATES[table] if EVERY else (next(states),):
                yield Case(state, table, column.name, damage)


def plant(path: Path, wanted: Iterable[Case]) -> list[Planted]:
    """Put each damage into the row of a copied run."""
    planted: list[Planted] = []
    with kit.loosened(path) as connection:
        connection.text_factory = decode
        connection.execute("BEGIN")
        for case in wanted:
            run = kit.copy_run(connection, case.state, f"case-{len(planted)}")
            kit.give_rows_beside(connection, run)
            which = WHICH[case.table]
            statement = f"UPDATE {case.table} SET {case.column} = {kit.DAMAGES[case.damage]} WHERE {which}"
            found = f"SELECT {case.column} FROM {case.table} WHERE {which}"
            try:
                connection.execute(statement, {"run": run})
            except sqlite3.IntegrityError:  # a key of a table without rowid is never NULL, and no two are the same
                connection.execute("DELETE FROM runs WHERE run = ?", (run,))
                continue
            value = connection.execute(found, {"run": run}).fetchone()
            fault = None if value is None else _fault(case, value[0])
            planted.append(Planted(case=case, run=run, id=f"case-{len(planted)}", fault=fault))
        connection.execute("COMMIT")
    return planted


def _fault(case: Case, value: Any) -> str | None:
    """Return what is wrong with a value; not with what is only compared, as the name of a signal is."""
    column = next(column for column in LAYOUTS[case.table].columns if column.name == case.column)
    fault = column.fault(value)
    if column.name == "fingerprint" or (column.name == "waits_for" and isinstance(value, str)):
        return None
    if fault is None and column.name in JSON and value is not None:
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return "is no JSON"
    return fault


async def go_on(path: Path, planted: list[Planted]) -> dict[int, RunRecord | None]:
    """Serve the file until each run that should has ended or is parked; ask for each of them in every way."""
    async with serving(str(path), *kit.WORKFLOWS, durability="normal", concurrency=512) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_all, engine)
            await send_signals(engine, planted)
            await wait_resolved(engine, planted)
            nursery.cancel_scope.cancel()
        for item in planted:
            await ask_everything(engine, item)
        status = await engine.status()
        assert status.runs_by_status
        await engine.trees()
        return await records_of(engine, planted)


async def records_of(engine: Engine, planted: list[Planted]) -> dict[int, RunRecord | None]:
    """Return the record of each run, by its number: its id may be what is damaged."""
    connection = engine.connect()
    connection.text_factory = decode
    try:
        ids = {
            run: text_from(run_id) if run_id is not None else ""
            for run, run_id in connection.execute("SELECT run, id FROM runs NOT INDEXED").fetchall()
        }
    finally:
        connection.close()
    records = {record.id: record for record in (await engine.list_runs(limit=1000)).runs}
    return {item.run: records.get(ids[item.run]) for item in planted}


async def watch_all(engine: Engine) -> None:
    async with engine.watch() as changes:
        async for _ in changes:
            pass


async def send_signals(engine: Engine, planted: list[Planted]) -> None:
    for state in kit.WAIT_FOR_SIGNAL:
        run_id = (await engine.list_runs(parent="parent")).runs[0].id if state == "parent" else state
        await engine.send_signal(run_id, "go", 0)
    for item in planted:
        if item.case.state in kit.WAIT_FOR_SIGNAL:
            with suppress(DurableError):  # it may have no such id, or be over
                await engine.send_signal(f"{item.id}.kid" if item.case.state == "parent" else item.id, "go", 0)


async def wait_resolved(engine: Engine, planted: list[Planted]) -> None:
    """Wait until all that are sound have ended, and of the damaged ones each has ended or says what it is."""
    wanted = {state for state in kit.ENDS if state != "parked"}
    wanted |= {item.id for item in planted if item.fault and (item.case.table, item.case.column) not in LOST}
    left = wanted
    with trio.move_on_after(PATIENCE_SECONDS):
        while left:
            listed = (await engine.list_runs(limit=1000)).runs
            left = wanted & {run.id for run in listed if not run.status.is_final and run.problem is None}
            await trio.sleep(0.02)
    by_id = {item.id: item for item in planted}
    assert not left, [str(by_id.get(run_id, run_id)) for run_id in left]


async def ask_everything(engine: Engine, item: Planted) -> None:
    if item.case.column == "id":
        return
    run = engine.get(item.id)
    for question in (run.record, run.steps, run.waits, run.unread, run.values, run.generations):
        try:
            await question()
        except Exception as error:
            raise AssertionError(f"{item.case}: {question.__name__}() fails") from error
    for kept in await run.generations():
        with suppress(ValueError):  # its number is damaged
            await run.steps(generation=kept.generation)


# The largest come last: coverage is paused by then, for they pass the lines of the others.
_TABLES: Final[list[str]] = sorted(STATES, key=lambda table: len(LAYOUTS[table].columns))


@pytest.mark.parametrize("table", _TABLES)
def test_a_damaged_row_is_the_problem_of_its_run_alone(prepared: Path, tmp_path: Path, table: str) -> None:
    wanted = list(cases(table))
    for start in range(0, len(wanted), CASES_MAX):
        path = Path(shutil.copy(prepared, tmp_path / f"{start}.db"))
        planted = plant(path, wanted[start : start + CASES_MAX])
        records = trio.run(go_on, path, planted)
        wrong = [f"{item}: {records[item.run]}" for item in planted if not is_right(item, records[item.run])]
        assert not wrong, "\n".join(wrong)


def is_right(item: Planted, record: RunRecord | None) -> bool:
    """Return whether a run has ended as it should, or says what is wrong with it."""
    if record is None:
        return False
    if record.problem is not None and record.problem.kind == "internal_error":
        return False
    case = item.case
    status, result = kit.ENDS[case.state]
    if (record.status, record.result) == (status, result) and record.problem is None:
        return True
    if item.fault is None or (case.table, case.column) in LOST:
        return case.table not in BESIDE or record.status == status  # it may be so for all that anybody knows
    text = "" if record.problem is None else record.problem.text
    return (case.state == "parked" and text == "for a test") or (case.table in text and case.column in text)


def shown(*arguments: object) -> Any:
    """Return what a command prints with ``--json``; it must not fail."""
    result = CliRunner().invoke(program, [*map(str, arguments), "--json"])
    assert result.exit_code == 0 or arguments[-1] == "check", result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("table", ["runs", "history", "waits", "mailbox", "published"])
def test_damaged_runs_are_shown_before_anybody_serves_the_file(path: Path, table: str) -> None:
    planted = plant(path, list(cases(table))[:CASES_MAX])
    listed = {run["id"]: run for run in shown("--db", path, "list", "--limit", 1000)["runs"]}
    assert shown("--db", path, "check")["findings"]
    columns = {column.name for column in LAYOUTS["runs"].of(OWNED_COLUMNS).columns} - {"changed"}  # mended when opened
    for number, item in enumerate(planted):
        if item.case.column == "id":
            continue
        document = shown("--db", path, "show", item.id) if number % 7 == 0 else {"run": listed[item.id]}
        if table == "runs" and item.fault is not None and item.case.column in columns:
            problem = document["run"]["problem"] or {}
            assert problem.get("kind") == "damaged", item
            assert item.case.column in problem["text"], item


def test_every_column_is_looked_at(path: Path) -> None:
    connection = sqlite3.connect(path)
    found = {
        table: kit.columns_of(connection, table)
        for (table,) in connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%STRICT%'"
        )
        if table not in ("change_counter", "store_identity", "deaths")  # of the file and of executors, not of a run
    }
    connection.close()
    found["executors"].remove("lock")  # of a file beside this one: another text says that it cannot be told
    assert {table: sorted(names) for table, names in found.items()} == {
        table: sorted(column.name for column in layout.columns) for table, layout in LAYOUTS.items()
    }


# What a row of a table about codes holds, as it is written; of each column one is damaged.
CODES: Final[dict[str, dict[str, object]]] = {
    "codes": {"workflow": "rich", "version": 0, "fingerprint": "other", "first_seen_at": 1},
    "executor_codes": {"executor": 50, "code": 1},
    "refusals": {"run": 1, "code": 1, "refused_at": 1, "problem": "{}"},
}


def damage_codes(path: Path) -> None:
    """Store rows about codes, each with something else in it that cannot be."""
    with kit.loosened(path) as connection:
        for table, sound in CODES.items():
            for (number, column), damage in product(enumerate(sound), kit.DAMAGES):
                row = sound | ({"fingerprint": f"{number} {damage}"} if table == "codes" and number != 2 else {})
                marks = ", ".join(kit.DAMAGES[damage] if name == column else f":{name}" for name in row)
                with suppress(sqlite3.IntegrityError):  # a key is never NULL, and no two are the same
                    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)


def test_damaged_rows_about_codes_keep_nobody_from_looking(path: Path) -> None:
    damage_codes(path)
    for command in (["list"], ["list", "--parked"], ["versions"], ["show", "parked"], ["check"]):
        assert shown("--db", path, *command)


async def test_damaged_rows_about_codes_keep_nobody_from_serving(path: Path) -> None:
    damage_codes(path)
    async with serving(str(path), *kit.WORKFLOWS, durability="normal") as engine:
        damage_codes(path)  # also while it serves
        assert await engine.run(kit.leaf, 4) == 8
        assert (await engine.list_runs()).runs
        assert await engine.versions()
        assert "parked" in (await engine.status()).parked


# ---- numbers of the whole file -----------------------------------------------------------------------------------

CHANGED: Final = "SELECT changed FROM runs NOT INDEXED WHERE run = ?"
NUMBERS: Final = [
    *(("change_counter", column, damage) for column in ("id", "changed") for damage in kit.DAMAGES),
    *(("sqlite_sequence", column, damage) for column in ("name", "seq") for damage in kit.DAMAGES),
    *(("_sqlite_migrations", column, damage) for column in ("name", "applied_at") for damage in kit.DAMAGES),
    *((table, column, damage) for table, column in sorted(kit.KEYS) for damage in ("a huge number", "minus one")),
]


def damage_numbers(path: Path, table: str, column: str, damage: str) -> bool:
    """Damage the last row of a table; return False if SQLite takes no such value there."""
    with kit.loosened(path) as connection:
        try:
            connection.execute(
                f"UPDATE {table} SET {column} = {kit.DAMAGES[damage]} WHERE rowid = (SELECT max(rowid) FROM {table})"
            )
        except sqlite3.IntegrityError:
            return False
    return True


def test_a_run_whose_change_number_makes_no_sense_gets_a_new_one_when_the_file_is_opened(path: Path) -> None:
    wanted = ("NULL", "minus one", "a negative number", "a huge number", "a word", "bytes")
    planted = plant(path, [Case("waiting", "runs", "changed", damage) for damage in wanted])
    store = store_at(path)
    store.open()
    store.close()
    connection = sqlite3.connect(path)
    (last,) = connection.execute("SELECT changed FROM change_counter").fetchone()
    found = {item.case.damage: connection.execute(CHANGED, (item.run,)).fetchone()[0] for item in planted}
    connection.close()
    assert found == dict.fromkeys(wanted, last)


@pytest.mark.parametrize(("table", "column", "damage"), NUMBERS if EVERY else NUMBERS[SEED % 3 :: 3])
async def test_a_number_of_the_whole_file_is_refused_with_its_name_or_does_no_harm(
    path: Path, table: str, column: str, damage: str
) -> None:
    if not damage_numbers(path, table, column, damage):
        return
    try:
        async with serving(str(path), *kit.WORKFLOWS, durability="normal") as engine:
            assert await engine.run(kit.leaf, 4) == 8
            await engine.list_runs()
            await engine.status()
    except StoreCorrupt as error:
        if table not in str(error):
            raise
