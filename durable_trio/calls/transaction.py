"""A step whose rows and checkpoint are one transaction: exactly once."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any, cast

import trio

from durable_trio.calls.body import Branch
from durable_trio.calls.current_step import CURRENT
from durable_trio.calls.step import FunctionCall, outcome_of
from durable_trio.calls.step_options import ARGUMENTS, StepOptions, TransactionOptions, function_options
from durable_trio.errors import Detached, StepFailed, StepTimeout
from durable_trio.failures import carried, exits_of, without_strays
from durable_trio.limits import TRANSACTION_SECONDS_MAX
from durable_trio.looks import is_a, is_awaitable
from durable_trio.options import check_options
from durable_trio.records import StepKind
from durable_trio.rows import HistoryRow
from durable_trio.stores.contract import Advance
from durable_trio.turns.stage import REOPEN, SUBMIT


class _RolledBack(Exception):
    """The user's function raised, or its result cannot be stored; ``__cause__`` tells."""


class TransactionCall(FunctionCall):
    """Runs ``fn(connection, *args)`` in a transaction of the store and commits its rows with the outcome."""

    def _start(self) -> None:
        self._attempt += 1
        self.stage = SUBMIT[self.stage]  # from here on its outcome is recorded, whatever it is
        self.lobby.busy(self)
        if self._body.observe is not None:
            self._note()
            self._body.observe.began(self, self._attempt)
        self.state.record(self._submit)

    def _submit(self) -> None:
        seq = self.state.next_seq()
        row: HistoryRow | None = None
        exit: BaseException | None = None  # what the function has ended the program with

        def run(connection: Any) -> Advance:
            nonlocal row, exit
            row = exit = None
            try:
                value = self.task_context.copy().run(self._call_function, connection)
                encoded = self._body.codec.encode(value, self._options.returns, where=self._where())
            except BaseException as error:
                exit = error if exits_of(error) else None
                raise _RolledBack from error
            self.outcome = encoded.value
            now = self._body.clock.stamp()
            row = HistoryRow(
                seq=seq,
                key=self.key,
                kind=StepKind.TRANSACTION,
                attempt=self._attempt,
                result=encoded.text,
                compensates=self._options.compensates,
                started_at=self.started_at,
                finished_at=now,
                earlier=self._earlier,
            )
            return Advance(
                fence=self.state.port.fence,
                rows=(row,),
                cleared=(self.key,),
                status=self.state.port.next_status,
                now=now,
            )

        def done(outcome: Any) -> None:
            cause = outcome
            if isinstance(outcome, _RolledBack) and outcome.__cause__ is not None:  # no scope of trio's is around it
                cause = without_strays(outcome.__cause__, trio.Cancelled, Detached)
            if isinstance(outcome, StepTimeout | StepFailed):
                cause = self._named(outcome)
            if outcome is True and row is not None:
                self.state.port.recorded()
                self.state.committed(outcome, row, self)
            elif exit is not None:
                self._body.resident.ends_program(self.place)
                self._body.resident.failed(carried(exit))
                return
            elif isinstance(outcome, _RolledBack | StepTimeout | StepFailed) and is_a(cause, Exception):
                self.stage = REOPEN[self.stage]
                self.outcome = None
                self._fail(cast(Exception, cause))
            else:
                self.state.check(outcome)
            self.lobby.emerged(self)

        limit = self._options.timeout
        self.state.port.transaction(run, done, seconds_max=TRANSACTION_SECONDS_MAX if limit is None else limit)

    def _named(self, error: StepTimeout | StepFailed) -> Exception:
        """Return an error of the store's with the name of the step, which the store does not know."""
        text, step, run_id = f"{self._where()}: {error}", str(self.key), self._body.run_id
        if isinstance(error, StepTimeout):
            return StepTimeout(text, step=step, run_id=run_id)
        return StepFailed(text, type=error.type, step=step, run_id=run_id)

    def _call_function(self, connection: Any) -> Any:
        CURRENT.set((self, self._attempt, []))
        slots = self._body.slots
        if self._body.observe is None:
            self._note()
        try:
            if slots is not None:
                slots.is_in_thread(self._slot)
            value = self._fn(connection, *self._args)
        finally:
            if slots is not None and self._body.observe is None:
                slots.give_back(self._slot)
        if is_awaitable(value):
            if type(value) is CoroutineType:
                value.close()
            raise TypeError(f"the function of {self._where()} must be sync: it runs inside the store's transaction")
        return value


async def run_transaction(
    branch: Branch, name: str, fn: Callable[..., Any], args: tuple[Any, ...], options: TransactionOptions[Any]
) -> Any:
    """Run a function in the store's own transaction; see ``Context.transaction``."""
    branch.check_task()
    check_options("ctx.transaction", options, TransactionOptions.__annotations__, arguments=ARGUMENTS)
    chosen = function_options("ctx.transaction", fn, cast(StepOptions[Any], options))
    key = branch.next_key("transaction name", name)
    call = TransactionCall(branch.body, StepKind.TRANSACTION, key, fn, args, chosen)
    row = await branch.body.lobby.perform(call)
    return outcome_of(branch.body, call, row, chosen.returns, options)
