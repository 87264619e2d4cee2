"""Which versions of workflows there are, who serves them, and which runs need them; see ``engine.versions``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from durable_trio.engine.records_of import instant_of, version_or_none
from durable_trio.engine.wiring import Services
from durable_trio.records import CodeRecord, VersionRecord
from durable_trio.rows import NO_VERSION, CodeRow, ExecutorRow, ServedCode
from durable_trio.stores.code_questions import CountRefused, ListCodes, ListServed, RefusedCount
from durable_trio.stores.questions import CountRuns, ListExecutors
from durable_trio.workflows import INLINE_NAME

__all__ = ["living_executors", "served_by", "unserved", "versions"]

WorkflowVersion = tuple[str, int]


async def living_executors(services: Services) -> tuple[ExecutorRow, ...]:
    """Return the executors whose processes have not certainly ended."""
    return tuple(row for row in await services.writer.ask(ListExecutors()) if row.may_live)


async def served_by(services: Services, living: Iterable[ExecutorRow]) -> dict[int, tuple[ServedCode, ...]]:
    """Return which codes each executor has, of those that are alive."""
    found: dict[int, tuple[ServedCode, ...]] = {}
    for each in await services.writer.ask(ListServed()):
        found[each.executor] = (*found.get(each.executor, ()), each.code)
    return {row.id: found[row.id] for row in living if row.id in found}


def unserved(unfinished: Mapping[WorkflowVersion, int], codes: Iterable[ServedCode]) -> dict[WorkflowVersion, int]:
    """Return the versions with unfinished runs that nobody has, of workflows of which somebody has another one."""
    served = {(code.workflow, code.version) for code in codes}
    workflows = {workflow for workflow, _ in served}
    return {
        which: count
        for which, count in unfinished.items()
        if which[1] != NO_VERSION and which[0] in workflows and which not in served
    }


async def versions(services: Services) -> tuple[VersionRecord, ...]:
    """Return the versions of all workflows, by name and number; see ``engine.versions``."""
    writer = services.writer
    unfinished = (await writer.ask(CountRuns())).unfinished_by_version
    rows = await writer.ask(ListCodes())
    served = await served_by(services, await living_executors(services))
    refused = await writer.ask(CountRefused())
    executors: dict[int, list[int]] = {}
    for executor, codes in served.items():
        for code in codes:
            executors.setdefault(code.code, []).append(executor)
    by_version: dict[WorkflowVersion, list[CodeRow]] = {which: [] for which in unfinished}
    for row in rows:
        by_version.setdefault((row.workflow, row.version), []).append(row)
    newest = {row.workflow: row.version for row in sorted(rows, key=_version) if row.code in executors}
    return tuple(
        VersionRecord(
            workflow=workflow,
            version=version_or_none(version),
            unfinished=unfinished.get((workflow, version), 0),
            parked=_parked_count(
                refused, (workflow, version), {row.code for row in of_version if row.code in executors}
            ),
            codes=tuple(_code(row, executors.get(row.code, ()), refused) for row in of_version),
            is_needless=(workflow, version) not in unfinished
            and version < newest.get(workflow, version)
            and any(row.code in executors for row in of_version),
        )
        for (workflow, version), of_version in sorted(by_version.items())
        if workflow != INLINE_NAME
    )


def _version(row: CodeRow) -> int:
    return row.version


def _parked_count(refused: Iterable[RefusedCount], which: WorkflowVersion, living: set[int]) -> int:
    return sum(each.count for each in refused if (each.workflow, each.version) == which and living <= each.codes)


def _code(row: CodeRow, executors: Iterable[int], refused: Iterable[RefusedCount]) -> CodeRecord:
    return CodeRecord(
        number=row.code,
        fingerprint=row.fingerprint,
        first_seen_at=instant_of(row.first_seen_at),
        executors=tuple(executors),
        refused=sum(each.count for each in refused if row.code in each.codes),
    )
