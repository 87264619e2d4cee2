"""Checks a database from outside, with plain SQL, against what was told to the outside world.

Three witnesses. The *database*: a file, or the URL of a schema on a server; the *acknowledgements*: a log, kept where
no crash reaches it, of everything that a caller was told (and, before the call, of what it asked for); the *ledger*: a
log of every effect, a line for each time a step's function began. Each log is a file of JSON lines. Nothing here uses
the engine: what it believes of itself is no proof.

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
11 the database's own checks (on a server, if it has ``amcheck``)
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
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from durable_trio.stores.address import is_url
from durable_trio.stores.sqlite.holders import processes_with
from durable_trio.testing.judge import Judge, reference_key
from durable_trio.testing.snapshots import (
    Ask,
    Line,
    Snapshot,
    Violation,
    asking,
    compare,
    read_lines,
    read_snapshot,
    snapshot,
)

__all__ = ["Report", "Snapshot", "Violation", "check", "compare", "main", "read_lines", "reference_key", "snapshot"]

_ENDINGS_OF_FILES: Final = ("", "-wal", "-shm", "-turn", "-turn-queue", "-owners", "-steps")
# Far above what the engine leaves between two of its own wal checkpoints.
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
_OF_RUNS: Final = ("history", "earlier_history", "earlier_generations", "waits", "mailbox", "published")
_SCHEMA: Final = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
_CORRUPT_INDEXES: Final = f"""
    SELECT bt_index_check(pg_class.oid, true) FROM pg_class JOIN pg_am ON pg_am.oid = relam
    WHERE amname = 'btree' AND relkind = 'i' AND relnamespace = {_SCHEMA}
"""
_HELD_LOCKS: Final = f"""
    SELECT pid FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid = (hashtext('durable_trio ' || {_SCHEMA}) & 4294967295::bigint)::oid
"""
# A server hears of the death of a process a moment later.
_LETTING_GO_SECONDS_MAX: Final = 10.0


@attrs.frozen
class Report:
    """What was found. ``counters`` tell how much there was to check."""

    violations: tuple[Violation, ...]
    counters: Mapping[str, int]


# ---- the check -----------------------------------------------------------------------------------------------------


def check(
    address: str | os.PathLike[str],
    *,
    acks: Iterable[Line] = (),
    ledger: Iterable[Line] = (),
    reference: Mapping[str, Any] | None = None,
    effects_table: str | None = None,
    all_ended: bool = False,
    stopped: bool = False,
    wal_bytes_max: int = WAL_BYTES_MAX,
) -> Report:
    """Check a database at this instant, a file or what a ``postgresql://`` URL names.

    Args:
        acks, ledger: the lines of the two logs (module docstring).
        reference: result by ``workflow`` and arguments as JSON text (``reference_key``), of runs without faults.
        effects_table: a user's table with columns ``run`` and ``key`` into which transaction steps insert.
        all_ended: faults have stopped long enough: every run must have ended.
        stopped: no process has it open any more: none may be left, and no lock.
        wal_bytes_max: the bound of the log of a file.
    """
    is_on_server = is_url(os.fspath(address))
    if is_on_server:
        left = list(_locks_left(os.fspath(address))) if stopped else []
    else:
        left = list(_leftovers(address, stopped=stopped, wal_bytes_max=wal_bytes_max))
    with asking(address) as ask:
        sound = [*_dangling(ask), *(_sound_server(ask) if is_on_server else _sound_file(ask))]
        now = read_snapshot(ask, is_on_server=is_on_server)
        effects = Counter[tuple[str, str]]()
        if effects_table is not None and _has_table(ask, effects_table, is_on_server=is_on_server):
            effects.update((row["run"], row["key"]) for row in ask(f'SELECT run, key FROM "{effects_table}"'))
    judge = Judge(now, list(acks), list(ledger), effects if effects_table is not None else None)
    found = [*left, *sound, *judge.all(reference, all_ended=all_ended)]
    return Report(tuple(found), dict(judge.counters))


def _has_table(ask: Ask, name: str, *, is_on_server: bool) -> bool:
    literal = "'" + name.replace("'", "''") + "'"
    if is_on_server:
        return bool(ask(f"SELECT 1 FROM pg_tables WHERE tablename = {literal}"))
    return bool(ask(f"SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = {literal}"))


def _dangling(ask: Ask) -> Iterator[Violation]:
    for table in _OF_RUNS:
        ((count,),) = (
            row.values() for row in ask(f"SELECT count(*) FROM {table} WHERE run NOT IN (SELECT run FROM runs)")
        )
        if count:
            yield Violation(10, f"{count} rows of {table} have no run")


def _sound_file(ask: Ask) -> Iterator[Violation]:
    answers = [row["integrity_check"] for row in ask("PRAGMA integrity_check")]
    if answers != ["ok"]:
        yield Violation(11, f"integrity_check says {answers[:3]}")
    broken = ask("PRAGMA foreign_key_check")
    if broken:
        yield Violation(11, f"foreign_key_check says {broken[:3]}")


def _sound_server(ask: Ask) -> Iterator[Violation]:
    if ask("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'"):
        try:
            ask(_CORRUPT_INDEXES)
        except Exception as error:
            yield Violation(11, f"amcheck says {error}")


def _locks_left(url: str) -> Iterator[Violation]:
    until = time.monotonic() + _LETTING_GO_SECONDS_MAX
    while True:
        with asking(url) as ask:
            pids = [row["pid"] for row in ask(_HELD_LOCKS)]
        if not pids:
            return
        if time.monotonic() > until:
            yield Violation(15, f"a store is still open: the server's processes {pids} hold its lock")
            return
        time.sleep(0.05)


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
    for pid in processes_with({str(entry.resolve()) for entry in files}):
        yield Violation(15, f"process {pid} still has the file open")
    for ending in ("-turn", "-turn-queue"):
        if _is_locked(f"{base}{ending}"):
            yield Violation(15, f"the lock of {base.name + ending!r} is still held")


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


# ---- the program ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a database; print each violation, then the counters. Return 0, or 1 if something was found."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_trio.testing.checker", description="Check a durable_trio database from outside."
    )
    parser.add_argument("database", help="its file, or its postgresql:// URL")
    parser.add_argument("--acks", metavar="FILE", help="the log of acknowledgements, JSON lines")
    parser.add_argument("--ledger", metavar="FILE", help="the log of effects, JSON lines")
    parser.add_argument("--reference", metavar="FILE", help="results of runs without faults, one JSON object")
    parser.add_argument("--effects-table", metavar="NAME", help="the user's table that transaction steps insert into")
    parser.add_argument("--all-ended", action="store_true", help="every run must have ended")
    parser.add_argument("--stopped", action="store_true", help="no process may have it open")
    parser.add_argument("--wal-bytes-max", type=int, default=WAL_BYTES_MAX, metavar="N")
    options = parser.parse_args(arguments)
    if not is_url(options.database) and not os.path.isfile(options.database):
        parser.error(f"there is no file {options.database!r}")
    report = check(
        options.database,
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
