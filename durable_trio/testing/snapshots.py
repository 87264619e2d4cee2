"""What a database holds at one instant, read with plain SQL, and what a later instant must not have changed.

Its address is the path of a file, or a ``postgresql://`` URL. The tables of both are alike; where they are not, there
is a text for each.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs

from durable_trio.stores.address import is_url
from durable_trio.stores.sqlite import sqlite3

__all__ = [
    "FINAL",
    "Ask",
    "Line",
    "Snapshot",
    "Violation",
    "asking",
    "compare",
    "connect",
    "read_lines",
    "read_snapshot",
    "snapshot",
]

Line = Mapping[str, Any]
#: Gives the rows of a statement, by column name.
Ask = Callable[[str], Sequence[dict[str, Any]]]

FINAL: Final = frozenset({"completed", "failed", "cancelled"})

# Not those that are being removed or copied: nobody sees them, and their ids begin with a control character.
_RUNS: Final = """
    SELECT run, id, workflow, status, owner, token, recoveries, started_at, finished_at, wake_at, {waits_for}, problem,
        generation, parent, parent_id, compensation_errors, error, result, args
    FROM runs WHERE {is_visible} ORDER BY run
"""
_RUNS_IN_FILE: Final = _RUNS.format(waits_for="waits_for", is_visible="id NOT GLOB char(1) || '*'")
_RUNS_ON_SERVER: Final = _RUNS.format(
    waits_for="array_to_json(waits_for)::text AS waits_for", is_visible="hidden_at IS NULL"
)
# In a file also the order of the commits can be seen.
_HISTORY: Final = """
    SELECT run, {id}, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at, error, result
    FROM history ORDER BY run, {order}
"""
_HISTORY_IN_FILE: Final = _HISTORY.format(id="id", order="id")
_HISTORY_ON_SERVER: Final = _HISTORY.format(id="key::text AS id", order="seq")
_WAITS: Final = (
    "SELECT run, branch, name, n, kind, due_at, attempt, started_at FROM waits ORDER BY run, branch, name, n"
)
_MAILBOX: Final = "SELECT run, id, seq, kind, name, signal_id, created_at, payload FROM mailbox ORDER BY id"
_PUBLISHED: Final = "SELECT run, key, value FROM published ORDER BY run, key"
_EXECUTORS: Final = "SELECT id, ended_at FROM executors ORDER BY id"


@attrs.frozen
class Violation:
    """One promise that was broken: the number of the point, and what was found."""

    point: int
    text: str

    def __str__(self) -> str:
        return f"point {self.point}: {self.text}"


@attrs.frozen(kw_only=True)
class Snapshot:
    """The rows of a database at one instant; each table by the run's id, each row by column name."""

    runs: Mapping[str, Line]
    history: Mapping[str, Sequence[Line]]
    waits: Mapping[str, Sequence[Line]]
    mailbox: Mapping[str, Sequence[Line]]
    published: Mapping[str, Mapping[str, str]]
    living: frozenset[int]  # executors that have not ended

    def without_executors(self) -> tuple[Any, ...]:
        """Return all that a recovery without work must leave as it is."""
        return (self.runs, self.history, self.waits, self.mailbox, self.published)


# ---- reading -------------------------------------------------------------------------------------------------------


