"""What ``check`` looks at. The only SQL of the command line is here, on a connection of ``engine.connect``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
import trio

from durable_trio.cli.client import ask
from durable_trio.cli.families import findings_of, held_back
from durable_trio.cli.text import plural, visible
from durable_trio.clock import MICROSECONDS, from_datetime
from durable_trio.engine.engine import Engine
from durable_trio.engine.runs.suspects import SET_ASIDE
from durable_trio.engine.servers import look_at_servers
from durable_trio.errors import DurableError, NotADatabase, SchemaTooNew, StoreCorrupt
from durable_trio.limits import OVERDUE_SECONDS
from durable_trio.records import EngineStatus, RunStatus
from durable_trio.stores.sqlite import sqlite3
from durable_trio.stores.sqlite.parked import IS_PARKED, IS_UNGROUPED
from durable_trio.stores.sqlite.writable import why_not_writable
from durable_trio.views.documents import CheckDocument, Finding
from durable_trio.workflows import version_text

__all__ = ["examine"]

_INTEGRITY: Final = "PRAGMA integrity_check(5)"
_REFERENCES: Final = "PRAGMA foreign_key_check"
_ENDED: Final = ", ".join(f"'{status.value}'" for status in RunStatus if status.is_final)
_OWNED: Final = "SELECT owner, count(*) FROM runs WHERE owner IS NOT NULL GROUP BY owner ORDER BY owner"
_OVERDUE: Final = f"""
    SELECT workflow, version, count(*) FROM runs WHERE owner IS NULL AND wake_at <= ? AND NOT ({IS_PARKED})
    GROUP BY workflow, version ORDER BY workflow, version
"""
_UNDONE_NOT: Final = """
    SELECT id FROM runs WHERE compensation_errors <> '[]' ORDER BY coalesce(finished_at, created_at) DESC
"""
_SET_ASIDE: Final = f"""
    SELECT id FROM runs WHERE status = '{RunStatus.FAILED.value}' AND instr(error, '{SET_ASIDE}') AND CASE
        WHEN json_valid(error) THEN json_extract(error, '$.type') = '{DurableError.__module__}.{DurableError.__name__}'
            AND json_extract(error, '$.message') LIKE 'run %{SET_ASIDE}%'
        ELSE 0 END
    ORDER BY finished_at DESC
