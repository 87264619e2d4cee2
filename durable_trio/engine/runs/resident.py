"""A run that is in memory: its turns, its inbox, and how it leaves. What its body is, subclasses say.

Services reach it only by notices in its inbox; all that happens to the run's state happens here and in its turns. It
owns one nursery: around the body, which runs in the nursery's own task inside a cancel scope, for the tasks of step
functions, and for the listener, which begins with the first notice: nearly always a run ends before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVarTuple

import trio

from durable_trio.calls.body import Body
from durable_trio.calls.saga import Saga
from durable_trio.calls.step_tasks import StepTasks
from durable_trio.doors import guarded
from durable_trio.engine.runs.damage import damage_in_look
from durable_trio.engine.runs.inbox import Inbox, Notice
from durable_trio.engine.runs.keeper import Keeper
from durable_trio.engine.runs.life import TOO_LATE, Life
from durable_trio.engine.runs.telling import Telling
from durable_trio.errors import Detached, NonDeterminismError, RunConflict, StoreError
from durable_trio.events import RunResumed, RunStarted, RunSuspended
from durable_trio.failures import Failures, is_cancelled
from durable_trio.failures.one_line import tell_of
from durable_trio.limits import MAILBOX_ENTRIES_READ, SUSPECT_RECOVERIES, SUSPECT_SECONDS
from durable_trio.records import Problem, RunStatus, StepKind
from durable_trio.rows import SHARED_KEYS, HistoryRow, RunEnd, RunRow, WaitRow
from durable_trio.rules.damage import damaged
from durable_trio.rules.divergence import explain
from durable_trio.rules.problems import ProblemKind
from durable_trio.rules.residency import SOON
from durable_trio.rules.run_life import WAIT
from durable_trio.rules.unasked import Unasked, advice, advice_of_retired
from durable_trio.stores.contract import NO_POSITION, Fence, Release
from durable_trio.stores.questions import NOTHING_LOADED, FindRun, Loaded, LookAtMailbox, MailboxLook
from durable_trio.stores.threads import Waiter
from durable_trio.turns.history import change_of
from durable_trio.turns.mode import LEAVE, REST, STAY, Mode
from durable_trio.turns.port import Port
from durable_trio.turns.quiet import BODY, Watched, go
from durable_trio.turns.turns import Turns
from durable_trio.workflows import Workflow

Ts = TypeVarTuple("Ts")
# Nothing more can be written of it.
_NO_MORE: Final = (Life.FINISHING, Life.ENDED)


class ResidentRun:
    """One run, resident in this process."""

    port_class = Port
    #: Whether the body's task is somebody else's, who goes on with it after the run has left.
    is_guest = False

    def __init__(
        self, keeper: Keeper[ResidentRun], row: RunRow, workflow: Workflow[..., Any], loaded: Loaded, failures: Failures
    ) -> None:
        self.row = row
        self.keeper = keeper
        self.workflow = workflow
        self._loaded = loaded
        self.failures = failures
        self.clock = keeper.settings.clock
        self._came_at = trio.current_time()
        self.root_scope = trio.CancelScope()
        self.saga_scope = trio.CancelScope()
        assert row.owner is not None
        self.port = self.port_class(keeper.writer, Fence(row.run, row.owner, row.token), row.status, owner=self)
        self.turns = Turns(
            loaded,
            port=self.port,
            resident=self,
            clock=self.clock,
            ttl_at=None if row.ttl_at is None else self.clock.due(row.ttl_at, stamped_at=row.created_at),
            started_at=row.started_at or row.created_at,
            retired=workflow.retired,
            had_begun=row.token > 1 if row.generation == 0 else _had_begun(loaded),  # it was claimed before
        )
        self._came_with = self.turns.state.last_seq
        self.inbox = Inbox(self, self.port)
        self.attempts = self.telling.attempts() if keeper.tellings.is_watched else None
        self.body: Body
        self._around: AbstractAsyncContextManager[trio.Nursery]
        self._body_before: Token[Watched | None]  # whose body the task was before
        self._nursery: trio.Nursery | None = None
        self.cancel_row: HistoryRow | None = None
        self.end: RunEnd | None = None  # once that is committed
        self.life = Life.BODY
        self._stops_waiting = False  # cancelled, or out of time, after its body has ended
        self._rest: tuple[int | None, tuple[str, ...]] | None = None
        self._alarm_at: int | None = None  # the last one that was asked for
        self._stall_watched = False
        self._fault: BaseException | None = None
        self.exit_places: list[str] = []  # where its code has ended the program; not said of the body itself
        self._knows_why = False  # its tasks end: the run has ended, or was asked to leave

    # ---- for services ------------------------------------------------------------------------------------------

    def start_beside(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a task in the run's nursery that is none of the body's, whoever is calling."""
        assert self._nursery is not None
        context = self._nursery.parent_task.context.copy()
        context.run(BODY.set, None)
        context.run(partial(self._nursery.start_soon, self._guard_beside, fn, *args))

    async def _guard_beside(self, fn: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Have a fault end the run's stay: the nursery would cancel the body, which must not take it for a cancel."""
        try:
            await fn(*args)
        except BaseException as error:
            if is_cancelled() and not isinstance(error, Exception):
                raise
            self.failed(error)

    def hand_over(self, look: MailboxLook) -> None:
        """Take what was put into its mailbox: at once, if it is what comes next.

        That need not be if the run still replays, or others have put something there that it does not know yet.
        """
        turns = self.turns
        if turns.state.mode is Mode.REPLAYING or look.after > turns.mailbox.position:
            self.inbox.post(look)
        elif not (self.port.is_cut or self.life in _NO_MORE):  # a write behind the last one would be refused
            if look.entries[0].is_new:
                turns.message(look)
            else:  # it was read, and may be damaged
                self.take_look(look)

    @property
    def recorded_count(self) -> int:
        """How many outcomes it has recorded in this stay."""
        return self.turns.state.last_seq - self._came_with

    @property
    def has_left(self) -> bool:
        """Whether nothing is to be told it any more."""
        return self.port.is_cut

    @property
    def is_alone(self) -> bool:
        """Whether nothing of it but its own task has still to end, and what ends at once."""
        return self._nursery is None or len(self._nursery.child_tasks) == self.body.tasks.idle_count

    def wake(self) -> None:
        """Something is due."""
        guarded(self.inbox.post, Notice.WAKE)

    @property
    def last_recorded(self) -> HistoryRow | None:
        """The last row of its history, of a run that has not begun here."""
        return self._loaded.history[-1] if self._loaded.history else None

    @property
    def is_suspect(self) -> bool:
        """Whether its processes have died again and again, and it gives no sign yet that this one will not."""
        if self.row.recoveries < SUSPECT_RECOVERIES or self.turns.state.has_progressed:
            return False
        return trio.current_time() - self._came_at < SUSPECT_SECONDS

    @property
    def is_to_end(self) -> bool:
        """Whether it goes on only until its steps in hand have come out, and what is to be undone is."""
        return self.cancel_row is not None or self.life is Life.COMPENSATING

    # ---- life --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """The calling task is the body's inside the block, which ends when the run leaves."""
        around = self._around = trio.open_nursery()
        nursery = await around.__aenter__()
        try:
            self._begin(nursery)
        except BaseException as error:
            self.port.cut()
            await around.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    def _begin(self, nursery: trio.Nursery) -> None:
        row, keeper, state = self.row, self.keeper, self.turns.state
        self.body = Body(
            run_id=row.id,
            generation=row.generation,
            numbers_changes_apart=row.keys != SHARED_KEYS,
            seed=row.seed,
            workflow=self.workflow,
            registry=keeper.registry,
            state=state,
            lobby=self.turns.lobby,
            tasks=StepTasks(nursery, f"step of run {row.id}"),
            clock=self.clock,
            codec=keeper.codec,
            failures=self.failures,
            saga=Saga(),
            resident=self,
            observe=self.attempts,
            slots=keeper.tellings.slots,
            stored_positions=dict(self._loaded.positions),
            engine=keeper.engine,
            generations_kept=keeper.settings.generations_kept,
        )
        self._nursery = nursery
        if keeper.tellings.is_watched:
            if self._loaded.history or row.status is not RunStatus.RUNNING or row.token > 1:
                self.telling.tell(RunResumed, recoveries=row.recoveries)
            else:
                self.telling.tell(RunStarted)
        self.inbox.begin()
        task = nursery.parent_task
        state.tasks.add(task)
        state.lane.adopt(task, is_guest=self.is_guest)
        state.runnable_count += 1
        go(state)
        self._body_before = BODY.set(state)

    async def __aexit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            self._let_go()  # before the nursery cancels what is left of the body, which must not take it for a cancel
        try:
            has_settled = await self._around.__aexit__(cls, error, trace)
        except BaseExceptionGroup as group:
            rest = group.split(Detached)[1]
            if rest is not None:
                raise rest from None
            has_settled = True
        finally:
            self.port.cut()
        if self._fault is not None and not isinstance(self._fault, Exception):
            raise self._fault  # it stops the executor, and must come out of a task
        return has_settled

    def take_look(self, look: MailboxLook) -> None:
        if damage := damage_in_look(look):
            self.refuse(damaged(self.row.id, damage))
        elif self.life not in _NO_MORE:  # a write behind the last one would be refused
            self.turns.message(look)

    async def read_mailbox(self) -> MailboxLook:
        after, names = self.turns.mailbox.question()
        look = LookAtMailbox(self.row.run, after=after, names=names, limit=MAILBOX_ENTRIES_READ)
        return await self.keeper.writer.ask_patiently(look)

    # ---- what the turns ask ------------------------------------------------------------------------------------

    def control(self, row: HistoryRow) -> None:
        if self.life in TOO_LATE:
            return  # it came too late
        if row.kind is StepKind.CANCEL:
            self.cancel_row = row
        if self.life is not Life.BODY:  # but the children may still be waited for
            self._stops_waiting = True
            if self.turns.state.mode is not Mode.REPLAYING:
                self._cancel_children()
            return
        self.root_scope.cancel("the run was cancelled" if row.kind is StepKind.CANCEL else "the run's ttl is over")

    def _cancel_children(self) -> None:
        for child_id, has_ended in self.body.children.items():
            if not has_ended:
                self.request_cancel(child_id)

    def went_live(self) -> None:
        body, stored = self.body, self._loaded.values
        fresh = tuple(  # published at replay, and not yet stored: the body's code has changed, or its history was cut
            (key, text)
            for key, (text, position) in body.published.items()
            if position > body.stored_positions.get(key, NO_POSITION) and stored.get(key) != text
        )
        if fresh:
            position = self.turns.state.position
            self.port.advance(self.turns.state.check, published=fresh, position=position)
        if self.attempts is not None:
            self.attempts.went_live(self._is_intended)
        self._loaded = NOTHING_LOADED  # it may be large, and is not needed any more
        if self._stops_waiting:  # the process may have died before it had asked them
            self._cancel_children()

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...], *, now: int) -> None:
        if due_at is not None:
            self.alarm(due_at, now)
        wake_at = None if due_at is None else due_at - self.clock.ahead
        status = WAIT[self.port.status]
        stays = due_at is not None and due_at - now <= SOON
        if not stays:
            state = self.turns.state
            state.mode = REST[state.mode]
        rest = (due_at, waits_for)
        if waits or rest != self._rest or self.port.status is not status:
            stored = partial(self._rest_stored, stays)
            self.port.advance(stored, waits=waits, status=status, wake_at=wake_at, waits_for=waits_for)
            self._rest = rest
        elif not stays:
            self.keeper.rests(self)

    def _rest_stored(self, stays: bool, outcome: Any) -> None:
        if outcome is not True or self.turns.has_looked:  # it may have found something that waits for this commit
            self.turns.state.check(outcome)
        elif not stays:
            self.keeper.rests(self)  # which may have it leave at once

    def moved(self) -> None:
        self.keeper.moved(self)

    def leave_if_idle(self) -> None:
        """Leave memory, if the run only waits."""
        if self._rest is not None and self.turns.is_at_rest:
            self._release(*self._rest)

    def _release(self, due_at: int | None, waits_for: tuple[str, ...]) -> None:
        release = Release(
            fence=self.port.fence,
            status=WAIT[self.port.status],
            wake_at=None if due_at is None else due_at - self.clock.ahead,
            waits_for=waits_for,
        )
        state = self.turns.state
        state.mode = LEAVE[state.mode]
        self.port.submit(release, lambda outcome: self._released(outcome, due_at))

    def _released(self, outcome: Any, due_at: int | None) -> None:
        state = self.turns.state
        state.mode = STAY[state.mode]
        if outcome is True:
            if self.keeper.tellings.is_watched:
                self.telling.tell(RunSuspended)
            self.detach()
            self.keeper.released(due_at)
        elif outcome is False:
            self._rest = None
            self.look_into_mailbox()
        else:
            self.write_refused(outcome)

    def foreign(self, places: Sequence[str]) -> None:
        if self.life is not Life.BODY:
            return  # it has ended, and what its task waits for is ours
        strict = self.workflow.strict
        if self.keeper.settings.strict if strict is None else strict:
            text = f"workflow {self.row.workflow!r} waits for something that is not durable: {'; '.join(places)}"
            self.refuse(Problem(kind=ProblemKind.FOREIGN_WAIT.value, text=text))
            return
        for place in places:
            self.keeper.warn_foreign_wait(self.row.workflow, place)

    def stuck(self, row: HistoryRow, *, hopeless: bool) -> None:
        if hopeless:
            self.diverged(row)
        elif not self._stall_watched and self._nursery is not None:
            self._stall_watched = True
            self.start_beside(self._watch_stall, row)

    async def _watch_stall(self, row: HistoryRow) -> None:
        await trio.sleep(self.keeper.settings.replay_stall_seconds)
        self._stall_watched = False
        if (
            self.turns.state.is_replaying
            and self.turns.state.history.next_row() is row
            and self.turns.state.runnable_count == 0
        ):
            guarded(self.diverged, row)

    def continued(self) -> None:
        self.detach()
        self.keeper.released(None)

    def child_started(self, child_id: str, *, missed: Workflow[..., Any] | None) -> None:
        if missed is not None:
            self.telling.log.child_unknown(child_id, missed.name, missed.version)
        self.keeper.released(None)

    def request_cancel(self, run_id: str) -> None:
        self.keeper.request_cancel(run_id, ignore, why="its parent ended or was cancelled")

    @trio.lowlevel.enable_ki_protection
    async def cancel_and_tell(self, run_id: str) -> bool:
        waiter = Waiter()
        self.keeper.request_cancel(run_id, waiter, why="its parent cancelled it")
        outcome = await waiter.outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome is not None

    async def look_up(self, run_id: str) -> RunRow | None:
        return await self.keeper.writer.ask_patiently(FindRun(run_id))

    def alarm(self, due_at: int, now: int) -> None:
        if self._alarm_at is None or due_at < self._alarm_at or self._alarm_at <= now:
            self._alarm_at = due_at
            self.keeper.wake_at(due_at, self, now)

    def look_into_mailbox(self) -> None:
        self.inbox.post(Notice.MAILBOX)

    def is_left_undecided(self) -> None:
        """Whoever drains this executor does not wait for ever."""

    def quiesced(self) -> None:
        self.detach()

    def write_refused(self, error: BaseException) -> None:
        if isinstance(error, RunConflict) or type(error) is StoreError:  # it contradicts what is stored of the run
            self.refuse(damaged(self.row.id, f"what it has to record is refused: {error}"))
        self.detach()
        self.keeper.lost(self, error)

    def failed(self, error: BaseException) -> None:
        """A fault of ours in this run: it leaves at once, and is parked. Nobody else is touched.

        Or what its own code has ended the program with: that is raised once the run has left.
        """
        has_left = self.port.is_cut
        self._fault = self._fault or error
        self.detach()
        if isinstance(error, Exception) and not has_left:
            self.keeper.fell(self, error)

    def ends_program(self, place: str) -> None:
        self.exit_places.append(place)
        self.detach()

    def task_abandoned(self, place: str, is_own: bool) -> None:
        self.keeper.task_abandoned(self, place, is_own)

    # ---- leaving -----------------------------------------------------------------------------------------------

    def diverged(self, row: HistoryRow | None, *, raised: str | None = None) -> None:
        """Refuse the run, whose code does not do what is recorded. ``raised``: the failure that has ended its body."""
        turns = self.turns
        calls = sorted(turns.lobby.calls.values(), key=lambda call: call.key)
        diff = explain(
            tuple(turns.state.delivered),
            row,
            [(str(call.kind), str(call.key)) for call in calls],
            ended=self.life is not Life.BODY,
        )
        text = f"the code of workflow {self.row.workflow!r} does not do what run {self.row.id!r} has recorded\n{diff}"
        if raised is not None:
            told = tell_of(raised)
            text += f"\nThe body has raised {told.cause}" + (f" (at {told.place})" if told.place else "")
        foreign = [] if self.life is not Life.BODY else turns.foreign_waits(also_in_process=True)
        if foreign:
            text += "\nThe body waits for something that is not durable: " + "; ".join(foreign)
        if (why := self.why_unasked(row)) is not None:
            assert row is not None
            text += f"\n{advice(change_of(row.key), why)}"
        elif self.workflow.retired:
            text += f"\n{advice_of_retired(sorted(self.workflow.retired), turns.state.history.retired_old_ways())}"
        error = NonDeterminismError(text, run_id=self.row.id, diff=diff)
        self.refuse(Problem(kind=ProblemKind.DIVERGENCE.value, text=text), error)

    def why_unasked(self, row: HistoryRow | None) -> Unasked | None:
        """Return why the code is likely not to ask for an answer that is recorded; ``None`` of any other row."""
        if row is None or row.kind is not StepKind.PATCH:
            return None
        return self.keeper.served.why_unasked(self.workflow, row, is_asked=change_of(row.key) in self.body.ways)

    def refuse(self, problem: Problem, error: Exception | None = None) -> None:
        """Give the run back with a problem, and leave. ``error``: the same for observers, who may tell kinds apart."""
        if self.port.is_cut:
            return
        self.keeper.refuse(self.row, self.workflow, problem, error)
        self.detach()

    def detach(self) -> None:
        """Leave this process: write nothing any more, cancel the body, drop what comes out of it."""
        if not self.port.is_cut:
            self._knows_why = True
            self._let_go()

    def _let_go(self) -> None:
        if self.port.is_cut:
            return
        self.port.cut()
        if self.attempts is not None:
            guarded(self.attempts.left)
        if self._nursery is None:
            return  # it has not begun
        self.body.is_detaching = True
        why = "the run leaves this process"
        guarded(self.root_scope.cancel, why)  # whatever is wrong with one of these, the others let the run out
        guarded(self.saga_scope.cancel, why)
        guarded(self.turns.lobby.throw_detached)
        guarded(self._nursery.cancel_scope.cancel, why)

    @property
    def telling(self) -> Telling:
        """Who says what happens to this run; made when there is something to say."""
        return self.keeper.tellings.of(self.row, self.failures)

    def retried(self, kind: StepKind, wait: WaitRow, delay: float) -> None:
        duration = None if self.attempts is None else self.attempts.retried(wait.key)
        self.telling.retried(kind, wait, delay, duration=duration)

    def _is_intended(self, key: str) -> bool:
        return any(str(wait.key) == key and wait.kind == "intent" for wait in self._loaded.waits)


def _had_begun(loaded: Loaded) -> bool:
    """Return whether the body has been begun before in a later generation, as far as can be told."""
    return bool(loaded.history or loaded.waits) or any(seq >= 0 for seq, _ in loaded.positions.values())


def ignore(outcome: Any) -> None:
    """Nothing depends on this outcome."""
