"""Checks a database file from outside, with plain SQL, against what was told to the outside world.

Three witnesses. The *file*; the *acknowledgements*: a log, kept where no crash reaches it, of everything that a caller
was told (and, before the call, of what it asked for); the *ledger*: a log of every effect, a line for each time a
step's function began. Each log is a file of JSON lines. Nothing here uses the engine: what it believes of itself is no
proof.

``check`` looks at one instant; ``compare`` at two, of which the second must be a continuation of the first. Points are
numbered:

 1 what was acknowledged is stored, with an equal value
 2 nothing is half there
 3 one outcome per key, and it never changes
 4 effects: at least as often as recorded, ``at_most_once`` at most once, ``transaction`` exactly once
 5 each signal is consumed once or pending, in order
 6 no timer before its time, and the first due time is kept
 7 compensations are the reverse of the completed steps, none skipped
 8 fencing tokens only rise
 9 a final state does not change
10 no row without its run
11 SQLite's own checks
12 a second recovery changes nothing
13 the result is that of a run without faults
14 every run has ended
15 no process, lock or file is left
16 the log is bounded

Lines of the acknowledgements, by ``kind`` (all have ``at``, microseconds UTC, and ``run``):

- ``ask``: a durable call begins: ``key``, ``what`` (step, transaction, sleep, signal), and ``compensate``,
  ``at_most_once``, ``seconds``, ``name`` where they apply;
- ``outcome``: it has returned: ``key``, and ``value``, or ``error`` (the exception's text);
- ``start`` (``workflow``, ``args``), ``send`` (``name``, ``id``, ``payload``, ``sender``), ``cancel`` (``requested``),
  ``ended`` (``status``, ``result``): these calls have returned;
- ``resume`` and ``delete``: is about to be asked for: what was acknowledged before may be undone.

Lines of the ledger: ``at``, ``run``, ``key``, ``attempt``, ``idempotency_key``, and ``at_most_once`` or ``argument``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs

from durable_trio.stores.sqlite import sqlite3

__all__ = ["Report", "Snapshot", "Violation", "check", "compare", "main", "read_lines", "snapshot"]

Line = Mapping[str, Any]

_FINAL: Final = frozenset({"completed", "failed", "cancelled"})
_ENDINGS_OF_FILES: Final = ("", "-wal", "-shm", "-turn", "-turn-queue", "-owners")
# Far above what the engine leaves between two of its own wal checkpoints.
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
#: Keys of a result that begin with this may differ between a run with faults and one without.
VARIES: Final = "~"
# What a run that kills its process again and again fails with: it is not compensated.
_SET_ASIDE: Final = "was set aside"

_RUNS: Final = """
    SELECT run, id, workflow, status, owner, token, recoveries, started_at, finished_at, wake_at, waits_for, problem,
        generation, parent, parent_id, compensation_errors, error, result, args FROM runs ORDER BY run
"""
_HISTORY: Final = """
    SELECT run, id, seq, branch, name, n, kind, status, attempt, compensates, started_at, finished_at, error, result
    FROM history ORDER BY run, id
"""
_WAITS: Final = (
    "SELECT run, branch, name, n, kind, due_at, attempt, started_at FROM waits ORDER BY run, branch, name, n"
)
_MAILBOX: Final = "SELECT run, id, seq, kind, name, signal_id, created_at, payload FROM mailbox ORDER BY id"
_PUBLISHED: Final = "SELECT run, key, value FROM published ORDER BY run, key"
_EXECUTORS: Final = "SELECT id, ended_at FROM executors ORDER BY id"
_ORPHANS: Final = (
    ("history", "SELECT count(*) FROM history WHERE run NOT IN (SELECT run FROM runs)"),
    ("waits", "SELECT count(*) FROM waits WHERE run NOT IN (SELECT run FROM runs)"),
    ("mailbox", "SELECT count(*) FROM mailbox WHERE run NOT IN (SELECT run FROM runs)"),
    ("published", "SELECT count(*) FROM published WHERE run NOT IN (SELECT run FROM runs)"),
)


@attrs.frozen
class Violation:
    """One promise that was broken: the number of the point, and what was found."""

    point: int
    text: str

    def __str__(self) -> str:
        return f"point {self.point}: {self.text}"


@attrs.frozen
class Report:
    """What was found. ``counters`` tell how much there was to check."""

    violations: tuple[Violation, ...]
    counters: Mapping[str, int]


@attrs.frozen(kw_only=True)
class Snapshot:
    """The rows of a file at one instant; each table by the run's id, each row by column name."""

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
    """Return the lines of a log. One without its end was being written when its process died: it was told to nobody."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read a file in one read transaction. Call it in a process that has no engine on that file."""
    connection = _connect(path)
    try:
        connection.execute("BEGIN")
        return _snapshot(connection)
    finally:
        connection.close()