def read_lines(path: str | os.PathLike[str]) -> list[Line]:
    """Return the lines of a log. One without its end was being written when its process died: it was told to nobody.

    The next process goes on behind it, so such a part of a line may stand in the middle, if each begins a line anew.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.split("\n")[:-1]:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def snapshot(address: str | os.PathLike[str]) -> Snapshot:
    """Read a database at one instant. Of a file call it in a process that has no engine on it."""
    with asking(address) as ask:
        return read_snapshot(ask, is_on_server=is_url(os.fspath(address)))


@contextmanager
def asking(address: str | os.PathLike[str]) -> Iterator[Ask]:
    """Give what asks a database within one transaction that only reads."""
    if is_url(os.fspath(address)):
        from durable_trio.stores.postgres.reading import reading  # the driver is an extra

        with reading(os.fspath(address)) as server:
            yield lambda statement: _rows_of(server.execute(statement))
        return
    with closing(connect(address)) as file:
        file.execute("BEGIN")
        yield lambda statement: _rows_of(file.execute(statement))


def connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    """Open a file for reading only."""
    # Read only: the last connection to close must not be this one and move the log.
    return sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=10, isolation_level=None)


def _rows_of(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def read_snapshot(ask: Ask, *, is_on_server: bool) -> Snapshot:
    """Read all rows."""
    runs = {row["id"]: row for row in ask(_RUNS_ON_SERVER if is_on_server else _RUNS_IN_FILE)}
    ids = {row["run"]: row["id"] for row in runs.values()}

    def by_run(statement: str) -> dict[str, list[Line]]:
        found: dict[str, list[Line]] = defaultdict(list)
        for row in ask(statement):
            if "branch" in row:
                row["text"] = _key(row["branch"], row["name"], row["n"])
            found[ids.get(row["run"], "?")].append(row)
        return dict(found)

    published: dict[str, dict[str, str]] = defaultdict(dict)
    for row in ask(_PUBLISHED):
        published[ids.get(row["run"], "?")][row["key"]] = row["value"]
    return Snapshot(
        runs=runs,
        history=by_run(_HISTORY_ON_SERVER if is_on_server else _HISTORY_IN_FILE),
        waits=by_run(_WAITS),
        mailbox=by_run(_MAILBOX),
        published=dict(published),
        living=frozenset(row["id"] for row in ask(_EXECUTORS) if row["ended_at"] is None),
    )


def _key(branch: str, name: str, n: int) -> str:
    escaped = name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    return f"{branch}/{escaped}#{n}" if branch else f"{escaped}#{n}"


# ---- two instants --------------------------------------------------------------------------------------------------


def compare(before: Snapshot, after: Snapshot, *, excused: Iterable[str] = ()) -> list[Violation]:
    """Return what the later of two snapshots has changed that nothing may change.

    ``excused``: runs that were resumed or deleted in between.
    """
    found: list[Violation] = []
    free = frozenset(excused)
    for name, old in before.runs.items():
        new = after.runs.get(name)
        if name in free:
            continue
        if new is None:
            found.append(Violation(1, f"run {name!r} was stored and is gone"))
            continue
        if new["token"] < old["token"]:
            found.append(Violation(8, f"the token of run {name!r} fell from {old['token']} to {new['token']}"))
        if old["owner"] is not None and new["owner"] not in (None, old["owner"]) and new["token"] <= old["token"]:
            found.append(Violation(8, f"run {name!r} changed hands under token {new['token']}"))
        if old["status"] in FINAL and _ending_of(old) != _ending_of(new):
            found.append(Violation(9, f"run {name!r} had ended: {_ending_of(old)}, now {_ending_of(new)}"))
        if old["generation"] != new["generation"]:
            continue  # it has begun a new history
        later = {row["id"]: row for row in after.history.get(name, ())}
        for row in before.history.get(name, ()):
            if later.get(row["id"]) != row:
                found.append(Violation(3, f"the outcome of {row['text']!r} of run {name!r} has changed or is gone"))
        found += _compare_waits(name, before, after)
        entries = {entry["id"]: entry for entry in after.mailbox.get(name, ())}
        for entry in before.mailbox.get(name, ()):
            new_entry = entries.get(entry["id"])
            if new_entry is None or entry["seq"] not in (None, new_entry["seq"]):
                found.append(Violation(5, f"{entry['kind']} {entry['name']!r} of run {name!r} is gone or unread again"))
    return found


def _compare_waits(name: str, before: Snapshot, after: Snapshot) -> Iterator[Violation]:
    rows = {row["text"]: row for row in after.history.get(name, ())}
    waits = {wait["text"]: wait for wait in after.waits.get(name, ())}
    for wait in before.waits.get(name, ()):
        later = rows.get(wait["text"]) or waits.get(wait["text"])
        if later is None:
            continue
        if later["started_at"] != wait["started_at"] or later["attempt"] < wait["attempt"]:
            yield Violation(6, f"{wait['kind']} {wait['text']!r} of run {name!r} has begun anew")
        if wait["kind"] in ("sleep", "signal") and later.get("due_at", wait["due_at"]) != wait["due_at"]:
            yield Violation(6, f"{wait['kind']} {wait['text']!r} of run {name!r} has another due time")


def _ending_of(run: Line) -> tuple[Any, ...]:
    return (run["status"], run["result"], run["error"], run["finished_at"], run["compensation_errors"])
