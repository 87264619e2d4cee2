"""What operators are told of runs: one log record for each thing that goes wrong, with fields for programs.

Each is logged once what it tells is committed, by the process that has committed it; so nothing is told twice, neither
at replay nor by whoever takes a run over. A record has ``event`` (what has happened, in one word), ``run_id`` and
``workflow``; and, where they apply, ``step`` (its key), ``attempt``, ``cause`` (type and text of the failure) and
``place`` (the line of the user's code, as ``file:line in function``).
"""

from __future__ import annotations

import enum
import logging
from typing import Any, Final

from durable_trio.failures import Told, tell_of
from durable_trio.logger import Logger
from durable_trio.records import Problem, RunStatus
from durable_trio.rows import HistoryRow, Key, RunRow
from durable_trio.rules.expiry import Expiry, expiry_of
from durable_trio.unseen import visible, visible_lines

__all__ = ["COMPENSATION_FAILED", "UNKNOWN_WORKFLOW", "Fate", "RunLog", "fate_of", "unknown_text"]

_LOGGER: Final = Logger("durable_trio.runs")


class Fate(enum.StrEnum):
    """What comes of a run that gives no result: the ``event`` of its record."""

    FAILED = "run_failed"
    EXPIRED = "run_expired"
    CANCELLED = "run_cancelled"
    SET_ASIDE = "run_set_aside"
    PARKED = "run_parked"
    ABANDONED = "run_abandoned"


def fate_of(status: RunStatus, *, is_expired: bool) -> Fate:
    """Return what has come of a run that has ended in its own process."""
    if status is RunStatus.CANCELLED:
        return Fate.CANCELLED
    return Fate.EXPIRED if is_expired else Fate.FAILED


#: The ``event`` of what is said of a step that could not be undone.
COMPENSATION_FAILED: Final = "compensation_failed"
#: The ``event`` of what is said of a run that this engine cannot execute.
UNKNOWN_WORKFLOW: Final = "unknown_workflow"


def unknown_text(workflow: str, version: int = 0) -> str:
    """Return what is to be done about a run of a workflow, or of a version of it, that an engine was not given."""
    which = f"{visible(workflow)!r}" + (f", version {version}," if version > 0 else "")
    return f"Add {which} to workflows=[…] of the engine that serves; until an executor knows it, the run waits"