def _connect(path: str | os.PathLike[str]) -> sqlite3.Connection:
    # Read only: the last connection to close must not be this one and move the log.
    return sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=10, isolation_level=None)


def _rows(connection: sqlite3.Connection, statement: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(statement)
    names = [column[0] for column in cursor.description]
    for values in cursor.fetchall():
        yield dict(zip(names, values, strict=True))


def _snapshot(connection: sqlite3.Connection) -> Snapshot:
    runs = {row["id"]: row for row in _rows(connection, _RUNS)}
    ids = {row["run"]: row["id"] for row in runs.values()}

    def by_run(statement: str) -> dict[str, list[Line]]:
        found: dict[str, list[Line]] = defaultdict(list)
        for row in _rows(connection, statement):
            if "branch" in row:
                row["text"] = _key(row["branch"], row["name"], row["n"])
            found[ids.get(row["run"], "?")].append(row)
        return dict(found)

    published: dict[str, dict[str, str]] = defaultdict(dict)
    for row in _rows(connection, _PUBLISHED):
        published[ids.get(row["run"], "?")][row["key"]] = row["value"]
    return Snapshot(
        runs=runs,
        history=by_run(_HISTORY),
        waits=by_run(_WAITS),
        mailbox=by_run(_MAILBOX),
        published=dict(published),
        living=frozenset(row["id"] for row in _rows(connection, _EXECUTORS) if row["ended_at"] is None),
    )


def _key(branch: str, name: str, n: int) -> str:
    escaped = name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    return f"{branch}/{escaped}#{n}" if branch else f"{escaped}#{n}"


# ---- one instant ---------------------------------------------------------------------------------------------------


def check(
    path: str | os.PathLike[str],
    *,
    acks: Iterable[Line] = (),
    ledger: Iterable[Line] = (),
    reference: Mapping[str, Any] | None = None,
    effects_table: str | None = None,
    all_ended: bool = False,
    stopped: bool = False,
    wal_bytes_max: int = WAL_BYTES_MAX,
) -> Report:
    """Check a file at this instant.

    Args:
        acks, ledger: the lines of the two logs (module docstring).
        reference: result by ``workflow`` and arguments as JSON text (``reference_key``), of runs without faults.
        effects_table: a user's table with columns ``run`` and ``key`` into which transaction steps insert.
        all_ended: faults have stopped long enough: every run must have ended.
        stopped: no process has the file open any more: none may be left, and no lock.
        wal_bytes_max: the bound of the log.
    """
    left = list(_leftovers(path, stopped=stopped, wal_bytes_max=wal_bytes_max))
    connection = _connect(path)
    try:
        connection.execute("BEGIN")
        sound = list(_soundness(connection))
        now = _snapshot(connection)
        effects = Counter[tuple[str, str]]()
        if effects_table is not None and _has_table(connection, effects_table):
            effects.update(
                (row["run"], row["key"]) for row in _rows(connection, f'SELECT run, key FROM "{effects_table}"')
            )
    finally:
        connection.close()
    judge = _Judge(now, list(acks), list(ledger), effects if effects_table is not None else None)
    found = [*left, *sound, *judge.all(reference, all_ended=all_ended)]
    return Report(tuple(found), dict(judge.counters))


def reference_key(workflow: str, args: str) -> str:
    """Return where the reference keeps the result of a workflow with these arguments (JSON text)."""
    return f"{workflow} {args}"


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (name,)).fetchone()
    return found is not None


