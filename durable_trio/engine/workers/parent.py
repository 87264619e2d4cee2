"""The parent's side of worker processes. It supervises; it executes no runs and gives them no orders.

Workers are equals that meet in the store: each claims what is due and its share. So all the parent does is to start
them, to replace those that end, hang or are stopped, and to say at once when one is dead, so that the others can have
its runs without waiting for its lease. All of them serve one code (``family``), until somebody asks for a reload.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, NoReturn

import attrs
import trio

from durable_trio.engine.loop_watch import LOOP_BLOCKED
from durable_trio.engine.workers.family import Family
from durable_trio.engine.workers.requests import Requests
from durable_trio.errors import StoreCorrupt, StoreError, StoreRewound, WorkerFailed
from durable_trio.limits import WORKER_READY_SECONDS
from durable_trio.logger import Logger
from durable_trio.serving.app import environment_of_child
from durable_trio.serving.reasons import last_words
from supervisors import (
    Backoff,
    ChildExited,
    ChildStarted,
    ChildStatus,
    DynamicSupervisor,
    DynamicSupervisorSpec,
    Event,
    EventsLost,
    EventStream,
    ExitKind,
    Intensity,
    Process,
    ProcessError,
    ProcessExit,
    ProcessUnresponsive,
    Supervisor,
)
from supervisors.groups import first
from supervisors.stacks import main_first, stack_in

_LOGGER: Final = Logger("durable_trio.processes")
#: How many workers there are to be, so that the first one there leaves the others their shares.
COUNT_VARIABLE: Final = "DURABLE_TRIO_WORKER_COUNT"
#: With this word before the application a worker only says which code it would serve.
PROBE: Final = "--probe"
#: At this signal a worker writes the stacks of its threads to standard error: before it is killed for its silence.
STACK_SIGNAL: Final = "SIGUSR2"
#: The tree's name of the supervisor of the workers.
WORKERS: Final = "workers"

# A worker that was well for a second comes back nearly at once; one that falls again and again comes back slower.
_BACKOFF: Final = Backoff(first=0.02, factor=2, longest=0.5, reset_after=1)
# At most some 25 restarts in 10 s are let through by the backoff, however fast a worker dies: nobody is to be given up
# for them. Runs that kill workers are set aside by their own count, and false starts are counted below.
_RESTARTS_PER_WORKER: Final = 30
_RESTARTS_SECONDS: Final = 10.0
#: The exit code of a worker that has no engine to serve.
LOADING_FAILED: Final = 1
#: The exit code of a worker whose engine has failed: EX_SOFTWARE of sysexits.h. Runs that kill a worker, with whatever
#: code or signal, are counted by the store, and set aside; nobody but the parent counts this.
ENGINE_FAILED: Final = 70
#: The exit code of a worker in which a run has called ``sys.exit``, say. Not the engine's failure: the run is counted.
ENDED_BY_RUN: Final = 71
#: The exit code of a worker that has found other code in the files than its family serves.
CODE_CHANGED: Final = 72
#: With these a worker ends by itself; it is no executor any more, and nobody finds that it has died.
#: It has said itself, in its last line, why.
ENDS_IN_ORDER: Final = frozenset({LOADING_FAILED, ENGINE_FAILED, ENDED_BY_RUN, CODE_CHANGED})
# Files that do not fit are mended by somebody, not by the next try, and each takes an import of the application.
_FILES_BACKOFF: Final = Backoff(first=0.1, factor=2, longest=30, reset_after=1)
# An engine that fails again and again does so within seconds; one that has lasted longer has served somebody.
_SERVED_SECONDS: Final = 10.0
# So often in a row may a worker end by itself without having served.
_FALSE_STARTS_MAX: Final = 5
# So often in a row may a worker be killed before it is ready: by chance it is not.
_KILLS_MAX: Final = 10
_KILLED: Final = "was killed before it was ready"
# A drained worker closes its store, and interpreters take their time.
_EXIT_SECONDS: Final = 5.0


@attrs.frozen(kw_only=True)
class Workers:
    """How many worker processes, of what, and their deadlines in seconds."""

    app: str
    count: int
    grace_seconds: float
    heartbeat_seconds: float
    family: Family = attrs.field(factory=Family)
    requests: Requests = attrs.field(factory=Requests)
    # Whether this process is nothing but their parent, so that new code needs no new parent.
    can_reload: bool = False

    def spec(self) -> DynamicSupervisorSpec:
        """Return the supervisor of the workers: independent, started and drained all at the same time."""
        return DynamicSupervisorSpec(
            intensity=Intensity(_RESTARTS_PER_WORKER * self.count, per=_RESTARTS_SECONDS),
            children=[self.process(f"worker-{number}") for number in range(1, self.count + 1)],
        )

    def process(self, name: str) -> Process:
        """Return one worker."""
        return Process(
            name,
            [sys.executable, "-m", "durable_trio.engine.workers", self.app],
            env=self.environment(),
            answer=partial(self.family.answer, name),
            ready_within=WORKER_READY_SECONDS,
            heartbeat_within=self.heartbeat_seconds,
            stack_signal=getattr(signal, STACK_SIGNAL, None),
            shutdown=self.ending_seconds,
            closing=_EXIT_SECONDS,
            is_told_by_link=True,
            backoff=_BACKOFF,
            backoffs={CODE_CHANGED: _FILES_BACKOFF, LOADING_FAILED: _FILES_BACKOFF},
        )

    @property
    def ending_seconds(self) -> float:
        """How long a worker that is told to end may take: steps in hand have their grace, then it closes its store."""
        return self.grace_seconds + _EXIT_SECONDS

    def environment(self) -> dict[str, str]:
        """Return the environment of whatever imports the application as a worker does."""
        return {**environment_of_child(), COUNT_VARIABLE: str(self.count)}


class WorkerWatch:
    """The service that reacts to deaths of workers."""

    def __init__(
        self,
        family: Family,
        root: Callable[[], Awaitable[Supervisor]],
        reap: Callable[[], Awaitable[object]],
        give_up: Callable[[WorkerFailed], None],
    ) -> None:
        self._family = family
        self._root = root
        self._reap = reap
        self._give_up = give_up
        self._starts: dict[str, _Starts] = {}

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the user's tasks
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        task_status.started()
        root = await self._root()
        events = root.events()
        await self._reap_dead()  # of whom the last server of this store has left
        try:
            await self._react(events, root)
        finally:  # it is told to stop as soon as the last worker has ended, and what that has said is to be told still
            while (event := events.take_nowait()) is not None:
                _tell(event)
        await trio.sleep_forever()  # the tree has ended, and this task is about to be cancelled
        raise AssertionError("unreachable")

    async def _react(self, events: EventStream, root: Supervisor) -> None:
        async for event in events:
            _tell(event)
            if isinstance(event, EventsLost):
                await self._reap_dead()
            elif isinstance(event, ChildExited) and event.path[-2:-1] == (WORKERS,):
                await self._reap_dead()
                self._count(event, serving(root) - {event.path[-1]})
            elif isinstance(event, ChildStarted) and event.path[-2:-1] == (WORKERS,):
                self._family.is_back(event.path[-1])

    async def _reap_dead(self) -> None:
        try:
            await self._reap()
        except (StoreCorrupt, StoreRewound):
            pass  # it ends this process, and is said there
        except StoreError as error:  # no fault of the watch, and the workers look for themselves too
            _LOGGER.warning("a dead worker's runs could not be set free yet: %s", error)

    def _count(self, event: ChildExited, others: AbstractSet[str]) -> None:
        """Give up if a worker ends again and again without having served, unless ``others`` do."""
        name, exit = event.path[-1], event.exit
        if exit.kind is ExitKind.STOPPED or not isinstance(exit.error, ProcessError) or _has_served(event):
            self._starts.pop(name, None)
            return
        if name in self._family.coming:
            return  # whoever reloads says it
        starts = self._starts.setdefault(name, _Starts())
        is_held_back = event.ready_seconds is None and exit.error.exit.is_fault and others
        if event.ready_seconds is None:  # the death of one that was an executor is said by whoever reaps it
            reason = self._family.why_not(name) or reason_of(exit.error)
            if not is_held_back or starts.reason != reason:  # it is tried for as long as nobody mends the files
                _say_not_ready(name, exit.error, reason)
            starts.reason = reason
            if is_held_back:
                self._family.held_back[name] = reason
        if exit.error.exit.is_fault:
            starts.failed_count += exit.error.exit.code != CODE_CHANGED
            if starts.failed_count >= _FALSE_STARTS_MAX and not is_held_back:
                what = f"{name} ended {starts.failed_count} times in a row as soon as it was started"
                self._fail(what, exit.error)
        else:
            starts.killed_count += 1
            if starts.killed_count == _KILLS_MAX:
                self._fail(f"{name} was killed {starts.killed_count} times in a row", exit.error)

    def _fail(self, what: str, error: ProcessError) -> None:
        failed = WorkerFailed(f"{what}: {self._family.why_not(error.name) or reason_of(error)}")
        failed.__cause__ = error
        self._give_up(failed)


def _tell(event: Event) -> None:
    """Tell of a worker that its parent has killed, with what it was at."""
    if not isinstance(event, ChildExited) or event.path[-2:-1] != (WORKERS,):
        return
    name, error, process = event.path[-1], event.exit.error, event.exit.process
    if process is None or not process.is_killed_by_supervisor or event.ready_seconds is None:
        return
    fields: dict[str, object]
    if isinstance(error, ProcessUnresponsive):
        what, fields = f"showed no sign of life for {error.seconds:g} s", {"seconds": error.seconds}
        fields["event"] = "worker_hung"
    else:
        what, fields = "did not end in its time, though it was told to", {"event": "worker_killed"}
    stack = main_first(stack_in(process.stderr_tail))  # the event loop's is what hangs
    # A worker whose loop is blocked by Python code has said itself where; one in C code cannot.
    text = f"; its stacks:\n{stack}" if stack and LOOP_BLOCKED not in process.stderr_tail else ""
    _LOGGER.error("%s %s, and was killed%s", name, what, text, extra={**fields, "worker": name, "stack": stack})


def _say_not_ready(name: str, error: ProcessError, reason: str) -> None:
    is_fault = error.exit.is_fault
    what, reason = ("could not be started again", reason) if is_fault else (_KILLED, str(error.exit))
    fields = {"event": "worker_exited", "worker": name, "reason": f"{what}: {reason}"}
    _LOGGER.warning("%s %s: %s", name, what, reason, extra={**fields, "fields": fields})


@attrs.define
class _Starts:
    """How often in a row a worker has ended without having served."""

    failed_count: int = 0
    killed_count: int = 0
    # Why it was not even ready, the last time.
    reason: str = ""


def serving(root: Supervisor) -> AbstractSet[str]:
    """Return the names of the workers that are ready."""
    workers = root.child(WORKERS).value
    if not isinstance(workers, DynamicSupervisor):  # it is being started again itself
        return frozenset()
    return {child.name for child in workers.children() if child.status is ChildStatus.RUNNING}


def _has_served(event: ChildExited) -> bool:
    """Tell by the event alone: a worker that was there before the watch has had a life too."""
    if event.ready_seconds is None:
        return False
    process = event.exit.process
    return process is None or process.code != ENGINE_FAILED or event.ready_seconds >= _SERVED_SECONDS


def first_failure(group: BaseExceptionGroup[BaseException]) -> WorkerFailed | None:
    """Return what to say if the workers could not be started at all, else ``None``."""
    error = first(group, ProcessError)
    if error is None:
        return None
    return WorkerFailed(f"{error.name} could not be started: {reason_of(error)}")


def reason_of(error: ProcessError) -> str:
    """Return in one line why a worker has ended."""
    how, _, said = str(error).partition("\n")
    last = last_words(said)
    if last and error.exit.code in ENDS_IN_ORDER:
        return last  # it says why itself
    if not error.exit.is_fault:
        return f"{how}; {_advice(error.exit)}"
    return f"{how}; it said last: {last}" if last else how


def _advice(exit: ProcessExit) -> str:
    if exit.os_signal == "SIGKILL":
        return "unless somebody kills it on purpose, memory is short: start fewer workers, or allow them more"
    return f"find out who sends {exit.os_signal}"