class RunLog:
    """The records about one run.

    ``is_again``: whoever was to tell of it was killed, perhaps after it had.
    """

    def __init__(self, row: RunRow, *, is_again: bool = False) -> None:
        self._row = row
        self._again = {"told_again": True} if is_again else {}

    def ended(self, fate: Fate, error: str, *, failed: HistoryRow | None) -> None:
        """It has ended without a result. ``failed``: what has ended it, if a row tells: a step, or the time to live."""
        told = tell_of(error)
        if fate is Fate.CANCELLED:
            self._say(logging.INFO, fate, f"was cancelled: {told.cause}", told)
        elif fate is Fate.EXPIRED:
            self._expired(told, None if failed is None else expiry_of(failed.result))
        elif failed is None:
            self._say(logging.ERROR, fate, f"has failed: {told.cause}", told)
        else:
            told = Told(told.cause, tell_of(failed.error or "").place or told.place)
            text = f"has failed in {_step(failed.key, failed.attempt)}: {told.cause}"
            self._say(logging.ERROR, fate, text, told, step=failed.key, attempt=failed.attempt)

    def _expired(self, told: Told, where: Expiry | None) -> None:
        text = "has failed: it did not end within its time to live"
        if where is None:  # of an earlier version
            self._say(logging.ERROR, Fate.EXPIRED, text, told)
            return
        step = where.places[0].key if where.places else None
        fields: dict[str, Any] = {"open": where.documents(), "more": where.more, "after": where.after}
        self._say(logging.ERROR, Fate.EXPIRED, f"{text}; {visible_lines(where.sentence())}", told, step=step, **fields)

    def set_aside(self, error: str, *, step: str | None = None, attempt: int | None = None) -> None:
        """It has killed its process too often, and does not go on by itself. ``error`` says where it was."""
        told = tell_of(error)
        text = f"was set aside{told.cause.partition(' was set aside')[2]}"
        self._say(logging.ERROR, Fate.SET_ASIDE, text, told, step=step, attempt=attempt)

    def given_back(self, problem: Problem, error: BaseException | None = None) -> None:
        """It cannot go on with this code, and there is other code to try. ``error``: a fault of ours, told as such."""
        text = f"does not fit this code ({problem.kind}), and is given back for others"
        text += f": {visible_lines(problem.text)}" if error is None else " after an internal error"
        level = logging.INFO if error is None else logging.ERROR
        told = Told(problem.text, None)
        self._say(level, "run_given_back", text, told, exc_info=error, problem=problem.kind)

    def parked(self, problem: Problem, error: BaseException | None = None) -> None:
        """It cannot go on: no code that lives fits it, or it is damaged. ``error``: a fault of ours, shown as it is."""
        text = f"is parked ({problem.kind})"
        text += f": {visible_lines(problem.text)}" if error is None else " after an internal error"
        told = Told(problem.text, None)
        self._say(logging.ERROR, Fate.PARKED, text, told, exc_info=error, problem=problem.kind)

    def retried(self, key: Key, attempt: int, error: str, delay: float) -> None:
        """An attempt has failed, and there will be another. Told of the first of a step, then by powers of two."""
        if attempt & (attempt - 1) == 0:
            told = tell_of(error)
            text = f"tries {_step(key)} again in {delay:.3g} s, after attempt {attempt}: {told.cause}"
            self._say(logging.WARNING, "step_retried", text, told, step=key, attempt=attempt, delay=delay)

    def compensation_failed(self, step: Key, attempt: int, error: str) -> None:
        """What ``step`` has done is not undone."""
        told = tell_of(error)
        text = f"could not undo {_step(step)}: {told.cause}"
        self._say(logging.ERROR, COMPENSATION_FAILED, text, told, step=step, attempt=attempt)

    def slow(self, key: Key, attempt: int, seconds: float, place: str, *, goes_on: bool) -> None:
        """An attempt has taken longer than ``slow_step_seconds``."""
        text = f"{'is' if goes_on else 'was'} in {_step(key, attempt)}, for {seconds:.3g} s"
        told = Told("", place)
        self._say(logging.WARNING, "step_slow", text, told, step=key, attempt=attempt, seconds=round(seconds, 3))

    def child_unknown(self, child_id: str, workflow: str, version: int) -> None:
        """It has started a child whose workflow its engine was not given, or not in that version."""
        text = f"has started a child, {visible(child_id)!r}, of a workflow that this engine does not know. "
        text += unknown_text(workflow, version)
        fields: dict[str, Any] = {"child": child_id, "child_workflow": workflow, "child_version": version}
        self._say(logging.WARNING, UNKNOWN_WORKFLOW, text, Told("", None), **fields)

    def abandoned(self, reason: str | None, not_undone: int) -> None:
        """Somebody has ended it, for no code does."""
        text = "was abandoned" + (f": {visible_lines(reason)}" if reason else "")
        if not_undone:
            text += f"; {not_undone} of its steps are not undone"
        self._say(logging.WARNING, Fate.ABANDONED, text, Told(reason or "", None), not_undone=not_undone)

    def body_stays(self, place: str) -> None:
        """Its body does not leave, and was abandoned there."""
        text = (
            "does not leave: its body catches what ends it. It was abandoned there, and the memory that it holds is "
            "lost. Let Detached and trio.Cancelled through: catch Exception, or raise them again"
        )
        self._say(logging.ERROR, "body_stays", text, Told("", place))

    def ended_executor(self, cause: str, where: str) -> None:
        """Its code has raised what ends the program, in a step or its body."""
        text = f"has ended this executor, in {visible(where)}: {visible_lines(cause)}"
        self._say(logging.CRITICAL, "executor_ended", text, Told(cause, None))

    def _say(
        self,
        level: int,
        event: str,
        text: str,
        told: Told,
        *,
        step: Key | str | None = None,
        attempt: int | None = None,
        exc_info: BaseException | None = None,
        **fields: Any,
    ) -> None:
        row = self._row
        extra = {"event": str(event), "run_id": row.id, "workflow": row.workflow, **self._again}
        fields |= {"step": step and str(step), "attempt": attempt, "cause": told.cause or None, "place": told.place}
        extra |= {name: value for name, value in fields.items() if value is not None}
        at = "" if told.place is None else f" (at {told.place})"
        _LOGGER.log(level, "run %r of workflow %r %s%s", row.id, row.workflow, text, at, exc_info=exc_info, extra=extra)


def _step(key: Key | str, attempt: int | None = None) -> str:
    return f"step {visible(str(key))!r}" + ("" if attempt is None else f", attempt {attempt}")
