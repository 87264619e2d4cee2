"""A file with runs in every state, copies of them, and values that no column should hold put into one column of each.

SQLite refuses such values: the tables are STRICT and have constraints. So the stored text of a table is replaced for a
moment by one that allows anything, which is what a program that edits the file, or a disk, does not ask for either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from durable_trio import Context, Engine, Retry, RunStatus, current_step, sqlite3, workflow
from tests.engine.harness import serving, wait_passivated, wait_status

# ---- the runs ----------------------------------------------------------------------------------------------------


async def double(n: int) -> int:
    return 2 * n


async def fail() -> None:
    raise ValueError("as it should")


async def fail_at_first() -> str:
    if current_step().attempt == 1:
        raise ValueError("not yet")
    return "at last"


async def undo_at_second(result: int) -> None:
    await fail_at_first()


async def branch(ctx: Context, n: int) -> None:
    await ctx.step("in branch", double, n)


@workflow
async def leaf(ctx: Context, n: int) -> int:
    return await ctx.step("a", double, n)


@workflow
async def rich(ctx: Context, n: int) -> str:
    """Something of everything, then a wait for a signal."""
    total = await ctx.step("a", double, n)
    try:
        await ctx.step("bad", fail)
    except ValueError:
        total += 1
    total += await ctx.transaction("t", lambda connection: 5)
    total += sum(await ctx.map("m", double, [1, 2]))
    async with ctx.open_nursery() as nursery:
        nursery.start_soon(branch, 1)
        nursery.start_soon(branch, 2)
    await ctx.publish("total", {"is": total})
    if ctx.patched("new"):
        total += await ctx.run_child(leaf, 10)
    await ctx.sleep(0)
    signal = await ctx.wait_signal("go", int, timeout=10**9)
    return f"{total + signal}"


@workflow
async def sleeper(ctx: Context) -> str:
    await ctx.sleep(3600)
    return "awake"


@workflow
async def flaky(ctx: Context) -> str:
    return await ctx.step("f", fail_at_first, retry=Retry.fixed(3, 3600))


@workflow
async def undone(ctx: Context) -> None:
    await ctx.step("a", double, 1, compensate=undo_at_second, compensate_retry=Retry.fixed(3, 3600))
    raise ValueError("as it should")


@workflow
async def parent(ctx: Context) -> str:
    return await ctx.run_child(rich, 1)


WORKFLOWS = (leaf, rich, sleeper, flaky, undone, parent)

#: How each run of the prepared file ends when all is well and it has got its signal.
ENDS: dict[str, tuple[str, object]] = {
    "pending": ("completed", "34"),
    "orphan": ("completed", "34"),
    "waiting": ("completed", "34"),
    "told": ("completed", "34"),
    "cancelling": ("cancelled", None),
    "sleeping": ("completed", "awake"),
    "retrying": ("completed", "at last"),
    "compensating": ("failed", None),
    "parent": ("completed", "34"),
    "completed": ("completed", 14),
    "failed": ("failed", None),
    "cancelled": ("cancelled", None),
    "parked": ("suspended", None),
}
#: Those that wait for a signal once somebody serves; a parent's is its child's.
WAIT_FOR_SIGNAL = {"pending", "orphan", "waiting", "parent"}

_HOUR = 3600 * 10**6


async def prepare(path: Path) -> None:
    """Make a file with a run in each state. Nobody serves it; all that waits for a time is due."""
    async with serving(str(path), *WORKFLOWS, durability="normal") as engine:
        for state in ("orphan", "waiting", "told", "cancelling", "parked", "cancelled"):
            await engine.start(rich, 1, id=state, tags={"state": state})
        await engine.start(sleeper, id="sleeping")
        await engine.start(flaky, id="retrying")
        await engine.start(undone, id="compensating")
        await engine.start(parent, id="parent")
        await engine.run(leaf, 7, id="completed")
        await engine.start(undone, id="failed")
        for state in ("orphan", "waiting", "told", "cancelling", "parked", "cancelled"):
            await wait_status(engine.get(state), RunStatus.SUSPENDED)
        for state in ("sleeping", "retrying", "parent"):
            await wait_status(engine.get(state), RunStatus.SUSPENDED)
        for state in ("compensating", "failed"):
            await wait_status(engine.get(state), RunStatus.COMPENSATING)
        await engine.cancel("cancelled")
        await wait_status(engine.get("cancelled"), RunStatus.CANCELLED)
        await wait_passivated(engine)
    async with Engine(str(path)) as client:
        await client.start(rich, 1, id="pending")
        await client.send_signal("told", "other", "never taken")
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement, parameters in _EDITS:
            connection.execute(statement, parameters)
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        connection.close()


# What takes too long to come about: an executor that was killed, a retry whose time has come.
_EDITS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("INSERT INTO executors (id, pid, host, boot_id, started_at, renewed_at) VALUES (50, 1, 'h', 'b', 1, 1)", ()),
    ("UPDATE runs SET owner = 50, status = 'running', wake_at = NULL, waits_for = NULL WHERE id = 'orphan'", ()),
    ("UPDATE waits SET due_at = due_at - ? WHERE kind IN ('sleep', 'retry')", (2 * _HOUR,)),
    ("UPDATE runs SET wake_at = wake_at - ? WHERE id IN ('sleeping', 'retrying', 'compensating')", (2 * _HOUR,)),
    (
        "INSERT INTO mailbox (run, kind, name, payload, signal_id, created_at)"
        " SELECT run, 'signal', 'go', '0', 'go', created_at FROM runs WHERE id = 'told'",
        (),
    ),
    (
        "INSERT INTO mailbox (run, kind, name, payload, created_at)"
        " SELECT run, 'cancel', 'cancel', '\"why\"', created_at FROM runs WHERE id = 'cancelling'",
        (),
    ),
    ("UPDATE runs SET wake_at = 1 WHERE id IN ('told', 'cancelling')", ()),
    ("UPDATE runs SET generation = 3 WHERE id = 'told'", ()),
    (
        "INSERT INTO earlier_generations (run, generation, started_at, finished_at, left_out, version, args)"
        " SELECT run, 1, 1, 2, 3, 0, args FROM runs WHERE id = 'told'",
        (),
    ),
    (
        "INSERT INTO earlier_history (run, generation, seq, branch, name, n, kind, status, attempt, compensates,"
        " started_at, finished_at, result)"
        " SELECT run, 1, 1, '', 'step', 0, 'step', 'completed', 1, 0, 1, 2, '3' FROM runs WHERE id = 'told'",
        (),
    ),
    (
        "UPDATE runs SET wake_at = 1, is_due = 1, waits_for = NULL,"
        " refused = (SELECT ',' || code || ',' FROM codes WHERE workflow = runs.workflow) WHERE id = 'parked'",
        (),
    ),
    (
        "INSERT INTO refusals (run, code, refused_at, problem)"
        " SELECT run, trim(refused, ','), 1, ? FROM runs WHERE id = 'parked'",
        ('{"kind": "divergence", "text": "for a test", "fingerprint": ""}',),
    ),
    ("INSERT INTO reports (process, updated_at, report) VALUES ('h/b/1/2', 1, '{}')", ()),
    ("UPDATE runs SET status = 'failed', wake_at = NULL, finished_at = 1 WHERE id = 'failed'", ()),
    ("DELETE FROM waits WHERE run = (SELECT run FROM runs WHERE id = 'failed')", ()),
)

# ---- copies of them ----------------------------------------------------------------------------------------------

PARTS = (
    "history",
    "waits",
    "mailbox",
    "published",
    "unread_counts",
    "refusals",
    "earlier_generations",
    "earlier_history",
)
_NUMBERED = ("history", "mailbox", "earlier_history")


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def copy_run(connection: sqlite3.Connection, run_id: str, new_id: str, *, of: tuple[int, str] | None = None) -> int:
    """Copy a run with all its rows, and its children that go on; return the copy's number."""
    given: dict[str, Any] = {"run": None, "id": new_id}
    if of is not None:
        given |= {"parent": of[0], "parent_id": of[1]}
    (run,) = connection.execute("SELECT run FROM runs WHERE id = ?", (run_id,)).fetchone()
    copy = _copy_rows(connection, "runs", given, f"id = '{run_id}'")
    for table in PARTS:
        rest: dict[str, Any] = {"run": copy} if table not in _NUMBERED else {"run": copy, "id": None}
        _copy_rows(connection, table, rest, f"run = {run}")
    children = "SELECT id FROM runs WHERE parent = ? AND finished_at IS NULL AND id NOT LIKE 'case-%'"
    for (child,) in connection.execute(children, (run,)).fetchall():
        copy_run(connection, child, f"{new_id}.kid", of=(copy, new_id))
        connection.execute(
            "UPDATE history SET result = json_quote(?) WHERE run = ? AND kind = 'child' AND result = json_quote(?)",
            (f"{new_id}.kid", copy, child),
        )
    return copy