"""
_EXPIRED: Final = f"SELECT id FROM runs WHERE ttl_at <= ? AND status NOT IN ({_ENDED}) ORDER BY ttl_at"
_UNGROUPED: Final = f"SELECT id FROM runs WHERE finished_at IS NULL AND {IS_UNGROUPED} ORDER BY run"
# A run that is due is taken within milliseconds, or as soon as there is room for it.
_OVERDUE_AFTER: Final = timedelta(seconds=OVERDUE_SECONDS)
_NAMES_SHOWN: Final = 3


@attrs.frozen(kw_only=True)
class _Rows:
    """What SQL had to be asked for."""

    damage: tuple[str, ...]
    dangling: int
    owned: dict[int, int]  # by executor
    overdue: dict[tuple[str, int], int]  # by workflow and version
    not_undone: tuple[str, ...]  # runs of which a compensation has failed, or was not run
    set_aside: tuple[str, ...]  # of which the process died each time
    ungrouped: tuple[str, ...]  # of which it cannot be read which code may take them
    expired: tuple[str, ...]  # that have not ended, though their time to live is over
    why_not_writable: str | None
    silent: dict[int, int] = attrs.field(factory=dict)  # by executor: microseconds since it said that it lives
    why_overdue: dict[tuple[str, int], str] = attrs.field(factory=dict)


def examine(database: str) -> CheckDocument:
    """Examine a database. What is damaged, or is none of ours, is found to be so.

    Raises:
        Failed, DurableError: there is none, or it cannot be opened for another reason; the message says why.
    """

    async def look(client: Engine) -> CheckDocument:
        status = await client.status()
        due_before = datetime.now(UTC) - _OVERDUE_AFTER
        rows = await trio.to_thread.run_sync(_read, client, database, due_before, abandon_on_cancel=True)
        servers = await look_at_servers(client._client.services_in_use(), from_datetime(datetime.now(UTC)))
        rows = attrs.evolve(
            rows,
            silent={each.id: each.silent for each in servers.executors if each.silent is not None and each.is_silent},
            why_overdue={version: servers.why_not(*version) for version in rows.overdue},
        )
        processes = await client.processes()
        findings = (*_findings(status, rows), *findings_of(processes))
        return CheckDocument(
            database=database,
            is_sound=all(finding.level != "wrong" for finding in findings),
            findings=findings,
            runs_by_status={key.value: count for key, count in status.runs_by_status.items()},
            parked=len(status.parked),
            overdue=sum(rows.overdue.values()),
            expired=len(rows.expired),
            set_aside=len(rows.set_aside),
            compensations_failed=len(rows.not_undone),
            executors_silent=sum(executor.id in rows.silent for executor in status.executors),
            workers_held_back=sum(len(held_back(report)) for report in processes),
        )

    try:
        return ask(database, look)
    except (StoreCorrupt, SchemaTooNew, NotADatabase) as error:
        return CheckDocument(database=database, is_sound=False, findings=(_unreadable(error),), runs_by_status={})


def _unreadable(error: StoreCorrupt | SchemaTooNew | NotADatabase) -> Finding:
    if not isinstance(error, StoreCorrupt):
        return Finding(level="wrong", about="file", text=visible(str(error)))
    # SQLite's own words, where it was SQLite: those of the engine advise to check the file.
    text = visible(str(error)) if error.__cause__ is None else _damage_text(str(error.__cause__))
    return Finding(level="wrong", about="integrity", text=text)


def _damage_text(damage: str) -> str:
    text = visible(damage.replace("\n", " "))
    return f"the file is damaged: {text}; restore a copy"


def _read(client: Engine, database: str, due_before: datetime) -> _Rows:
    connection: Any = client.connect()
    connection.text_factory = _text  # one name that is not UTF-8 must not keep it from the rest
    try:
        due = from_datetime(due_before)
        answers = [str(row[0]) for row in connection.execute(_INTEGRITY).fetchall()]
        return _Rows(
            damage=() if answers == ["ok"] else tuple(answers),
            dangling=len(connection.execute(_REFERENCES).fetchall()),
            owned=dict(connection.execute(_OWNED).fetchall()),
            overdue={(name, version): count for name, version, count in connection.execute(_OVERDUE, (due,))},
            not_undone=tuple(str(row[0]) for row in connection.execute(_UNDONE_NOT)),
            set_aside=tuple(str(row[0]) for row in connection.execute(_SET_ASIDE)),
            ungrouped=tuple(str(row[0]) for row in connection.execute(_UNGROUPED)),
            expired=tuple(str(row[0]) for row in connection.execute(_EXPIRED, (due,))),
            why_not_writable=why_not_writable(connection, os.path.abspath(database)),
        )
    except sqlite3.DatabaseError as error:
        raise StoreCorrupt(f"the database cannot be read to its end ({error})") from error
    finally:
        connection.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _findings(status: EngineStatus, rows: _Rows) -> Iterator[Finding]:
    yield Finding(level="ok", about="file", text="the file is a database of durable_trio, of a schema known here")
    yield from _soundness(rows)
    for warning in status.warnings:
        yield Finding(level="note", about="store", text=warning)
    if not status.warnings:
        yield Finding(level="ok", about="store", text=status.store_version)
    alive = [executor for executor in status.executors if executor.is_alive]
    silent = [(each.pid, rows.silent[each.id] / MICROSECONDS) for each in alive if each.id in rows.silent]
    pids = ", ".join(str(executor.pid) for executor in alive[:_NAMES_SHOWN])
    if alive:
        more = ", …" if len(alive) > _NAMES_SHOWN else ""
        yield Finding(level="ok", about="executors", text=f"{plural(len(alive), 'executor')} (process {pids}{more})")
    else:
        yield Finding(level="note", about="executors", text="nobody serves this database now")
    if silent:
        told = [f"process {pid} (for {seconds:.0f} s)" for pid, seconds in silent]
        why = "stopped, hanging, or without room to write: its log tells"
        why = why if rows.why_not_writable is None else "nobody can write that he lives"
        text = f"{plural(len(silent), 'executor')} without a sign of life: {_some(told)}; {why}"
        yield Finding(level="wrong", about="silent", text=text)
    yield from _runs(status, rows, {executor.id for executor in alive})


def _soundness(rows: _Rows) -> Iterator[Finding]:
    if rows.why_not_writable is not None:
        yield Finding(level="wrong", about="writing", text=visible(rows.why_not_writable))
    if rows.damage:
        yield Finding(level="wrong", about="integrity", text=_damage_text(rows.damage[0]))
    else:
        yield Finding(level="ok", about="integrity", text="its pages and indexes are whole")
    if rows.dangling:
        text = f"{plural(rows.dangling, 'row')} without their run: the file was changed by another program"
        yield Finding(level="wrong", about="references", text=text)
    else:
        yield Finding(level="ok", about="references", text="each row belongs to a run")


def _runs(status: EngineStatus, rows: _Rows, alive: set[int]) -> Iterator[Finding]:
    counts = ", ".join(f"{count:,} {name.value}" for name, count in status.runs_by_status.items() if count)
    yield Finding(level="ok", about="runs", text=f"runs: {counts or 'none'}")
    if status.parked:
        text = f"{plural(len(status.parked), 'run')} parked: {_some(status.parked)}; 'show' tells why"
        text += "; only runs that were due have been tried, and 'rehearse' tells of the others"
        yield Finding(level="wrong", about="parked", text=text)
    if rows.ungrouped:
        is_one = len(rows.ungrouped) == 1
        text = f"{plural(len(rows.ungrouped), 'run')} of which it cannot be read which code may take "
        text += f"{'it' if is_one else 'them'}: {_some(rows.ungrouped)}; parked as damaged once due; 'abandon' ends "
        text += "it" if is_one else "them"
        yield Finding(level="wrong", about="codes", text=text)
    dead = {owner: count for owner, count in rows.owned.items() if owner not in alive}
    if dead:
        advice = "if this lasts, look at its log" if alive else "serve the database, then they go on"
        text = f"{plural(sum(dead.values()), 'run')} in the hands of a process that has died; {advice}"
        yield Finding(level="wrong", about="owners", text=text)
    if rows.overdue:
        names = [f"{version_text(*version)} ({count:,})" for version, count in rows.overdue.items()]
        if alive:
            by_reason: dict[str, list[str]] = {}
            for version, named in zip(rows.overdue, names, strict=True):
                why = rows.why_overdue[version] if rows.why_not_writable is None else "nobody can write that he does"
                by_reason.setdefault(why, []).append(named)
            for reason, some in by_reason.items():
                text = f"due, but nobody takes them: {_some(some)}; {visible(reason)}"
                yield Finding(level="wrong", about="workflows", text=text)
        else:
            text = f"due, and nobody serves: {_some(names)}; serve the database"
            yield Finding(level="wrong", about="workflows", text=text)
    waiting = {version: count for version, count in status.unserved_versions.items() if version not in rows.overdue}
    if waiting:
        told = [f"{version_text(*version)} ({count:,})" for version, count in waiting.items()]
        text = f"unfinished, but no executor has their version: {_some(told)}; 'versions' tells which there are"
        yield Finding(level="note", about="versions", text=text)
    if rows.expired:
        text = f"{plural(len(rows.expired), 'run')} whose time to live is over, and that do not end: "
        yield Finding(level="wrong", about="expired", text=f"{text}{_some(rows.expired)}")
    if rows.set_aside:
        whose, them = ("its process", "it") if len(rows.set_aside) == 1 else ("their processes", "them")
        text = f"{plural(len(rows.set_aside), 'run')} set aside, since {whose} died each time: {_some(rows.set_aside)}"
        text += f"; 'show' tells in which step; mend that, then 'resume' {them}, or 'delete' {them}"
        yield Finding(level="wrong", about="set_aside", text=text)
    if rows.not_undone:
        text = f"{plural(len(rows.not_undone), 'run')} with steps that are not undone: {_some(rows.not_undone)}"
        text += "; 'show' tells which, and why; undo them by hand, then 'delete' the run"
        yield Finding(level="wrong", about="compensations", text=text)


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(map(visible, names[:_NAMES_SHOWN]))
    return f"{shown}, and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else shown
