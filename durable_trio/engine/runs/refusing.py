"""How a run that cannot go on here is given back: its problem is stored, then people and observers are told why.

Other code of its workflow may try it at once. It is parked when none is left that has not: then it waits for new code,
or for somebody who resumes it. One that is damaged is parked, for no code mends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from durable_trio.clock import Clock
from durable_trio.codec import Codec
from durable_trio.doors import guarded
from durable_trio.engine.runs.run_log import Fate
from durable_trio.engine.runs.telling import Telling
from durable_trio.engine.served import ServedCodes
from durable_trio.failures import logged, trace
from durable_trio.limits import TRACEBACK_CHARACTERS_MAX
from durable_trio.logger import Logger
from durable_trio.records import Problem
from durable_trio.rows import RunRow
from durable_trio.rules.damage import DAMAGED, damaged
from durable_trio.rules.problems import ProblemKind
from durable_trio.stores.contract import Fence, ParkDamaged, Refuse, Refused
from durable_trio.stores.writer import Writer
from durable_trio.workflows import Workflow

__all__ = ["Refusing"]

_LOGGER = Logger("durable_trio.runs")


class Refusing:
    """Gives back the runs of one executor that cannot go on here."""

    def __init__(
        self,
        *,
        writer: Writer,
        codec: Codec,
        clock: Clock,
        served: ServedCodes,
        telling_of: Callable[[RunRow], Telling],
    ) -> None:
        self._writer = writer
        self._codec = codec
        self._clock = clock
        self._served = served
        self._telling_of = telling_of

    def refuse(self, row: RunRow, workflow: Workflow[..., Any], problem: Problem, error: Exception | None) -> None:
        """Give a run back that this executor owns. ``error``: the same for observers, who may tell kinds apart."""
        self._submit(row, workflow, problem, error, fault=None)

    def refuse_for_fault(self, row: RunRow, workflow: Workflow[..., Any], error: Exception) -> None:
        """Give a run back that has met a fault of ours. Must not raise: another fault on the way leaves it as it is."""
        guarded(self._submit_fault, row, workflow, error)

    def found_damaged(self, row: RunRow) -> None:
        """A run was to be claimed, and the store has parked it."""
        assert row.damage is not None
        if row.status.is_final:
            _LOGGER.warning("run %r was due or owned although it has ended; it is so no more", row.id)
            return
        problem = damaged(row.id, row.damage)
        self._telling_of(row).parked(problem, None, None)

    def _submit_fault(self, row: RunRow, workflow: Workflow[..., Any], error: Exception) -> None:
        text = f"run {row.id!r} met a fault of this library, please report it:\n"
        problem = Problem(
            kind=ProblemKind.INTERNAL_ERROR.value,
            text=text + trace(error, TRACEBACK_CHARACTERS_MAX, is_ours=True),
        )
        self._submit(row, workflow, problem, error, fault=error)

    def _submit(
        self,
        row: RunRow,
        workflow: Workflow[..., Any],
        problem: Problem,
        error: Exception | None,
        *,
        fault: Exception | None,
    ) -> None:
        telling = self._telling_of(row)
        told = telling.is_to_tell(Fate.PARKED)

        def done(outcome: Any) -> None:
            if isinstance(outcome, Refused) and outcome.untried:
                telling.given_back(problem, fault)
            elif outcome is True or isinstance(outcome, Refused):
                telling.parked(problem, error, fault)
            elif fault is not None:  # it is not known to anybody else
                text = "run %r has met an internal error, and could not be given back: %s"
                _LOGGER.error(text, row.id, outcome, exc_info=logged(fault))
            told()

        assert row.owner is not None
        fence = Fence(row.run, row.owner, row.token)
        if problem.kind == DAMAGED:  # which no code mends
            self._writer.submit(ParkDamaged(fence=fence, problem=self._text(problem)), done)
        else:
            problem = attrs.evolve(problem, fingerprint=self._served.text_of(workflow))
            code, now = self._served.number_of(workflow), self._clock.stamp()
            self._writer.submit(Refuse(fence=fence, code=code, problem=self._text(problem), now=now), done)

    def _text(self, problem: Problem) -> str:
        return self._codec.own.encode(problem, Problem, where="a problem").text
