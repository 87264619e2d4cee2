"""A rehearsed run comes to its verdict: the engine's actor, which leaves once its last recorded row is delivered."""

from __future__ import annotations

from typing import Any, cast

import attrs
import trio

from durable_trio.engine.runs.actor import RunActor
from durable_trio.engine.runs.life import Life
from durable_trio.failures import Failures
from durable_trio.failures.one_line import tell_of
from durable_trio.looks import is_a, members_of
from durable_trio.records import Problem, RunStatus, StepKind
from durable_trio.rehearsal.judged import Judged, calls_of, cause_of_difference, cause_of_ways, without_run
from durable_trio.rehearsal.keeping import RehearsalKeeper
from durable_trio.rehearsal.mute import MutePort
from durable_trio.rehearsal.records import Verdict
from durable_trio.rows import HistoryRow
from durable_trio.rules.problems import ProblemKind
from durable_trio.stores.contract import Finish
from durable_trio.stores.unfinished_questions import Unfinished
from durable_trio.turns.foreign import place_of
from durable_trio.workflows import Workflow

__all__ = ["RehearsedRun"]

# Which verdict stands for a problem with which a run would be refused.
_VERDICTS = {
    ProblemKind.DIVERGENCE.value: Verdict.DIVERGES,
    ProblemKind.INTERNAL_ERROR.value: Verdict.RAISES,
}
# Nobody's: no row of a store has this number.
_OWNER = 0