def _soundness(connection: sqlite3.Connection) -> Iterator[Violation]:
    for table, statement in _ORPHANS:
        (count,) = connection.execute(statement).fetchone()
        if count:
            yield Violation(10, f"{count} rows of {table} have no run")
    answers = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if answers != ["ok"]:
        yield Violation(11, f"integrity_check says {answers[:3]}")
    broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    if broken:
        yield Violation(11, f"foreign_key_check says {broken[:3]}")


def _leftovers(path: str | os.PathLike[str], *, stopped: bool, wal_bytes_max: int) -> Iterator[Violation]:
    base = Path(path)
    allowed = {base.name + ending for ending in _ENDINGS_OF_FILES}
    files = [entry for entry in base.parent.iterdir() if entry.name.startswith(base.name)]
    for entry in files:
        is_owner_lock = entry.name.startswith(f"{base.name}-owner-")  # where each executor has a file of its own
        if entry.name not in allowed and not is_owner_lock:
            yield Violation(15, f"the file {entry.name!r} was left")
        if entry.name.endswith("-wal") and entry.stat().st_size > wal_bytes_max:
            yield Violation(16, f"the log has {entry.stat().st_size} bytes, more than {wal_bytes_max}")
    if not stopped:
        return
    for pid in _processes_with({str(entry.resolve()) for entry in files}):
        yield Violation(15, f"process {pid} still has the file open")
    for ending in ("-turn", "-turn-queue"):
        if _is_locked(f"{base}{ending}"):
            yield Violation(15, f"the lock of {base.name + ending!r} is still held")


