"""``engine.inline``: durable steps in an ordinary trio block, for scripts.

The block's own task is the body. Everything else is as for any resident run, except that it does not leave memory while
the block waits, and that an exception leaves it resumable instead of failing it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import trio

from durable_trio.calls.body import Branch
from durable_trio.codec import UNANNOTATED
from durable_trio.context.context import Context
from durable_trio.engine.runs.damage import damage_of
from durable_trio.engine.runs.ending import Ending
from durable_trio.engine.runs.lending import lending_place
from durable_trio.engine.runs.life import BODY_END
from durable_trio.engine.runs.resident import ResidentRun, ignore
from durable_trio.engine.wiring import Services
from durable_trio.errors import (
    Detached,
    DurableError,
    OwnershipLost,
    PayloadTooLarge,
    RunCancelled,
    RunConflict,
    RunNotFound,
    StoreError,
)
from durable_trio.failures import carried
from durable_trio.logger import Logger
from durable_trio.looks import bears_a_look, said
from durable_trio.records import Problem, RunStatus
from durable_trio.rows import Key, RunRow, ServedCode, WaitRow
from durable_trio.rules.damage import damaged
from durable_trio.starting import SEED_BYTES
from durable_trio.stores.contract import ClaimRun, Fence, Release, Started, StartRun
from durable_trio.stores.questions import NOTHING_LOADED, FindRun, ListExecutors, Loaded, LoadRun
from durable_trio.turns.port import Callback, Port
from durable_trio.turns.quiet import BODY, rest
from durable_trio.workflows import INLINE_NAME, Workflow, workflow

_LOGGER = Logger("durable_trio.runs")

# The block may have been edited since; entering it is a person's word that it fits.
_CODE: Final = ServedCode(INLINE_NAME, 0, 0)
# How long a block that is cancelled, or has failed, waits for the store to take what it has done.
PATIENCE_SECONDS: Final = 10.0
# What it takes, beyond the store's doubt, until it is seen that a process has just died; and until its runs are free,
# which on a busy machine is some looks later.
_TAKEOVER_SECONDS_MAX: Final = 2.0
_FREE_SECONDS_MAX: Final = 30.0
_LOOK_SECONDS: Final = 0.1
_AGAIN: Final = "enter it again, and it goes on from its last stored step"


@workflow(name=INLINE_NAME)
async def _inline(ctx: Context, given: Any = None) -> None:
    """Stands for the block in the run's record."""


class InlinePort(Port):
    """Removes what a cancelled call has left in the store only along with the next write.

    If the block is left instead (by ctrl-C in a sleep, say), the call has its due time when it is entered again.
    """

    _cleared: tuple[Key, ...] = ()

    def advance(self, callback: Callback, **fields: Any) -> None:
        cleared: tuple[Key, ...] = fields.pop("cleared", ())
        self._cleared += cleared
        if fields or not cleared:  # else nobody waits for it
            super().advance(callback, cleared=self._cleared, **fields)
            self._cleared = ()