class RehearsedRun(RunActor):
    """One run that is rehearsed. Its ``verdict`` is the first that is found; then it leaves."""

    port_class = MutePort

    def __init__(
        self, keeper: RehearsalKeeper, found: Unfinished, workflow: Workflow[..., Any], failures: Failures
    ) -> None:
        # A cancel or an expiry would be recorded before anything else, and so would go first; here nothing is recorded.
        row = attrs.evolve(found.row, owner=_OWNER, ttl_at=None)
        loaded = attrs.evolve(found.loaded, unread=(), left_out=None)
        super().__init__(keeper, row, workflow, loaded, failures)
        self.turns.state.is_rehearsal = True
        self.found = found
        self.verdict: Judged | None = None
        self._error: Exception | None = None  # that has ended its body
        self._error_text: str | None = None
        self._cause = ""  # of the divergence that is being told
        #: What it has come to, to be compared: at what row it is, and whether it waits for something of its own.
        self.is_stuck_at: HistoryRow | None = None

    def note(self, verdict: Verdict, cause: str, text: str) -> None:
        """Note what the run would do, unless that is known, and leave."""
        if self.verdict is None:
            self.verdict = Judged.of(self.found, verdict, cause, text)
        if self.life is Life.FINISHING:  # its task is about to wait for the answer, and can leave only then
            trio.lowlevel.current_trio_token().run_sync_soon(self.detach)
        else:
            self.detach()

    @property
    def progress(self) -> tuple[object, ...]:
        """What changes as long as the run comes nearer to its end."""
        history = self.turns.state.history
        row = history.next_row()
        return (self.life, None if row is None else row.seq, len(self.turns.lobby.calls), self.turns.state.position)

    # ---- what the turns and the end of the body ask ------------------------------------------------------------

    async def _execute_body(self) -> tuple[Exception | None, str | None]:
        error, result = await super()._execute_body()
        self._error = error
        if error is not None:
            self._error_text, _ = self.failures.encode(error, where=f"the failure of run {self.row.id!r}")
        return error, result

    def went_live(self) -> None:
        """All that is recorded is delivered: what the code waits in would begin now."""
        if self._raises():
            return
        waiting = [(str(call.kind), str(call.key)) for call in self.turns.lobby.calls.values()]
        comes = "comes to " + (calls_of(waiting) or "no durable call")
        if self.life is not Life.BODY:
            comes = f"its body has ended, and it {comes}"
        self._goes_on(comes)

    def ends(self, finish: Finish) -> None:
        """All that is recorded is delivered, and the run would end."""
        if not self._raises():
            self._goes_on(f"ends {finish.status.value}")

    def _goes_on(self, comes: str) -> None:
        mail = ", ".join(sorted({_mail(entry.kind, entry.name) for entry in self.found.loaded.unread}))
        cause = cause_of_ways(comes, self.body.ways)
        self.note(Verdict.GOES_ON, cause, cause + (f"; it has not read yet: {mail}" if mail else ""))

    def _raises(self) -> bool:
        if self._error is None or self._is_explained(self._error):
            return False
        assert self._error_text is not None
        told = tell_of(self._error_text)
        at = "" if told.place is None else f" at {told.place}"
        text = f"the body raises {told.cause}{at}; no recorded outcome has raised that, so the run would fail"
        self.note(Verdict.RAISES, _raised(self._error_text), text)
        return True

    def _is_explained(self, error: BaseException) -> bool:
        """Return whether the run was to end with a failure under the code that has recorded it, too."""
        row, found = self.row, self.found
        return (
            row.status is RunStatus.COMPENSATING
            or self.cancel_row is not None
            or self.turns.state.expired is not None
            or found.cancels_children
            or any(each.kind is StepKind.COMPENSATION for each in found.loaded.history)
            or self._is_recorded(error)
        )

    def _is_recorded(self, error: BaseException) -> bool:
        """Return whether recorded outcomes have raised it, or all that is in it; or it was raised from one of them."""
        if any(raised is error for raised, _ in self.body.raised):
            return True
        if error.__cause__ is not None and self._is_recorded(error.__cause__):
            return True
        if is_a(error, trio.TooSlowError) and any(row.kind is StepKind.DEADLINE for row in self.found.loaded.history):
            return True
        members = members_of(cast(BaseExceptionGroup[Any], error)) if is_a(error, BaseExceptionGroup) else ()
        return bool(members) and all(map(self._is_recorded, members))

    def diverged(self, row: HistoryRow | None, *, raised: str | None = None) -> None:
        calls = self.turns.lobby.calls.values()
        delivered = self.turns.state.delivered
        self._cause = cause_of_difference(
            row,
            delivered[-1] if delivered else None,
            [(str(call.kind), str(call.key)) for call in calls],
            ended=self.life is not Life.BODY,
            raised=None if raised is None else _raised(raised),
            unasked=self.why_unasked(row),
        )
        super().diverged(row, raised=raised)

    def refuse(self, problem: Problem, error: Exception | None = None) -> None:
        if not self.port.is_cut:
            cause = self._cause or f"{problem.kind}: {without_run(problem.text, self.row.id)}"
            self.note(_VERDICTS.get(problem.kind, Verdict.DOES_NOT_FIT), cause, problem.text)

    def stuck(self, row: HistoryRow, *, hopeless: bool) -> None:
        """Nobody waits for the next row. What the body waits for may end by itself: whoever rehearses looks at that."""
        if hopeless:
            self.diverged(row)
        else:
            self.is_stuck_at = row

    @property
    def waits_outside(self) -> str | None:
        """Where its body waits for something that is not durable, if all that is left of it does that."""
        state = self.turns.state
        if self.is_stuck_at is None or state.runnable_count or state.history.next_row() is not self.is_stuck_at:
            return None
        return f"{self.row.workflow} {self._places}"

    @property
    def _places(self) -> str:
        return "; ".join(sorted({place_of(task) for task in self.turns.state.tasks}))

    def stalled(self) -> None:
        """The run comes no nearer to its end by itself."""
        if self.waits_outside is not None:
            self.diverged(self.is_stuck_at)  # as it would be where it is served
            return
        text = f"the body does not come to its next durable call: it is at {self._places}"
        self.note(Verdict.STALLS, f"at {self._places}", text)

    def request_cancel(self, run_id: str) -> None:
        """No other run is asked for anything."""


def _mail(kind: str, name: str) -> str:
    return f"signal {name!r}" if kind == "signal" else "a cancel" if kind == "cancel" else "the end of a child"


def _raised(text: str) -> str:
    told = tell_of(text)
    kind = told.cause.partition(":")[0]
    return kind if told.place is None else f"{kind} at {told.place}"
