"""``Run``: a handle to one run, without I/O of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, cast, overload

from durable_trio.codec import UNANNOTATED
from durable_trio.engine.client import Client
from durable_trio.engine.filters import check_limit, make_filter
from durable_trio.engine.records_of import (
    compensation_failed,
    error_text,
    generation_record,
    rebuilt_error,
    step_record,
    unread_record,
    wait_record,
)
from durable_trio.engine.watching import Changes
from durable_trio.errors import CodecError, CompensationFailed, RunCancelled, RunExpired, RunFailed, RunNotFound
from durable_trio.failures import Failures, cause_of
from durable_trio.limits import COMPENSATION_ERRORS_MAX, PAGE_RUNS_MAX
from durable_trio.looks import exact_bool
from durable_trio.records import (
    GenerationRecord,
    RunRecord,
    RunStatus,
    StepInHand,
    StepKind,
    StepRecord,
    UnreadRecord,
    WaitRecord,
)
from durable_trio.rows import HistoryRow
from durable_trio.rules.damage import damaged
from durable_trio.stores.generation_questions import ListGeneration, ListGenerations
from durable_trio.stores.questions import (
    FindRun,
    ListHistory,
    ListUnread,
    ListWaits,
    Question,
    ReadValues,
)
from durable_trio.workflows import Workflow

R = TypeVar("R")
T = TypeVar("T")


class Run(Generic[R]):
    """One run of a workflow, by its id. Made by ``engine.start`` and ``engine.get``.

    What ``Engine`` says of cancellation and durability holds here, too.
    """

    def __init__(self, client: Client, run_id: str, workflow: Workflow[..., R] | None) -> None:
        self._client = client
        self._workflow = workflow
        self.id = run_id

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    async def result(self) -> R:
        """Wait until the run has ended, and return its result.

        What it raises for a run that ended without one has ``compensation_errors``: a ``CompensationFailed`` for each
        compensation that failed, of the first thousand.

        *Cancellation:* ends the wait, not the run.

        Raises:
            RunFailed: it failed; ``error`` tells why.
            RunCancelled: it was cancelled.
            RunExpired: it did not end within its time to live.
            RunNotFound: there is no such run, or it was removed before its end was seen.
            CodecError: its result is not of the workflow's type, or what is stored of it is damaged.
        """
        return await result_of(self._client, self.id, self._workflow)

    async def record(self) -> RunRecord:
        """Return the run as it is stored now.

        Raises:
            RunNotFound: there is no such run.
        """
        return await self._client.record(self.id)

    @overload
    async def steps(self, *, open: Literal[False] = False, generation: int | None = None) -> tuple[StepRecord, ...]: ...
    @overload
    async def steps(self, *, open: Literal[True]) -> tuple[StepInHand, ...]: ...
    async def steps(
        self, *, open: bool = False, generation: int | None = None
    ) -> tuple[StepRecord, ...] | tuple[StepInHand, ...]:
        """Return the rows of the run's history, in order; those of an earlier one with ``generation``.

        ``ctx.continue_as_new`` ends a history; the last ones that a run has ended are kept (``generations`` says which,
        ``Engine(generations_kept=…)`` how many). The first one has the number 0.

        With ``open`` return the steps instead that are executing now, the longest under way first. Those are noted in
        memory that outlives the process, without a commit: of one that was killed they are what it was at, until its
        runs are taken over. An executor notes some 800; those beyond are executed, and not listed.

        Raises:
            RunNotFound: there is no such run.
            ValueError: that generation is not kept, or has not begun; or ``open`` of a generation.
        """
        is_open, number = exact_bool(open, what="open"), _generation(generation)
        if is_open and number is not None:
            raise ValueError("steps that are executing now are of the present generation: leave out generation=")
        row = await self._client.row(self.id)
        if is_open:
            return await self._client.open_steps(row)
        writer = self._client.services_in_use().writer

        def records(history: tuple[HistoryRow, ...] | None) -> tuple[StepRecord, ...] | None:
            return None if history is None else tuple(step_record(item) for item in history)

        which: Question[Any] = ListHistory(row.run) if number is None else ListGeneration(row.run, number)
        found = await writer.ask_through(records, which)
        if found is None:
            raise ValueError(await self._not_kept(cast(int, number)))
        return found

    async def generations(self, *, before: int | None = None, limit: int = 100) -> tuple[GenerationRecord, ...]:
        """Return the run's earlier generations that are kept, the last one first.

        Each is a history that the run has ended by ``ctx.continue_as_new``; ``steps(generation=…)`` gives its rows. A
        fork has none of those before it was made: they are the original's (``RunRecord.forked_from``).

        Args:
            before: only those before that number: to go on after the last one of those that a call has returned.
            limit: at most so many, 1 to 1000.

        Raises:
            RunNotFound: there is no such run.
            ValueError: a number out of range.
        """
        number = _generation(before, what="before")
        limit = check_limit(limit)
        row = await self._client.row(self.id)
        writer = self._client.services_in_use().writer
        found = await writer.ask(ListGenerations(row.run, before=number, limit=limit))
        codec, workflow_of = self._client.codec, self._client.registry.at
        return tuple(
            generation_record(each, codec=codec, workflow=workflow_of((row.workflow, each.version)), run_id=self.id)
            for each in found
        )

    async def _not_kept(self, generation: int) -> str:
        """Return why there is no history of a generation."""
        row = await self._client.row(self.id)
        if generation > row.generation:
            return f"run {self.id!r} is in its generation {row.generation}: {generation} has not begun"
        kept = [each.generation for each in await self.generations(limit=PAGE_RUNS_MAX)]
        those = f"{len(kept)} earlier ones are, from {min(kept)} to {max(kept)}" if kept else "no earlier one is"
        hint = "" if row.forked_from is None else f"; those before the fork are of run {row.forked_from!r}"
        return f"generation {generation} of run {self.id!r} is not kept; {those}{hint}"

    async def waits(self) -> tuple[WaitRecord, ...]:
        """Return what the run waits for: its open durable calls that have stored something, the oldest first.

        Raises:
            RunNotFound: there is no such run.
        """
        row = await self._client.row(self.id)
        writer = self._client.services_in_use().writer
        waits = await writer.ask(ListWaits(row.run))
        return tuple(map(wait_record, sorted(waits, key=lambda wait: (wait.started_at, wait.key))))

    async def unread(self) -> tuple[UnreadRecord, ...]:
        """Return the signals and the request to cancel that the run has not taken yet, in order of arrival.

        A signal whose name the run never waits for stays among them, also when the run has ended.

        Raises:
            RunNotFound: there is no such run.
        """
        row = await self._client.row(self.id)
        writer = self._client.services_in_use().writer
        unread = await writer.ask(ListUnread(row.run))
        kinds = {"signal"} if row.status.is_final else {"signal", "cancel"}
        return tuple(unread_record(entry) for entry in unread if entry.kind in kinds or entry.damage is not None)

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal to the run; see ``engine.send_signal``."""
        await self._client.send_signal(self.id, name, payload, id, self._workflow)

    async def cancel(self, reason: str | None = None, *, wait: bool = False) -> bool:
        """Ask the run to cancel; see ``engine.cancel``. With ``wait``, return once its final status is durable."""
        requested = await self._client.cancel(self.id, reason)
        if wait:
            await self._client.wait_ended(self.id)
        return requested

    def watch(self) -> AbstractAsyncContextManager[Changes]:
        """Watch the run until it has ended: its present state first, its final one last; see ``engine.watch``."""
        return self._client.watch(make_filter(run_id=self.id))

    @overload  # for the order of these see ``Context.wait_signal``
    async def value(self, key: str, type: type[T]) -> T | None: ...
    @overload
    async def value(self, key: str, type: Callable[..., T]) -> T | None: ...
    @overload
    async def value(  # type: ignore[overload-cannot-match]  # it is, where the result is to be another
        self, key: str, type: type[object]
    ) -> object: ...
    @overload
    async def value(self, key: str, type: Any = Any) -> Any: ...
    async def value(self, key: str, type: Any = Any) -> Any:
        """Return what the run has published under ``key``, or ``None``.

        Args:
            type: what it is converted to; default plain JSON.

        Raises:
            RunNotFound: there is no such run.
            CodecError: it is of another type.
        """
        if type is Any:
            return (await self.values()).get(key)
        row = await self._client.row(self.id)
        values = await self._client.services_in_use().writer.ask(ReadValues([row.run]))
        text = values.get(row.run, {}).get(key)
        where = f"the published value {key!r} of run {self.id!r}"
        return None if text is None else self._client.codec.decode(text, type, where=where)

    async def values(self) -> dict[str, Any]:
        """Return all that the run has published.

        Raises:
            RunNotFound: there is no such run.
        """
        (record,) = await self._client.records([await self._client.row(self.id)])  # not what it is at just now
        return dict(record.values)


