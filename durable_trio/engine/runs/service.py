"""The runs service: a dynamic set of actors, one per resident run, and the executor's capacity."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import trio

from durable_trio.clock import due_after
from durable_trio.codec import Codec
from durable_trio.doors import guarded, tell
from durable_trio.engine.codes import Codes
from durable_trio.engine.failures_of import FailuresOf
from durable_trio.engine.observers import Observers
from durable_trio.engine.os_signals import comes_of_signal
from durable_trio.engine.runs.actor import RunActor
from durable_trio.engine.runs.bodies import guard_bodies
from durable_trio.engine.runs.damage import damage_of
from durable_trio.engine.runs.draining import drained, in_hand
from durable_trio.engine.runs.ending import cancelled
from durable_trio.engine.runs.idle import IdleRuns
from durable_trio.engine.runs.inbox import Notice
from durable_trio.engine.runs.lending import LENDER
from durable_trio.engine.runs.refusing import Refusing
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.engine.runs.run_log import RunLog
from durable_trio.engine.runs.suspects import fail_suspect
from durable_trio.engine.runs.telling import Tellings
from durable_trio.engine.served import ServedCodes
from durable_trio.engine.settings import Settings
from durable_trio.errors import PASSING
from durable_trio.failures import exits_of, is_cancelled
from durable_trio.limits import LENT_RUNS_MAX, STORE_RETRY_SECONDS
from durable_trio.logger import Logger
from durable_trio.looks import said
from durable_trio.records import Problem, StepInHand
from durable_trio.rows import RunEnd, RunRow
from durable_trio.rules.damage import damaged
from durable_trio.stores.contract import RequestCancel, Sent
from durable_trio.stores.questions import NOTHING_LOADED, Loaded, MailboxLook
from durable_trio.stores.writer import Writer
from durable_trio.turns.quiet import watching
from durable_trio.workflows import Registry, Workflow
from supervisors.groups import split_failure

_LOGGER = Logger("durable_trio.runs")
# Steps that are named to people.
_LINGERING_MAX = 100


class Runs:
    """The resident runs of one executor. Implements what actors need of the engine around them.

    Args:
        engine: the user's, for functions of steps.
        call_at: calls back when the clock says so.
        wake_at: wakes a run then, if it is still here.
        residents: the runs in memory by their ids: kept here, and looked at by others.
        place_is_free: told that a run has left memory, or waits for others and has lent its place.
        run_is_due: told when a run comes that nobody has; ``None`` means now.
        run_has_left: told the id of a run that has left memory, and how it has ended, if it has. Of one that has
            ended, and whose tasks take their time to leave, it is told before.
        unowned_got_message: told that a message was put into the mailbox of a run that nobody owns.
        write_was_refused: told that this executor may have been declared dead.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        settings: Settings,
        codec: Codec,
        registry: Registry,
        observers: Observers,
        failures_of: FailuresOf,
        engine: object,
        call_at: Callable[[int, Callable[[], None]], None],
        wake_at: Callable[[int, ResidentRun, int], None],
        residents: dict[str, ResidentRun],
        place_is_free: Callable[[], None],
        run_is_due: Callable[[int | None], None],
        run_has_left: Callable[[str, RunEnd | None], None],
        unowned_got_message: Callable[[], None],
        write_was_refused: Callable[[], None],
    ) -> None:
        self.writer = writer
        self.settings = settings
        self.codec = codec
        self.is_draining = False
        #: Steps that were in hand when the time for that was over.
        self.interrupted: tuple[StepInHand, ...] = ()
        self.registry = registry
        self.failures_of = failures_of
        self.engine = engine
        self._workflows = {(each.name, each.version): (each, failures_of(each)) for each in registry}
        self._place_is_free = place_is_free
        self._run_is_due = run_is_due
        self._run_has_left = run_has_left
        self._unowned_got_message = unowned_got_message
        self._write_was_refused = write_was_refused
        self._call_at = call_at
        self.wake_at = wake_at
        self.tellings = Tellings(
            writer=writer,
            settings=settings,
            registry=registry,
            observers=observers,
            failures_of=failures_of,
            call_at=call_at,
        )
        self.served = ServedCodes(Codes(settings.build), registry)
        self.refusing = Refusing(
            writer=writer, codec=codec, clock=settings.clock, served=self.served, telling_of=self.tellings.of
        )
        self._actors: dict[int, ResidentRun] = {}
        self._by_id = residents
        self._resident_max = max(settings.resident_runs_max, settings.concurrency)
        self._idle = IdleRuns(resident_max=self._resident_max, count_resident=lambda: len(self._actors))
        self.moved: Callable[[ResidentRun], object] = self._idle.discard
        self._reserved = 0
        self.given_back_count = 0  # how often a run has given back its place: it has left, or only waits
        self.recorded_count = 0  # how many outcomes those have recorded here that have left
        self._lenders: dict[int, int] = {}  # resident runs whose code waits for other runs, and at how many places
        self._looks_at_all = False  # any of them may have been told
        self._early_posts: set[int] = set()  # runs that were told of a message while some were on their way into memory
        self._due_once_left: set[int] = set()  # that have got a message since they were released
        self._warned_places: set[tuple[str, str]] = set()
        self.crashed: set[int] = set()  # runs whose own code has ended the executor
        self._nursery: trio.Nursery | None = None
        self._empty = trio.Event()

    # ---- for services ------------------------------------------------------------------------------------------

    @property
    def resident_count(self) -> int:
        """How many runs are in memory."""
        return len(self._actors)

    @property
    def busy_count(self) -> int:
        """How many of them have something to do; those that only wait take no place."""
        return len(self._actors) - len(self._idle)

    @property
    def free_count(self) -> int:
        """How many more runs may be claimed now."""
        nursery = self._nursery
        if self.is_draining or nursery is None or nursery.cancel_scope.cancel_called:  # it ends with a fault
            return 0
        lent_count = 0
        if self._lenders:  # one that only waits, for others as well, has no place to lend
            lent_count = min(sum(self._actors[run] not in self._idle for run in self._lenders), LENT_RUNS_MAX)
        idle_count = len(self._idle.since) + len(self._idle.leaving)  # as its ``__len__``: each start asks this
        return max(0, self.settings.concurrency + lent_count - len(self._actors) + idle_count - self._reserved)

    @property
    def suspects_max(self) -> int:
        """How many suspects may be claimed now: one at a time, so that a poisonous one takes no others along.

        The others wait in the store. Here each death of this process would count as one of theirs.
        """
        return 0 if any(actor.is_suspect for actor in self._actors.values()) else 1

    def reserve(self, count: int = 1) -> bool:
        """Keep places for runs that are being claimed; ``unreserve`` gives them back once those are started."""
        if self.free_count < count:
            return False
        self._reserved += count
        return True

    def unreserve(self, count: int = 1) -> None:
        """Give reserved places back."""
        self._reserved -= count
        if not self._reserved:
            self._early_posts.clear()
            self._looks_at_all = False

    @contextmanager
    def lend(self, run: int) -> Iterator[None]:
        """Give the place of a resident run to others inside the block, in which its code waits for another run."""
        if run not in self._actors:  # a task that its code has left behind
            yield
            return
        self._lenders[run] = self._lenders.get(run, 0) + 1
        if len(self._lenders) > LENT_RUNS_MAX:
            _LOGGER.warning(
                "run %r waits in a step for another run, as %d others do: no more places are lent, and if those that "
                "are waited for have none, they wait for ever; use ctx.run_child, whose wait takes no place",
                self._actors[run].row.id,
                LENT_RUNS_MAX,
            )
        self._place_is_free()
        try:
            yield
        finally:
            left = self._lenders.pop(run, 1) - 1
            if left:
                self._lenders[run] = left

    def start(self, row: RunRow, loaded: Loaded | None = None) -> None:
        """Make a claimed run resident; ``None``: it was stored just now, so there is nothing else of it."""
        known, nursery = self._workflows.get((row.workflow, row.version)), self._nursery
        if nursery is None or nursery.cancel_scope.cancel_called or self.writer.failure is not None:
            return  # this service is ending; the engine gives back what it owns
        if known is None or self.is_draining:
            return
        workflow, failures = known
        is_set_aside = row.recoveries > workflow.max_recoveries
        try:
            if loaded is None:
                loaded = NOTHING_LOADED
            elif not is_set_aside and (damage := damage_of(row, loaded)) is not None:
                self.refuse(row, workflow, damaged(row.id, damage), None)
                return
            actor = RunActor(self, row, workflow, loaded, failures)
            if row.run in self._early_posts or self._looks_at_all:
                actor.inbox.post(Notice.MAILBOX)
        except Exception as error:
            self.refusing.refuse_for_fault(row, workflow, error)
            return
        self._actors[row.run] = self._by_id[row.id] = actor
        if len(self._actors) > self._resident_max:
            self._idle.look()  # one of those that only wait has to make room
        # In a context of its own: a body must not see the variables of whoever has started it, since another process
        # that goes on with it has none of them.
        context = contextvars.Context()
        context.run(LENDER.set, partial(self.lend, row.run))
        begin = partial(self._set_aside, actor) if is_set_aside else actor.run
        context.run(partial(nursery.start_soon, begin, name=f"run {row.id}"))

    @contextmanager
    def adopt(self, resident: ResidentRun) -> Iterator[None]:
        """Count a run that somebody else executes in this process as resident inside the block."""
        self._actors[resident.row.run] = self._by_id[resident.row.id] = resident
        token = LENDER.set(partial(self.lend, resident.row.run))
        try:
            yield
        finally:
            LENDER.reset(token)
            self._left(resident)

    def resident_rows(self) -> tuple[RunRow, ...]:
        """Return the runs that are in memory, as they were when they were claimed."""
        return tuple(actor.row for actor in self._actors.values())

    def busy_rows(self) -> tuple[RunRow, ...]:
        """Return those of them that have something to do, and so a place."""
        return tuple(actor.row for actor in self._actors.values() if actor not in self._idle)

    def clock_was_set(self) -> None:
        """Have everybody look anew when what they wait for comes."""
        for actor in self._actors.values():
            actor.wake()
        self._run_is_due(None)

    def lingering(self) -> tuple[StepInHand, ...]:
        """Return the steps that runs wait for which are to end; of many some."""
        steps = in_hand(actor for actor in self._actors.values() if actor.is_to_end)
        return tuple(islice(steps, _LINGERING_MAX))

    def has(self, run: int) -> bool:
        """Return whether a run is resident."""
        return run in self._actors

    def sent(self, sent: Sent) -> None:
        """A message was put into a mailbox here: tell its run, if that is resident. Elsewhere its owner notices."""
        if sent.owner is None:
            self._unowned_got_message()
        else:
            self.post(sent.entry.run, sent)  # a fault in it is known to who has sent

    def look_at_all(self) -> None:
        """Have each run look into its mailbox: in some there may be something, and nobody can tell in which."""
        self._looks_at_all = self._reserved > 0
        for run in list(self._actors):
            self.post(run)

    def post(self, run: int, sent: Sent | None = None) -> None:
        """Tell a run, if it is resident, that there is something in its mailbox: it is read, unless ``sent`` will do.

        That is given to the run itself if it was in this very stay when the message was stored, or was found unread:
        then whatever it has taken from its mailbox since, it has taken here, and knows the message by its id.
        """
        if self._reserved:  # it may be on its way into memory, and was read before the message came
            self._early_posts.add(run)
        actor = self._actors.get(run)
        if actor is None:
            return
        if sent is not None and sent.follows is not None and sent.follows[0] == actor.row.token:
            try:  # as ``guarded`` does: each message passes here
                actor.hand_over(MailboxLook(after=sent.follows[1], entries=(sent.entry,)))
            except BaseException as error:
                tell(actor, error)
        else:
            guarded(actor.inbox.post, Notice.MAILBOX)

    async def drain(self, seconds: float) -> None:
        """Take no more runs; let step functions finish for some seconds, then detach what is left, unwaited for."""
        self.is_draining = True
        for actor in list(self._actors.values()):
            guarded(actor.inbox.post, Notice.DRAIN)
        if self._actors and seconds > 0:
            await drained(self._empty, self.resident_rows, self.tellings.open_steps, self.settings.clock.stamp, seconds)
        self.interrupted = tuple(in_hand(self._actors.values()))
        self.detach_now()

    def detach_now(self) -> None:
        """Everything ends, perhaps because nothing can be written any more: make every run leave before it notices."""
        for actor in list(self._actors.values()):
            guarded(actor.detach)

    async def detach_all(self) -> None:
        """Make every run leave at once, and wait until all have."""
        self.detach_now()
        if self._actors:
            await self._empty.wait()

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled; then make every run leave, and return when all have."""
        begun, stop = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(self._keep, begun, stop)
                nursery.start_soon(self._idle.run)
                await begun.wait()
                task_status.started()
                await trio.sleep_forever()
            finally:
                stop.set()
        raise AssertionError("unreachable")

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def _keep(self, begun: trio.Event, stop: trio.Event) -> None:
        """Have the actors' nursery until ``stop``. Shielded: a run is detached before it is cancelled."""
        guard_bodies()
        with trio.CancelScope(shield=True), watching():
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    begun.set()
                    try:
                        await stop.wait()
                    except BaseException:  # a fault in another of its tasks has cancelled it, and so all bodies
                        self.detach_now()
                        raise
                    self._nursery = None
                    await self.detach_all()
                    nursery.cancel_scope.cancel()
                if not stop.is_set():  # else no run would ever begin here again, and nobody would know
                    raise RuntimeError("the code of a run has cancelled the tasks of all runs")
            finally:
                self._nursery = None
                self.detach_now()  # also the inline ones, whose tasks are not of this nursery
                for actor in list(self._actors.values()):
                    if isinstance(actor, RunActor):  # with the nursery its task has ended, however that came
                        self._left(actor)

    # ---- one run -----------------------------------------------------------------------------------------------

    def _end_executor(self, actor: ResidentRun, exits: Sequence[BaseException]) -> None:
        """The executor stops, and no run may take that for a cancel. Only the run whose code does it is to blame."""
        own = [each for each in exits if not comes_of_signal(each)]
        if own:
            RunLog(actor.row).ended_executor(", ".join(map(said, own)), ", ".join(actor.exit_places) or "its body")
            self.crashed.add(actor.row.run)  # counted, else it would end each executor anew
        self._nursery = None  # it is about to close: what came now would be neither begun nor given back
        self.detach_now()

    def _left(self, resident: ResidentRun) -> None:
        if self._actors.get(resident.row.run) is resident:
            del self._actors[resident.row.run]
            self.recorded_count += resident.recorded_count
            if self._by_id.get(resident.row.id) is resident:
                del self._by_id[resident.row.id]
                self._run_has_left(resident.row.id, resident.end)
            else:  # it was removed, and another one has its id: who waits for that is not to be told of this end
                self._run_has_left(resident.row.id, None)
            self.given_back_count += not self._idle.discard(resident)
            self._lenders.pop(resident.row.run, None)
            self.tellings.left(resident.row.run)
        if not self._actors:
            self._empty.set()
            self._empty = trio.Event()
        self._place_is_free()
        if resident.row.run in self._due_once_left:
            self._due_once_left.discard(resident.row.run)
            self._run_is_due(None)

    @trio.lowlevel.enable_ki_protection  # who is not noted to have left would be waited for
    async def _set_aside(self, actor: RunActor) -> None:
        try:
            actor.end = await fail_suspect(actor, self.tellings, self.writer, self.settings.clock)
            self.ended(actor)
        except BaseException as error:
            self.came_out(actor, error)
        finally:
            self.left(actor)

    # ---- Keeper: what actors ask -------------------------------------------------------------------------------

    def refuse(self, row: RunRow, workflow: Workflow[..., Any], problem: Problem, error: Exception | None) -> None:
        self.refusing.refuse(row, workflow, problem, error)

    def came_out(self, resident: ResidentRun, error: BaseException) -> None:
        row, workflow = resident.row, resident.workflow
        if isinstance(error, Exception):
            self.refusing.refuse_for_fault(row, workflow, error)
            return
        exits = exits_of(error)
        if exits:
            self._end_executor(resident, exits)
            raise error
        # It leaves because somebody else stops the executor. What has come out besides is a fault of ours.
        faults, rest = split_failure(error)
        if faults is not None:
            self.refusing.refuse_for_fault(row, workflow, faults)
        if rest is not None and not is_cancelled():  # of these, nobody stops anything
            self.refusing.refuse_for_fault(row, workflow, RuntimeError(f"its task has ended with {rest!r}"))
        elif rest is not None:
            raise rest from None

    def left(self, resident: ResidentRun) -> None:
        try:
            self._left(resident)
        except BaseException:  # it ends this service: nobody may take that for a cancel of his own
            self.detach_now()
            raise

    def rests(self, resident: ResidentRun) -> None:
        self.given_back_count += resident not in self._idle
        self._idle.add(resident)
        self._place_is_free()

    def released(self, wake_at: int | None) -> None:
        self._run_is_due(wake_at)

    def ended(self, resident: ResidentRun) -> None:
        row = resident.row
        if row.parent is not None:
            self.post(row.parent)
            parent = self._actors.get(row.parent)
            if parent is None:  # it is due now, if nobody else has it
                self._run_is_due(None)
            elif parent.port.is_cut:  # it reads its mailbox no more: it is due as soon as it has left
                self._due_once_left.add(row.parent)
        if not resident.is_alone:  # else it leaves at once, and with it comes the word that it has ended
            self._run_has_left(row.id, resident.end)

    def request_cancel(self, run_id: str, callback: Callable[[Any], None], *, why: str) -> None:
        def done(outcome: Any) -> None:
            if isinstance(outcome, PASSING):  # the run that asks cannot decide, as a caller can
                self._call_at(due_after(self.settings.clock.now(), STORE_RETRY_SECONDS), ask)
                return
            if isinstance(outcome, Sent):
                guarded(self.sent, outcome)
            guarded(callback, outcome)

        def ask() -> None:
            operation = RequestCancel(run_id=run_id, reason=reason, error=error, now=self.settings.clock.stamp())
            self.writer.submit(operation, done)

        reason = self.codec.own.encode(why, str, where="a reason").text
        error, _ = self.failures_of(None).encode(cancelled(run_id, why), where="the error of a cancelled run")
        ask()

    def lost(self, resident: ResidentRun, error: BaseException) -> None:
        _LOGGER.warning("a write of a run was refused: %s", error)
        self._run_has_left(resident.row.id, None)  # a thread of it may stay for long, and who waits has to look
        self._write_was_refused()

    def fell(self, resident: ResidentRun, error: Exception) -> None:
        self.refusing.refuse_for_fault(resident.row, resident.workflow, error)

    def task_abandoned(self, resident: ResidentRun, place: str, is_own: bool) -> None:
        RunLog(resident.row).body_stays(place)
        if is_own:  # of a run the task is no more, and that of a script goes on, but is not waited for
            self._left(resident)

    def warn_foreign_wait(self, workflow: str, place: str) -> None:
        if (workflow, place) in self._warned_places:
            return
        self._warned_places.add((workflow, place))
        _LOGGER.warning(
            "workflow %r waits for something that is not durable, at %s: after a crash it waits anew, and the run "
            "cannot leave memory meanwhile; put it into a step, or use ctx.sleep or ctx.wait_signal",
            workflow,
            place,
        )
