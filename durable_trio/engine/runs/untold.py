"""What is to be told of a run and is not told yet, noted where it outlives this process.

That a run, or a compensation of it, has failed is told once it is committed; a process that is killed in between would
leave it untold. So it is noted before the commit, where its open steps are (``stores.step_slots``), and the note is
removed once it is told. Whoever declares an executor dead, of all that notice it one, tells what that has left, if it
was committed. What was killed after it had written a line, and before it removed the note, has it told twice: the
second has ``told_again``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from durable_trio.codec import parse
from durable_trio.engine.runs.run_log import COMPENSATION_FAILED, Fate, RunLog
from durable_trio.engine.runs.under_way import steps_under_way
from durable_trio.errors import CodecError
from durable_trio.failures import tell_of
from durable_trio.records import Problem, StepKind
from durable_trio.rows import HistoryRow, RunRow, UntoldRow
from durable_trio.rules.compensation import compensated_step
from durable_trio.rules.problems import ProblemKind
from durable_trio.stores.questions import FindRun, ListHistory
from durable_trio.stores.step_slots import StepSlots, pack_untold
from durable_trio.stores.writer import Writer

__all__ = ["failed_compensation", "note", "tell_untold"]


def note(slots: StepSlots | None, row: RunRow, event: str) -> Callable[[], None]:
    """Note what is to be told of a run, a ``Fate`` or ``failed_compensation``; return what removes the note."""
    if slots is None:
        return _nothing
    untold = UntoldRow(event=event, run_id=row.id, token=row.token)
    return partial(slots.give_back, slots.take(pack_untold(untold, row.run)))


def failed_compensation(number: int) -> str:
    """Return what is noted of a compensation that may fail. ``number``: how many the run has recorded before it."""
    return f"{COMPENSATION_FAILED} {number}"


async def tell_untold(writer: Writer, noted: Iterable[UntoldRow]) -> None:
    """Tell what an executor that this one has just declared dead had noted (``ListUntold``), if it was committed."""
    for untold in noted:
        row = await writer.ask(FindRun(untold.run_id))
        if row is not None:
            await _tell(writer, row, untold)


async def _tell(writer: Writer, row: RunRow, untold: UntoldRow) -> None:
    event, _, number = untold.event.partition(" ")
    if event == COMPENSATION_FAILED and number.isdecimal():  # whose run may have been claimed again by now
        await _tell_of_compensation(writer, row, int(number))
    elif event in list(Fate) and row.token == untold.token:
        await _tell_fate(writer, row, Fate(event))


async def _tell_of_compensation(writer: Writer, row: RunRow, number: int) -> None:
    rows = [each for each in await writer.ask(ListHistory(row.run)) if each.kind is StepKind.COMPENSATION]
    for failed in rows[number : number + 1]:
        if failed.error is not None:
            log = RunLog(row, is_again=True)
            log.compensation_failed(compensated_step(failed.key), failed.attempt, failed.error)


async def _tell_fate(writer: Writer, row: RunRow, fate: Fate) -> None:
    log = RunLog(row, is_again=True)
    if fate is Fate.PARKED:
        if row.problem is not None:
            log.parked(_problem(row.problem))
    elif not row.status.is_final or row.error is None:
        return  # it was not committed
    elif fate is Fate.SET_ASIDE:
        step, attempt = next(iter(await steps_under_way(writer, row)), (None, None))
        log.set_aside(row.error, step=step, attempt=attempt)
    else:
        log.ended(fate, row.error, failed=_failed_row(fate, await writer.ask(ListHistory(row.run)), row.error))


def _failed_row(fate: Fate, history: tuple[HistoryRow, ...], error: str) -> HistoryRow | None:
    """Return the row of what has ended a run: its time to live, or the step that failed, as far as texts tell."""
    if fate is Fate.EXPIRED:
        return next((row for row in history if row.kind is StepKind.TTL), None)
    cause = tell_of(error).cause
    for row in reversed(history):
        if row.error is not None and row.kind is not StepKind.COMPENSATION:
            return row if tell_of(row.error).cause in cause else None
    return None


def _problem(text: str) -> Problem:
    try:
        found = parse(text, where="a problem")
        return Problem(kind=str(found["kind"]), text=str(found["text"]))
    except (CodecError, KeyError, TypeError):
        return Problem(kind=ProblemKind.DAMAGED.value, text="its problem cannot be read")


def _nothing() -> None:
    """Nothing was noted."""
