"""How the server does the statements of rarer operations: by seeks, planned once, however many runs there are."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from durable_trio.stores.postgres import operations
from durable_trio.stores.postgres.url import ENGINE
from tests.kit.postgres import drop_schema, new_schema_url
from tests.stores.postgres.kit import Rows

_VERBS = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ")
_LARGE = ("runs", "history", "earlier_history", "earlier_generations", "mailbox", "waits", "published", "refusals")


def statements() -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the statements by which rarer operations are done."""
    for name in (each.name for each in pkgutil.iter_modules(operations.__path__)):
        module = importlib.import_module(f"{operations.__name__}.{name}")
        for constant, value in sorted(vars(module).items()):
            texts = value if isinstance(value, tuple) else (value,)
            for number, text in enumerate(texts):
                if isinstance(text, str) and text.lstrip().startswith(_VERBS) and _is_own(module, constant):
                    yield f"{name}.{constant}[{number}]", text


def _is_own(module: ModuleType, name: str) -> bool:
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    return any(isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name for node in tree.body)


def plan_of(rows: Rows, text: str) -> str:
    """Return the plan of a statement, whatever its values are."""
    rows.execute(f"PREPARE asked AS {text}")
    count = rows.one(
        "SELECT coalesce(array_length(parameter_types, 1), 0) FROM pg_prepared_statements WHERE name = 'asked'"
    )
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    plan = "\n".join(line for (line,) in rows.all(f"EXPLAIN EXECUTE asked{values}"))
    rows.execute("DEALLOCATE asked")
    return plan


# One row each.
_FIRST_OF_ALL = ("leases.GHOSTS[0]",)


def walks(rows: Rows, plan: str) -> list[str]:
    """Return what a plan walks through: tables, and indexes of which it does not say what comes first."""
    first = dict(
        rows.all(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true) FROM pg_index "
            "JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = current_schema()::regnamespace"
        )
    )
    found = [table for table in _LARGE if re.search(rf"Seq Scan on {table}\b", plan)]
    for index, condition in re.findall(r"Index (?:Only )?Scan (?:using|on) (\S+)[^\n]*\n([^\n]*)", f"{plan}\n"):
        table = index.partition("_")[0]
        if table in _LARGE and not re.search(rf"Index Cond: .*\(?(ROW\()?{first[index]}\W.*[=<>]", condition):
            found.append(index)
    return found


def fill(rows: Rows) -> None:
    """Add many rows: of runs in line, that are owned, and that have ended."""
    rows.add_runs(3000)
    rows.add_runs(3000, owner=4711, parent=1, wake_at=None, is_due=False, status="running")
    rows.add_runs(3000, wake_at=None, is_due=False, status="completed", finished_at=20)
    rows.add_runs(500, status="suspended", refused=",1,", token=1)
    rows.execute("INSERT INTO mailbox (run, created_at, kind, name) SELECT run, 1, 'signal', 'go' FROM runs")
    rows.execute("INSERT INTO refusals (run, code, refused_at, problem) SELECT run, 1, 1, '{}' FROM runs")
    values = "run, gen_random_uuid(), 0, 1, 1, '', 'a'"
    columns = "run, key, n, attempt, started_at, branch, name"
    rows.execute(f"INSERT INTO waits ({columns}, kind) SELECT {values}, 'sleep' FROM runs")
    rows.execute(
        f"INSERT INTO history ({columns}, kind, seq, compensates, finished_at, status) "
        f"SELECT {values}, 'step', 1, false, 1, 'completed' FROM runs"
    )


@pytest.fixture
def url() -> Iterator[str]:
    """Of a schema of which the server knows nothing yet."""
    new = new_schema_url()
    yield new
    drop_schema(new)


@pytest.mark.parametrize("is_filled", [False, True], ids=["as long as there are none", "once there are many"])
def test_a_statement_walks_through_no_large_table(rows: Rows, is_filled: bool) -> None:
    """A plan is kept for minutes; so one that was made for no runs must do for many as well."""
    if is_filled:
        fill(rows)
        rows.execute("ANALYZE")
    for setting in ENGINE:
        rows.execute(setting)
    found = dict(statements())
    assert len(found) > 100
    for name, text in found.items():
        plan = plan_of(rows, text)
        assert walks(rows, plan) == [] or name in _FIRST_OF_ALL, f"{name}\n{plan}"