class InlineRun(ResidentRun):
    """One inline run, resident while its block is entered."""

    port_class = InlinePort
    is_guest = True
    _patience: trio.CancelScope | None = None
    #: What has taken the run from its block, where that is known in this process.
    taken_by: Exception | None = None
    #: Whether that is a write that found the run to be another's, or nobody's.
    was_refused = False

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Context]:
        """Be the run's body inside the block."""
        failure: BaseException | None = None
        async with self:
            try:
                try:
                    with self.root_scope, Branch(self.body, "") as branch:
                        try:
                            yield Context(branch)
                        except BaseException as error:
                            if bears_a_look(error):
                                raise
                            failure = error  # it goes on below, where no scope of trio's is in its way
                except BaseException as error:
                    if self.port.is_cut and not isinstance(error, Exception):
                        raise  # it comes of leaving
                    failure = error  # also the script's own cancellation; it goes on below
                self.life = BODY_END[self.life]
                if not self.port.is_cut:
                    with trio.CancelScope(shield=True):
                        if failure is not None:
                            self.is_left_undecided()
                        await self._leave(failure)
            finally:
                BODY.reset(self._body_before)
                # What the block has begun elsewhere outlives it, and would wait for ever for this task to have gone.
                self.turns.state.lane.open()
                assert self._nursery is not None
                self.turns.state.tasks.discard(self._nursery.parent_task)
                if not self.turns.state.tasks:
                    rest(self.turns.state)
                was_cut = self.port.is_cut
                self.port.cut()
                if self._patience is not None:
                    self._patience.cancel()
                self._nursery.cancel_scope.cancel()
        if failure is not None:
            raise carried(failure)
        if self.cancel_row is not None:
            raise RunCancelled(f"run {self.row.id!r} was cancelled", run_id=self.row.id)
        if was_cut:
            raise Detached(f"run {self.row.id!r} has left its block")

    async def _leave(self, failure: BaseException | None) -> None:
        while failure is not None and self.cancel_row is None:
            outcome = await self.turns.lobby.extend(partial(self.port.submit, self.release()))
            if outcome is not False:
                return
            await Ending(self).look_for_cancel()  # refused: there is something in the mailbox, perhaps a cancel
            await self.turns.settle()
        await Ending(self).end(None, "null")

    def release(self) -> Release:
        """Return what lets go of it, to be entered again."""
        return Release(fence=self.port.fence, status=RunStatus.SUSPENDED, wake_at=None)

    def is_left_undecided(self) -> None:
        """The script wants to go on: it does not wait for ever for a store that takes nothing."""
        if self._patience is None and self._nursery is not None:
            self._patience = trio.CancelScope(shield=True)
            self.start_beside(self._lose_patience, self._patience)

    async def _lose_patience(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(PATIENCE_SECONDS)
            _LOGGER.warning(
                "the block of run %r is left although what it has done could not be stored; it goes on from its last "
                "stored step when it is entered again",
                self.row.id,
            )
            self.detach()

    # ---- how it is taken from its block ------------------------------------------------------------------------

    def refuse(self, problem: Problem, error: Exception | None = None) -> None:
        """The block does not do what is recorded, or that is damaged: whoever has entered it is told as observers."""
        if not self.port.is_cut:
            self.taken_by = error or RunConflict(problem.text, run_id=self.row.id)
        super().refuse(problem, error)

    def write_refused(self, error: BaseException) -> None:
        """A write of it was: it is another's now, or nobody's."""
        if self.taken_by is None and isinstance(error, OwnershipLost):
            self.taken_by, self.was_refused = error, True
        super().write_refused(error)

    def failed(self, error: BaseException) -> None:
        """A fault of ours; the run is parked with its traceback."""
        if not self.port.is_cut and isinstance(error, Exception):
            text = f"run {self.row.id!r} met a fault of this library, please report it: {said(error)}"
            self.taken_by = DurableError(text)
            self.taken_by.__cause__ = error
        super().failed(error)

    def detach(self) -> None:
        """Leave the block; where nobody has said why, the whole engine ends."""
        if not self.port.is_cut and self.taken_by is None:
            failure = self.keeper.writer.failure
            if isinstance(failure, StoreError):
                self.taken_by = failure
            elif failure is not None:
                self.taken_by = StoreError(f"run {self.row.id!r} left its block: the store's writer crashed; {_AGAIN}")
                self.taken_by.__cause__ = failure
            elif self.keeper.is_draining:
                self.taken_by = OwnershipLost(f"run {self.row.id!r} left its block: its engine was closed; {_AGAIN}")
        super().detach()

    def idle(self, due_at: int | None, waits_for: tuple[str, ...], waits: tuple[WaitRow, ...], *, now: int) -> None:
        """It stays in memory, whatever it waits for."""
        if due_at is not None:
            self.alarm(due_at, now)
        if waits:
            self.port.advance(self.turns.state.check, waits=waits)

    def foreign(self, places: object) -> None:
        """The block is ordinary trio code: other waits are its own business."""


# Ctrl-C must not come between the claim and the block: nobody else would let go of the run. Inside of it, it may.
@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_inline(services: Services, run_id: str, given: Any) -> AsyncIterator[Context]:
    """Claim or start the inline run and be its body inside the block."""
    executor = services.executor
    if executor is None or executor.id is None:
        raise RuntimeError(
            "engine.inline executes: use it inside `async with open_engine(…)` or while the engine serves"
        )
    row, loaded = await _claim(services, executor.id, run_id, given)
    known: Workflow[Any, Any] = _inline
    resident = InlineRun(executor.runs, row, known, loaded, executor.runs.failures_of(None))
    damage = damage_of(row, loaded)
    if damage is not None:
        problem = damaged(run_id, damage)
        resident.refuse(problem)
        raise RunConflict(problem.text, run_id=run_id)
    has_left = False
    with lending_place(), executor.runs.adopt(resident):  # the code of another run may open it, which waits meanwhile
        try:
            async with resident.block() as context:
                yield context
        except Detached:
            has_left = True
    if has_left:
        raise await _error_of(services, resident)


async def _error_of(services: Services, resident: InlineRun) -> Exception:
    """Return what to raise out of a block that its run has left."""
    run_id, why = resident.row.id, resident.taken_by
    if not isinstance(why, OwnershipLost | None):
        # What parks it is on its way to the store: a release behind that comes to nothing, once that is stored.
        stored = trio.Event()
        services.writer.submit(resident.release(), lambda _: stored.set())
        with trio.move_on_after(PATIENCE_SECONDS):
            await stored.wait()
        return why
    if why is None or resident.was_refused:  # by whom it was taken, the store knows
        with suppress(StoreError, trio.ClosedResourceError):
            row = await services.writer.ask(FindRun(run_id))
            if row is None or row.run != resident.row.run:
                return RunNotFound(f"run {run_id!r} was removed while its block was entered", run_id=run_id)
            if row.status.is_final and row.error is not None:  # abandoned
                return resident.failures.decode(row.error)
        return OwnershipLost(f"run {run_id!r} was taken from its block: {why or 'its executor has ended'}; {_AGAIN}")
    return why


async def _encode_input(services: Services, run_id: str, given: Any) -> tuple[str, bytes]:
    """Encode the input; one that is too large may be that of a run which was begun under a larger limit."""
    where = f"the input of run {run_id!r}"
    try:
        return services.codec.encode_arguments((given,), (UNANNOTATED,), where=where)
    except PayloadTooLarge:
        if await services.writer.ask_patiently(FindRun(run_id)) is None:
            raise
        return services.codec.own.encode_arguments((given,), (UNANNOTATED,), where=where)


async def _claim_from_the_dead(services: Services, claim: ClaimRun) -> RunRow:
    """Claim a run. Whoever starts a script again may be sooner than the store knows that the one before has died."""
    doubt_seconds = services.writer.store.doubt_seconds
    began = trio.current_time()
    while True:
        try:
            row: RunRow = await services.writer.write(claim)
        except RunConflict:
            held = await services.writer.ask_patiently(FindRun(claim.run_id))
            if held is None or held.owner in (None, claim.owner) or not doubt_seconds:
                raise
            passed = trio.current_time() - began - doubt_seconds
            if passed > _TAKEOVER_SECONDS_MAX and (passed > _FREE_SECONDS_MAX or await _lives(services, held.owner)):
                raise
            await trio.sleep(_LOOK_SECONDS)
        else:
            return row


async def _lives(services: Services, executor: int) -> bool:
    """Return whether an executor may be alive; one that has just been declared dead is not there."""
    rows = await services.writer.ask_patiently(ListExecutors())
    return any(row.id == executor and row.is_locked is not False for row in rows)


async def _claim(services: Services, executor: int, run_id: str, given: Any) -> tuple[RunRow, Loaded]:
    now = services.settings.clock.stamp()
    args, digest = await _encode_input(services, run_id, given)
    started: Started = await services.writer.write(
        StartRun(
            id=run_id,
            workflow=INLINE_NAME,
            args=args,
            args_digest=digest,
            seed=secrets.token_bytes(SEED_BYTES),
            created_at=now,
            due_at=now,
            owner=executor,
            version=_CODE.version,
        )
    )
    if started.claimed:
        return started.row, NOTHING_LOADED
    row = await _claim_from_the_dead(
        services, ClaimRun(owner=executor, run_id=run_id, codes=(_CODE,), is_asked_for=True, now=now)
    )
    try:
        return row, await services.writer.ask_patiently(LoadRun(row.run))
    except BaseException:  # such as the script's cancellation: nobody else would ever let go of it
        assert row.owner is not None
        fence = Fence(row.run, row.owner, row.token)
        back = Release(fence=fence, status=RunStatus.SUSPENDED, wake_at=None)
        services.writer.submit(back, ignore)
        raise
