"""What is to be told of a run and is not told yet, noted where it outlives this process.

That a run has failed is told once it is committed; a process that is killed in between would leave it untold. So it is
noted before the commit, where its open steps are (``stores.step_slots``), and the note is removed once it is told.
Whoever declares an executor dead, of all that notice it one, tells what that has left, if it was committed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from durable_trio.codec import parse
from durable_trio.engine.runs.run_log import RunLog
from durable_trio.engine.runs.under_way import steps_under_way
from durable_trio.errors import CodecError
from durable_trio.failures import tell_of
from durable_trio.records import Problem, StepKind
from durable_trio.rows import HistoryRow, RunRow, UntoldRow
from durable_trio.stores.questions import FindRun, ListHistory, ListUntold
from durable_trio.stores.step_slots import StepSlots, pack_untold
from durable_trio.stores.writer import Writer

__all__ = ["note", "tell_untold"]


def note(slots: StepSlots | None, row: RunRow, event: str) -> Callable[[], None]:
    """Note that ``event`` is to be told of a run; return what removes the note."""
    if slots is None:
        return _nothing
    untold = UntoldRow(event=event, run_id=row.id, token=row.token)
    return partial(slots.give_back, slots.take(pack_untold(untold, row.run)))


async def tell_untold(writer: Writer, executor: int) -> None:
    """Tell what an executor, which has just been declared dead by this one, has committed and not told."""
    for untold in await writer.ask(ListUntold(executor)):
        event, row = untold.event, await writer.ask(FindRun(untold.run_id))
        if row is None or row.token != untold.token:
            continue
        if event == "run_parked" and row.problem is not None:
            RunLog(row).parked(_problem(row.problem))
        elif row.status.is_final and row.error is not None:
            if event == "run_set_aside":
                step, attempt = next(iter(await steps_under_way(writer, row)), (None, None))
                RunLog(row).set_aside(row.error, step=step, attempt=attempt)
                continue
            failed = _failed_row(await writer.ask(ListHistory(row.run)), row.error)
            RunLog(row).ended(row.status, row.error, is_expired=event == "run_expired", failed=failed)


def _failed_row(history: tuple[HistoryRow, ...], error: str) -> HistoryRow | None:
    """Return the row of the step whose failure has ended a run, as far as the texts of both tell."""
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
        return Problem(kind="damaged", text="its problem cannot be read")


def _nothing() -> None:
    """Nothing was noted."""