def _copy_rows(connection: sqlite3.Connection, table: str, given: dict[str, Any], which: str) -> int:
    columns = columns_of(connection, table)
    chosen = ", ".join("?" if column in given else column for column in columns)
    values = [given[column] for column in columns if column in given]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM {table} WHERE {which}"
    return connection.execute(statement, values).lastrowid or 0


def give_rows_beside(connection: sqlite3.Connection, run: int) -> None:
    """Give a copied run an executor of its own, if it has one, and a report; nothing else may depend on them."""
    connection.execute(
        "INSERT INTO executors (id, pid, host, boot_id, started_at, renewed_at)"
        " SELECT ?, pid, host, boot_id, started_at, renewed_at FROM executors WHERE id = 50",
        (1000 + run,),
    )
    connection.execute("UPDATE runs SET owner = ? WHERE run = ? AND owner IS NOT NULL", (1000 + run, run))
    connection.execute("INSERT INTO reports SELECT ?, updated_at, report FROM reports LIMIT 1", (f"case-{run}",))


# ---- damage ------------------------------------------------------------------------------------------------------


@contextmanager
def loosened(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection on which every column takes every value; at the end the schema is as it was."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    known = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%STRICT%'")
    strict = dict(known.fetchall())
    _replace_schema(connection, {name: _loose(sql) for name, sql in strict.items()})
    try:
        yield connection
    finally:
        _replace_schema(connection, strict)
        connection.close()


