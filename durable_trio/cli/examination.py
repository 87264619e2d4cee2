"""What ``check`` says of what was found (``engine.examining``)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from durable_trio.cli.client import ask
from durable_trio.cli.families import findings_of, held_back
from durable_trio.cli.text import plural, visible
from durable_trio.clock import from_datetime
from durable_trio.engine.engine import Engine
from durable_trio.engine.examining import Examined
from durable_trio.engine.examining import examine as look_at_all
from durable_trio.errors import NotADatabase, SchemaTooNew, StoreCorrupt
from durable_trio.records import EngineStatus
from durable_trio.stores.address import without_password
from durable_trio.stores.examination_questions import Examination
from durable_trio.views.documents import CheckDocument, Finding
from durable_trio.workflows import version_text

__all__ = ["examine"]

_NAMES_SHOWN: Final = 3


def examine(database: str) -> CheckDocument:
    """Examine a database. What is damaged, or is none of ours, is found to be so.

    Raises:
        Failed, DurableError: there is none, or it cannot be opened for another reason; the message says why.
    """

    async def look(client: Engine) -> CheckDocument:
        status = await client.status()
        examined = await look_at_all(client._client, from_datetime(datetime.now(UTC)))
        found = examined.found
        processes = await client.processes()
        findings = (*_findings(status, examined), *findings_of(processes))
        return CheckDocument(
            database=without_password(database),
            is_sound=all(finding.level != "wrong" for finding in findings),
            findings=findings,
            runs_by_status={key.value: count for key, count in status.runs_by_status.items()},
            parked=len(status.parked),
            overdue=sum(found.overdue_counts.values()),
            expired=len(found.expired),
            set_aside=len(found.set_aside),
            compensations_failed=len(found.not_undone),
            executors_silent=sum(executor.id in examined.silent_seconds for executor in status.executors),
            workers_held_back=sum(len(held_back(report)) for report in processes),
        )

    try:
        return ask(database, look)
    except (StoreCorrupt, SchemaTooNew, NotADatabase) as error:
        return CheckDocument(
            database=without_password(database), is_sound=False, findings=(_unreadable(error),), runs_by_status={}
        )


def _unreadable(error: StoreCorrupt | SchemaTooNew | NotADatabase) -> Finding:
    if not isinstance(error, StoreCorrupt):
        return Finding(level="wrong", about="database", text=visible(str(error)))
    # SQLite's own words, where it was SQLite: those of the engine advise to check the database.
    text = visible(str(error)) if error.__cause__ is None else _damage_text(str(error.__cause__))
    return Finding(level="wrong", about="integrity", text=text)


def _damage_text(damage: str) -> str:
    text = visible(damage.replace("\n", " "))
    return f"the database is damaged: {text}; restore a copy"


def _findings(status: EngineStatus, examined: Examined) -> Iterator[Finding]:
    found = examined.found
    yield Finding(level="ok", about="database", text="a database of durable_trio, of a schema known here")
    yield from _soundness(found)
    for warning in status.warnings:
        yield Finding(level="note", about="store", text=warning)
    if not status.warnings:
        yield Finding(level="ok", about="store", text=status.store_version)
    alive = [executor for executor in status.executors if executor.is_alive]
    silent_seconds = examined.silent_seconds
    silent = [(each.pid, silent_seconds[each.id]) for each in alive if each.id in silent_seconds]
    pids = ", ".join(str(executor.pid) for executor in alive[:_NAMES_SHOWN])
    if alive:
        more = ", …" if len(alive) > _NAMES_SHOWN else ""
        yield Finding(level="ok", about="executors", text=f"{plural(len(alive), 'executor')} (process {pids}{more})")
    else:
        yield Finding(level="note", about="executors", text="nobody serves this database now")
    if silent:
        told = [f"process {pid} (for {seconds:.0f} s)" for pid, seconds in silent]
        why = "stopped, hanging, or without room to write: its log tells"
        why = why if found.why_not_writable is None else "nobody can write that he lives"
        text = f"{plural(len(silent), 'executor')} without a sign of life: {_some(told)}; {why}"
        yield Finding(level="wrong", about="silent", text=text)
    yield from _runs(status, examined, {executor.id for executor in alive})


def _soundness(found: Examination) -> Iterator[Finding]:
    if found.why_not_writable is not None:
        yield Finding(level="wrong", about="writing", text=visible(found.why_not_writable))
    if found.damage:
        yield Finding(level="wrong", about="integrity", text=_damage_text(found.damage[0]))
    elif found.damage is not None:
        yield Finding(level="ok", about="integrity", text="its pages and indexes are whole")
    if found.dangling_count:
        text = f"{plural(found.dangling_count, 'row')} without their run: the database was changed by another program"
        yield Finding(level="wrong", about="references", text=text)
    else:
        yield Finding(level="ok", about="references", text="each row belongs to a run")


def _runs(status: EngineStatus, examined: Examined, alive: set[int]) -> Iterator[Finding]:
    found = examined.found
    overdue = found.overdue_counts
    counts = ", ".join(f"{count:,} {name.value}" for name, count in status.runs_by_status.items() if count)
    yield Finding(level="ok", about="runs", text=f"runs: {counts or 'none'}")
    if status.parked:
        text = f"{plural(len(status.parked), 'run')} parked: {_some(status.parked)}; 'show' tells why"
        text += "; only runs that were due have been tried, and 'rehearse' tells of the others"
        yield Finding(level="wrong", about="parked", text=text)
    if found.ungrouped:
        is_one = len(found.ungrouped) == 1
        text = f"{plural(len(found.ungrouped), 'run')} of which it cannot be read which code may take "
        text += f"{'it' if is_one else 'them'}: {_some(found.ungrouped)}; parked as damaged once due; 'abandon' ends "
        text += "it" if is_one else "them"
        yield Finding(level="wrong", about="codes", text=text)
    dead = {owner: count for owner, count in found.owned_counts.items() if owner not in alive}
    if dead:
        advice = "if this lasts, look at its log" if alive else "serve the database, then they go on"
        text = f"{plural(sum(dead.values()), 'run')} in the hands of a process that has died; {advice}"
        yield Finding(level="wrong", about="owners", text=text)
    if overdue:
        names = [f"{version_text(*version)} ({count:,})" for version, count in overdue.items()]
        if alive:
            by_reason: dict[str, list[str]] = {}
            can_write = found.why_not_writable is None
            for version, named in zip(overdue, names, strict=True):
                why = examined.why_overdue[version] if can_write else "nobody can write that he does"
                by_reason.setdefault(why, []).append(named)
            for reason, some in by_reason.items():
                text = f"due, but nobody takes them: {_some(some)}; {visible(reason)}"
                yield Finding(level="wrong", about="workflows", text=text)
        else:
            text = f"due, and nobody serves: {_some(names)}; serve the database"
            yield Finding(level="wrong", about="workflows", text=text)
    waiting = {version: count for version, count in status.unserved_versions.items() if version not in overdue}
    if waiting:
        told = [f"{version_text(*version)} ({count:,})" for version, count in waiting.items()]
        text = f"unfinished, but no executor has their version: {_some(told)}; 'versions' tells which there are"
        yield Finding(level="note", about="versions", text=text)
    if found.expired:
        text = f"{plural(len(found.expired), 'run')} whose time to live is over, and that do not end: "
        yield Finding(level="wrong", about="expired", text=f"{text}{_some(found.expired)}")
    if found.set_aside:
        whose, them = ("its process", "it") if len(found.set_aside) == 1 else ("their processes", "them")
        text = f"{plural(len(found.set_aside), 'run')} set aside, since {whose} died each time: "
        text += (
            f"{_some(found.set_aside)}; 'show' tells in which step; mend that, then 'resume' {them}, or 'delete' {them}"
        )
        yield Finding(level="wrong", about="set_aside", text=text)
    if found.not_undone:
        text = f"{plural(len(found.not_undone), 'run')} with steps that are not undone: {_some(found.not_undone)}"
        text += "; 'show' tells which, and why; undo them by hand, then 'delete' the run"
        yield Finding(level="wrong", about="compensations", text=text)


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(map(visible, names[:_NAMES_SHOWN]))
    return f"{shown}, and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else shown