def _processes_with(files: set[str]) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue  # it has ended, or is somebody else's
        if links & files:
            yield int(process.name)


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class _Judge:
    """Holds one snapshot against the logs. Each method yields the violations of one or two points."""

    def __init__(
        self, now: Snapshot, acks: Sequence[Line], ledger: Sequence[Line], effects: Counter[tuple[str, str]] | None
    ) -> None:
        self.now = now
        self.counters: Counter[str] = Counter()
        self._effects = effects
        self._resumed = {line["run"] for line in acks if line["kind"] == "resume"}
        self._deleted = {line["run"] for line in acks if line["kind"] == "delete"}
        self._acks = [line for line in acks if line["run"] not in self._deleted]
        self._ledger = [line for line in ledger if line["run"] not in self._deleted]
        self._rows = {(run, row["text"]): row for run, rows in now.history.items() for row in rows}
        self._asks: dict[tuple[str, str], Line] = {}
        for line in self._acks:
            if line["kind"] == "ask":
                self._asks[line["run"], line["key"]] = line

    def all(self, reference: Mapping[str, Any] | None, *, all_ended: bool) -> Iterator[Violation]:
        """Yield the violations of all points that one instant can show."""
        yield from self._acknowledged()
        yield from self._whole()
        yield from self._history()
        yield from self._effects_of_steps()
        yield from self._effects_of_transactions()
        yield from self._signals()
        yield from self._timers()
        yield from self._compensations()
        yield from self._children()
        if reference is not None:
            yield from self._results(reference)
        for run in self.now.runs.values():
            self.counters[f"runs {run['status']}"] += 1
            if all_ended and run["status"] not in _FINAL:
                yield Violation(14, f"run {run['id']!r} has not ended: it is {run['status']}, wake_at {run['wake_at']}")

    # ---- point 1 -----------------------------------------------------------------------------------------------

    def _acknowledged(self) -> Iterator[Violation]:
        for line in self._acks:
            kind, run = line["kind"], self.now.runs.get(line["run"])
            if kind in ("ask", "resume"):
                continue
            self.counters[f"acknowledged {kind}"] += 1
            if run is None:
                yield Violation(1, f"{kind} of run {line['run']!r} was acknowledged, but the run is not stored")
            elif kind == "start":
                if run["workflow"] != line["workflow"] or json.loads(run["args"]) != line["args"]:
                    yield Violation(1, f"run {line['run']!r} was acknowledged with other arguments")
            elif kind == "outcome":
                yield from self._outcome(line)
            elif kind == "send":
                if not any(entry["signal_id"] == line["id"] for entry in self.now.mailbox.get(line["run"], ())):
                    yield Violation(1, f"signal {line['id']!r} to run {line['run']!r} was acknowledged and is lost")
            elif kind == "cancel":
                yield from self._cancel(line, run)
            elif kind == "publish":
                if line["key"] not in self.now.published.get(line["run"], {}):
                    yield Violation(1, f"value {line['key']!r} of run {line['run']!r} was published and is lost")
            elif kind == "ended" and line["run"] not in self._resumed:
                yield from self._ending(line, run)

    def _outcome(self, line: Line) -> Iterator[Violation]:
        row = self._rows.get((line["run"], line["key"]))
        name = f"{line['key']!r} of run {line['run']!r}"
        if row is None:
            if line["run"] not in self._resumed:
                yield Violation(1, f"the outcome of {name} was acknowledged, but is not stored")
        elif "error" in line:
            if row["error"] is None:
                if line["run"] not in self._resumed:
                    yield Violation(1, f"{name} had failed with {line['error']!r}, stored is {row['result']!r}")
            elif json.loads(row["error"]).get("message") != line["error"]:
                yield Violation(3, f"{name} had failed with {line['error']!r}, stored is {row['error'][:200]!r}")
        elif row["error"] is not None or json.loads(row["result"] or "null") != line["value"]:
            stored = row["result"] if row["error"] is None else row["error"][:200]
            yield Violation(3, f"{name} had given {line['value']!r}, stored is {stored!r}")

    def _cancel(self, line: Line, run: Line) -> Iterator[Violation]:
        if not line["requested"]:
            return
        entries = [entry for entry in self.now.mailbox.get(line["run"], ()) if entry["kind"] == "cancel"]
        if not entries and run["status"] != "cancelled":
            yield Violation(1, f"the request to cancel run {line['run']!r} was acknowledged and is lost")
        elif run["status"] == "completed":
            if any(entry["seq"] is not None for entry in entries):
                yield Violation(9, f"run {line['run']!r} has taken its cancel and is completed all the same")
            self.counters["cancel after the body's end"] += 1

    def _ending(self, line: Line, run: Line) -> Iterator[Violation]:
        if run["status"] != line["status"]:
            yield Violation(9, f"run {line['run']!r} had ended as {line['status']} and is {run['status']} now")
        elif run["status"] == "completed" and json.loads(run["result"] or "null") != line["result"]:
            yield Violation(9, f"run {line['run']!r} had given {line['result']!r}, stored is {run['result']!r}")

    # ---- points 2 and 3 ----------------------------------------------------------------------------------------

    def _whole(self) -> Iterator[Violation]:
        # The end of a child wakes its parent.
        parents = {run["parent_id"] for run in self.now.runs.values() if run["status"] not in _FINAL}
        for name, run in self.now.runs.items():
            is_final = run["status"] in _FINAL
            keys = {row["text"] for row in self.now.history.get(name, ())}
            waits = self.now.waits.get(name, ())
            for wait in waits:
                if wait["text"] in keys:
                    yield Violation(2, f"{wait['text']!r} of run {name!r} has an outcome and still a wait")
            if is_final != (run["finished_at"] is not None):
                yield Violation(2, f"run {name!r} is {run['status']} with finished_at {run['finished_at']}")
            if is_final and (waits or run["owner"] is not None or run["wake_at"] is not None):
                yield Violation(2, f"run {name!r} has ended and still has an owner, a wake_at or waits")
            if run["owner"] is not None and run["owner"] not in self.now.living:
                yield Violation(8, f"run {name!r} belongs to executor {run['owner']}, which has ended")
            is_free = run["owner"] is None and not is_final and run["problem"] is None and name not in parents
            if is_free and run["wake_at"] is None and run["waits_for"] in (None, "[]"):
                yield Violation(14, f"run {name!r} is {run['status']}, and nothing will ever wake it")
            seqs = {row["seq"]: row for row in self.now.history.get(name, ())}
            for entry in self.now.mailbox.get(name, ()):
                if entry["kind"] == "child":
                    continue  # only noted: the row of the child's end is written by the call that waits for it
                row = seqs.get(entry["seq"])
                if entry["seq"] is not None and (row is None or row["kind"] != entry["kind"]):
                    yield Violation(2, f"{entry['kind']} {entry['name']!r} of run {name!r} was consumed by no row")

    def _history(self) -> Iterator[Violation]:
        for name, rows in self.now.history.items():
            self.counters["history rows"] += len(rows)
            keys = Counter(row["text"] for row in rows)
            for key, count in keys.items():
                if count > 1:
                    yield Violation(3, f"{key!r} of run {name!r} has {count} outcomes")
            seqs = [row["seq"] for row in rows]
            if any(later <= earlier for earlier, later in pairwise(seqs)):
                yield Violation(3, f"the rows of run {name!r} do not rise: {seqs}")
            for row in rows:
                if row["error"] is not None and "StepInterrupted" in row["error"]:
                    self.counters["at-most-once interrupted"] += 1

    # ---- point 4 -----------------------------------------------------------------------------------------------

    def _effects_of_steps(self) -> Iterator[Violation]:
        executions: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in self._ledger:
            executions[line["run"], line["key"]].append(line)
        self.counters["effects"] += len(self._ledger)
        for (run, key), lines in executions.items():
            name = f"{key!r} of run {run!r}"
            row = self._rows.get((run, key))
            if len({line["idempotency_key"] for line in lines}) > 1:
                yield Violation(4, f"{name} was executed with several idempotency keys")
            if len(lines) > 1 and any(line.get("at_most_once") for line in lines):
                yield Violation(4, f"{name} is at-most-once and was executed {len(lines)} times")
            attempts = [line["attempt"] for line in lines]
            if run not in self._resumed and not _is_counting(attempts):
                yield Violation(4, f"{name} was executed with the attempts {attempts}: the count was lost")
            late = [] if row is None else [line for line in lines if line["at"] > row["finished_at"]]
            if late and run not in self._resumed:
                yield Violation(4, f"{name} was executed again after its outcome was recorded")
            self.counters["executed again"] += len(lines) - len(set(attempts))
        if not self._ledger:
            return
        for (run, key), row in self._rows.items():
            if row["kind"] not in ("step", "compensation") or run not in self._known_runs(executions):
                continue
            if "StepInterrupted" in (row["error"] or ""):
                continue
            found = [line for line in executions.get((run, key), ()) if line["attempt"] == row["attempt"]]
            if not found:
                yield Violation(4, f"{key!r} of run {run!r} has an outcome of attempt {row['attempt']}, never executed")

    def _known_runs(self, executions: Mapping[tuple[str, str], Any]) -> set[str]:
        if not hasattr(self, "_known"):
            self._known = {run for run, _ in executions}
        return self._known

    def _effects_of_transactions(self) -> Iterator[Violation]:
        if self._effects is None:
            return
        for (run, key), row in self._rows.items():
            if row["kind"] == "transaction" and run not in self._deleted:
                expected = 1 if row["status"] == "completed" else 0
                count = self._effects[run, key]
                self.counters["transactions"] += 1
                if count != expected:
                    yield Violation(4, f"transaction {key!r} of run {run!r} ({row['status']}) has {count} effects")
        for run, key in self._effects:
            if (run, key) not in self._rows and run in self.now.runs:
                yield Violation(4, f"transaction {key!r} of run {run!r} has effects and no outcome")

    # ---- point 5 -----------------------------------------------------------------------------------------------

    def _signals(self) -> Iterator[Violation]:
        for name in self.now.runs:
            entries = [entry for entry in self.now.mailbox.get(name, ()) if entry["kind"] == "signal"]
            takers = Counter(entry["seq"] for entry in entries if entry["seq"] is not None)
            rows = {row["seq"]: row for row in self.now.history.get(name, ()) if row["kind"] == "signal"}
            for count in takers.values():
                if count > 1:
                    yield Violation(5, f"{count} signals of run {name!r} were consumed by one row")
            for seq, row in rows.items():
                taken = [entry for entry in entries if entry["seq"] == seq]
                if row["status"] == "completed" and len(taken) != 1:
                    yield Violation(5, f"{row['text']!r} of run {name!r} has consumed {len(taken)} signals")
                for entry in taken:
                    self.counters["signals consumed"] += 1
                    if (entry["name"], entry["payload"]) != (row["name"], row["result"]):
                        yield Violation(5, f"{row['text']!r} of run {name!r} has not the signal's payload")
            yield from self._order(name, entries)
        yield from self._arrival()

    def _order(self, run: str, entries: Sequence[Line]) -> Iterator[Violation]:
        by_name: dict[str, list[Any]] = defaultdict(list)
        for entry in entries:
            by_name[entry["name"]].append(entry["seq"])
        for name, seqs in by_name.items():
            consumed = [seq for seq in seqs if seq is not None]
            if consumed != sorted(consumed) or None in seqs[: len(consumed)]:
                yield Violation(5, f"signals {name!r} of run {run!r} were consumed out of order: {seqs}")

    def _arrival(self) -> Iterator[Violation]:
        """What one sender has sent one after the other has arrived in that order."""
        sent: dict[tuple[Any, ...], list[str]] = defaultdict(list)
        for line in self._acks:
            if line["kind"] == "send" and line["id"] not in sent[line["run"], line["name"], line["sender"]]:
                sent[line["run"], line["name"], line["sender"]].append(line["id"])
        for (run, name, _), ids in sent.items():
            places = {entry["signal_id"]: entry["id"] for entry in self.now.mailbox.get(run, ())}
            order = [places[item] for item in ids if item in places]
            if order != sorted(order):
                yield Violation(5, f"signals {name!r} of run {run!r} did not arrive in the order of sending")

    # ---- point 6 -----------------------------------------------------------------------------------------------

    def _timers(self) -> Iterator[Violation]:
        sends = {(line["run"], line["id"]): line["at"] for line in reversed(self._acks) if line["kind"] == "send"}
        for (run, key), ask in self._asks.items():
            row = self._rows.get((run, key))
            if row is None or ask.get("seconds") is None:
                continue
            due_at = row["started_at"] + round(ask["seconds"] * 1_000_000)
            if row["kind"] == "sleep" or row["status"] == "timed_out":
                self.counters["timers"] += 1
                if row["finished_at"] < due_at:
                    early = due_at - row["finished_at"]
                    yield Violation(6, f"{row['kind']} {key!r} of run {run!r} has ended {early} µs before its time")
            if row["kind"] == "signal" and row["status"] == "timed_out":
                for entry in self.now.mailbox.get(run, ()):
                    is_later = entry["seq"] is None or entry["seq"] > row["seq"]
                    sent_at = sends.get((run, entry["signal_id"]))
                    if entry["name"] == row["name"] and is_later and sent_at is not None and sent_at <= due_at:
                        yield Violation(5, f"{key!r} of run {run!r} timed out, though a signal had come in time")

    # ---- point 7 -----------------------------------------------------------------------------------------------

    def _compensations(self) -> Iterator[Violation]:
        arguments = {(line["run"], line["key"]): line["argument"] for line in self._ledger if "argument" in line}
        for name, run in self.now.runs.items():
            rows = self.now.history.get(name, ())
            done = [row for row in rows if row["kind"] == "compensation"]
            steps = [row for row in rows if row["compensates"]]
            for row in rows:
                ask = self._asks.get((name, row["text"]))
                is_due = ask is not None and ask.get("compensate") and row["status"] == "completed"
                if is_due and not row["compensates"] and name not in self._resumed:
                    yield Violation(7, f"the compensation of {row['text']!r} of run {name!r} was not registered")
            expected = [f"compensate/{row['text']}" for row in reversed(steps)]
            found = [row["text"] for row in done]
            self.counters["compensations"] += len(found)
            if found != expected[: len(found)]:
                yield Violation(7, f"run {name!r} has compensated {found}, the reverse of its steps is {expected}")
            is_due = run["status"] in ("failed", "cancelled") and _SET_ASIDE not in (run["error"] or "")
            if is_due and len(found) < len(expected):
                yield Violation(7, f"run {name!r} is {run['status']} and has compensated only {found} of {expected}")
            if run["status"] == "completed" and found:
                yield Violation(7, f"run {name!r} is completed and has compensated {found}")
            failed = sum(row["status"] != "completed" for row in done)
            if run["status"] in _FINAL and len(json.loads(run["compensation_errors"])) != failed:
                yield Violation(7, f"{failed} compensations of run {name!r} have failed, not all are kept")
            for step in steps:
                given = arguments.get((name, f"compensate/{step['text']}"), _NOTHING)
                if given is not _NOTHING and given != json.loads(step["result"] or "null"):
                    yield Violation(7, f"the compensation of {step['text']!r} of run {name!r} was given {given!r}")

    # ---- point 10 ----------------------------------------------------------------------------------------------

    def _children(self) -> Iterator[Violation]:
        """Each row of a started child has its run, and each child the row."""
        started = Counter(run["parent_id"] for run in self.now.runs.values() if run["parent_id"] is not None)
        for name, run in self.now.runs.items():
            rows = sum(row["kind"] == "child" for row in self.now.history.get(name, ()))
            self.counters["children"] += rows
            if run["generation"] == 0 and name not in self._resumed and rows != started[name]:
                yield Violation(10, f"run {name!r} has recorded {rows} children, {started[name]} are stored")
        for name in started.keys() - self.now.runs.keys() - self._deleted:
            yield Violation(10, f"run {name!r} has children and is not stored")

    # ---- point 13 ----------------------------------------------------------------------------------------------

    def _results(self, reference: Mapping[str, Any]) -> Iterator[Violation]:
        for name, run in self.now.runs.items():
            expected = reference.get(reference_key(run["workflow"], run["args"]))
            if expected is None or run["status"] not in _FINAL:
                continue
            self.counters["results compared"] += 1
            found = [run["status"], _steady(json.loads(run["result"] or "null"))]
            if found != [expected[0], _steady(expected[1])]:
                yield Violation(
                    13, f"run {name!r} of {run['workflow']!r} gave {found}, without faults it is {expected}"
                )