def _generation(number: Any, *, what: str = "generation") -> int | None:
    """Return the number of a generation, exact.

    Raises:
        ValueError: it is none.
    """
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise ValueError(f"{what} must be a whole number of at least 0, not {number!r}")
    return None if number is None else min(int(number), 2**62)  # what a store can be asked


async def result_of(client: Client, run_id: str, workflow: Workflow[..., R] | None, *, is_new: bool = False) -> R:
    """Return ``Run.result()``. ``is_new``: the run was stored in this very step of the task, and cannot have ended.

    Who has waited for the end waits on, should the store be away as he asks for more.
    """
    ending = await client.wait_ended(run_id, is_new=is_new)
    if ending.damage is not None:
        raise CodecError(damaged(run_id, ending.damage).text, where=f"run {run_id!r}")
    if ending.status is RunStatus.COMPLETED:
        known = workflow or await _workflow_of(client, run_id)
        annotation = UNANNOTATED if known is None else known.result_type
        where = f"the result of run {run_id!r} (runs.result)"
        return cast(R, client.codec.decode(ending.result or "", annotation, where=where))
    failures = client.failures_of(workflow or await _workflow_of(client, run_id))
    error = None if ending.error is None else rebuilt_error(ending.error, failures)
    end: RunFailed | RunCancelled | RunExpired
    if ending.status is RunStatus.CANCELLED:
        end = RunCancelled(f"run {run_id!r} was cancelled", run_id=run_id)
        if isinstance(error, RunCancelled):  # it knows the reason
            end = error
    elif isinstance(error, RunExpired):
        end = error
    else:
        end = RunFailed(f"run {run_id!r} failed: {error_text(error)}", run_id=run_id, error=error)
    if compensation_errors := await _compensation_errors(client, run_id, failures):
        end.compensation_errors = compensation_errors
    raise end from cause_of(error)


async def _workflow_of(client: Client, run_id: str) -> Workflow[..., Any] | None:
    """Return the workflow of a run that has ended, if this engine knows it."""
    row = await client.services_in_use().writer.ask_patiently(FindRun(run_id))
    if row is None:
        raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
    return client.registry.at((row.workflow, row.version))


async def _compensation_errors(client: Client, run_id: str, failures: Failures) -> tuple[CompensationFailed, ...]:
    """Return how compensations of the run, which has ended, have failed."""
    writer = client.services_in_use().writer
    row = await writer.ask_patiently(FindRun(run_id))
    if row is None or row.compensation_errors == "[]":  # it may have been removed meanwhile
        return ()
    history = await writer.ask_patiently(ListHistory(row.run))
    failed = (item for item in history if item.kind is StepKind.COMPENSATION and item.error is not None)
    return tuple(compensation_failed(item, failures, run_id) for item in islice(failed, COMPENSATION_ERRORS_MAX))