def _loose(sql: str) -> str:
    sql = re.sub(r"REFERENCES runs \(run\) ON DELETE (SET NULL|CASCADE)", "", sql)
    return sql.replace("NOT NULL", "").replace("STRICT, ", "").replace("STRICT", "")


def _replace_schema(connection: sqlite3.Connection, tables: dict[str, str]) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    for name, sql in tables.items():
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    connection.execute(f"PRAGMA schema_version = {version + 1}")
    connection.execute("PRAGMA writable_schema = RESET")


#: What is put into a column, by name: SQL that may look at the value that stands there.
DAMAGES = {
    "a word": "'bogus'",
    "no text": "CAST(x'5b22ff225d' AS TEXT)",
    "an integer": "7",
    "a fraction": "1.5",
    "bytes": "x'ff00'",
    "NULL": "NULL",
    "a huge number": "9223372036854775807",
    "a negative number": "-9223372036854775808",
    "minus one": "-1",
    "broken JSON": "'{\"a\": [1,'",
    "JSON of another kind": "'{\"a\": 1}'",
    "deep JSON": "printf('%.*c', 5000, '[')",
    "nothing": "''",
}


#: Numbers of rows: the row is another one then.
KEYS = {
    ("runs", "run"),
    ("history", "id"),
    ("mailbox", "id"),
    ("executors", "id"),
    ("codes", "code"),
    ("unread_counts", "run"),
    ("earlier_history", "id"),
}


@attrs.frozen
class Case:
    """A value in a column of a row of a run in that state."""

    state: str
    table: str
    column: str
    damage: str

    def __str__(self) -> str:
        return f"{self.damage} in {self.table}.{self.column} of a run that is {self.state}"