_NOTHING: Final = object()


def _steady(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: value for key, value in result.items() if not key.startswith(VARIES)}
    return result


def _is_counting(attempts: Sequence[int]) -> bool:
    """Whether attempts begin at 1 and each is the one before, repeated after a crash, or the next."""
    last = 0
    for attempt in attempts:
        if attempt not in (last, last + 1) or attempt == 0:
            return False
        last = attempt
    return True


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
        if old["status"] in _FINAL and _ending_of(old) != _ending_of(new):
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


# ---- the program ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a file; print each violation, then the counters. Return 0, or 1 if something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_trio.testing.checker", description="Check a durable_trio file from outside."
    )
    parser.add_argument("file", help="the database")
    parser.add_argument("--acks", metavar="FILE", help="the log of acknowledgements, JSON lines")
    parser.add_argument("--ledger", metavar="FILE", help="the log of effects, JSON lines")
    parser.add_argument("--reference", metavar="FILE", help="results of runs without faults, one JSON object")
    parser.add_argument("--effects-table", metavar="NAME", help="the user's table that transaction steps insert into")
    parser.add_argument("--all-ended", action="store_true", help="every run must have ended")
    parser.add_argument("--stopped", action="store_true", help="no process may have the file open")
    parser.add_argument("--wal-bytes-max", type=int, default=WAL_BYTES_MAX, metavar="N")
    options = parser.parse_args(arguments)
    if not os.path.isfile(options.file):
        parser.error(f"there is no file {options.file!r}")
    report = check(
        options.file,
        acks=read_lines(options.acks) if options.acks else (),
        ledger=read_lines(options.ledger) if options.ledger else (),
        reference=json.loads(Path(options.reference).read_text()) if options.reference else None,
        effects_table=options.effects_table,
        all_ended=options.all_ended,
        stopped=options.stopped,
        wal_bytes_max=options.wal_bytes_max,
    )
    for violation in report.violations:
        print(violation)
    print(json.dumps({"violations": len(report.violations), **report.counters}, sort_keys=True))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
