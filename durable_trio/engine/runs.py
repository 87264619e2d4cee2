"""The runs service: a dynamic set of actors, one per resident run, and the executor's capacity."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import trio

from durable_trio.codec import Codec
from durable_trio.engine.actor import Message, RunActor
from durable_trio.engine.observers import Observers
from durable_trio.engine.settings import Settings
from durable_trio.engine.timers import Timers
from durable_trio.errors import DurableError
from durable_trio.failures import Failures
from durable_trio.limits import SUSPECT_RECOVERIES
from durable_trio.records import RunRow, RunStatus
from durable_trio.replay.quiet import watching
from durable_trio.stores.base import Fence, Finish, Loaded
from durable_trio.stores.front import StoreFront
from durable_trio.workflow import Registry, Workflow

_LOGGER = logging.getLogger("durable_trio.engine")
_NOTHING = Loaded((), (), (), {})


class Runs:
    """The resident runs of one executor. Implements what actors need of the engine around them."""

    def __init__(
        self,
        *,
        front: StoreFront,
        settings: Settings,
        codec: Codec,
        registry: Registry,
        observers: Observers,
        timers: Timers,
    ) -> None:
        self.front = front
        self.settings = settings
        self.codec = codec
        self.is_draining = False
        # Set by the tree: told when a place is free or a run is due, when a run ends, when a write is refused.
        self.on_free: Callable[[int | None], None] = lambda _due_at: None
        self.on_ended: Callable[[str, RunStatus, str | None, str | None], None] = lambda *_: None
        self.on_refused: Callable[[], None] = lambda: None
        self._registry = registry
        self._observers = observers
        self._timers = timers
        self._actors: dict[int, RunActor] = {}
        self._reserved = 0
        self._failures: dict[str, Failures] = {}
        self._warned_places: set[tuple[str, str]] = set()
        self._suspects = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._empty = trio.Event()

    # ---- for services ------------------------------------------------------------------------------------------

    @property
    def resident_count(self) -> int:
        """How many runs are in memory."""
        return len(self._actors)

    @property
    def free_count(self) -> int:
        """How many more runs may be claimed now."""
        if self.is_draining or self._nursery is None:
            return 0
        return max(0, self.settings.concurrency - len(self._actors) - self._reserved)

    def reserve(self) -> bool:
        """Keep a place for a run that is being started; ``unreserve`` gives it back."""
        if self.free_count == 0 or self.front.is_full:
            return False
        self._reserved += 1
        return True

    def unreserve(self) -> None:
        """Give a reserved place back."""
        self._reserved -= 1

    def start(self, row: RunRow, loaded: Loaded = _NOTHING) -> None:
        """Make a claimed run resident."""
        workflow = self._registry.get(row.workflow)
        if workflow is None or self._nursery is None:
            return  # the engine is stopping; it gives back what it owns
        actor = RunActor(self, row, workflow, loaded, self.failures_of(workflow))
        self._actors[row.run] = actor
        self._nursery.start_soon(self._run, actor, workflow, name=f"actor of run {row.id}")

    def mail(self, run: int) -> None:
        """Tell a run, if it is resident, that there is something in its mailbox."""
        actor = self._actors.get(run)
        if actor is not None:
            actor.post(Message.MAIL)

    def failures_of(self, workflow: Workflow[..., Any] | None) -> Failures:
        """Return the converter of exceptions for a workflow's runs."""
        name = "" if workflow is None else workflow.name
        failures = self._failures.get(name)
        if failures is None:
            modules = () if workflow is None else (workflow.fn.__module__,)
            failures = self._failures[name] = Failures(self.codec, modules=modules, classes=self.settings.errors)
        return failures

    async def drain(self, seconds: float) -> None:
        """Take no more runs; let step functions finish for some seconds, then detach what is left."""
        self.is_draining = True
        for actor in list(self._actors.values()):
            actor.post(Message.DRAIN)
        if self._actors and seconds > 0:
            with trio.move_on_after(seconds):
                await self._empty.wait()
        await self.detach_all()

    async def detach_all(self) -> None:
        """Make every run leave at once, and wait until all have."""
        for actor in list(self._actors.values()):
            actor.detach()
        if self._actors:
            await self._empty.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Serve until cancelled."""
        with watching():
            async with trio.open_nursery() as self._nursery:
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None
        raise AssertionError("unreachable")

    # ---- one run -----------------------------------------------------------------------------------------------

    async def _run(self, actor: RunActor, workflow: Workflow[..., Any]) -> None:
        row = actor.row
        try:
            if row.recoveries > workflow.max_recoveries:
                await self._set_aside(row, workflow)
            elif row.recoveries >= SUSPECT_RECOVERIES:
                async with self._suspects:
                    await actor.run()
            else:
                await actor.run()
        except Exception:  # a fault of ours in one run must not take the others along
            _LOGGER.exception("run %r stopped by an internal error; it stays claimed until this executor ends", row.id)
        finally:
            if self._actors.get(row.run) is actor:
                del self._actors[row.run]
            if not self._actors:
                self._empty.set()
                self._empty = trio.Event()
            self.on_free(None)

    async def _set_aside(self, row: RunRow, workflow: Workflow[..., Any]) -> None:
        assert row.owner is not None
        error = DurableError(
            f"run {row.id!r} was set aside: its process has died {row.recoveries} times without progress of the run. "
            "Its steps are not compensated; resume it once the cause is mended"
        )
        text, _ = self.failures_of(workflow).encode(error, where=f"run {row.id!r}")
        fence = Fence(row.run, row.owner, row.token)
        now = self.settings.clock.now()
        await self.front.write(Finish(fence=fence, status=RunStatus.FAILED, error=text, now=now))
        self.ended(row.id, RunStatus.FAILED, None, text)
        self.tell("run_ended", row.id, row.workflow, {"status": RunStatus.FAILED})

    # ---- Surroundings: what actors ask -------------------------------------------------------------------------

    @property
    def is_observed(self) -> bool:
        return bool(self._observers)

    def alarm(self, due_at: int, callback: Callable[[], None]) -> None:
        self._timers.call_at(due_at, callback)

    def released(self, wake_at: int | None) -> None:
        self.on_free(wake_at)

    def ended(self, run_id: str, status: RunStatus, result: str | None, error: str | None) -> None:
        self.on_ended(run_id, status, result, error)

    def lost(self, error: BaseException) -> None:
        _LOGGER.warning("a write of a run was refused: %s", error)
        self.on_refused()

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

    def tell(self, name: str, run_id: str, workflow: str, fields: Mapping[str, Any]) -> None:
        if self._observers:
            self._observers.tell(name, run_id, workflow, fields)


def load_all(front: StoreFront, rows: Sequence[RunRow]) -> list[Loaded]:
    """Read what is needed to go on with some runs; called off the event loop."""
    return [front.store.load(row.run) for row in rows]
