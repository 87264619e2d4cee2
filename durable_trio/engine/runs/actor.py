"""The actor of one resident run of a workflow: it runs the body in its own cancel scope, then ends the run."""

from __future__ import annotations

from typing import Any, cast

import trio

from durable_trio.calls.body import OF_FIELDS, OF_PARAMETERS, Branch
from durable_trio.codec import parse
from durable_trio.context.context import Context
from durable_trio.engine.runs.ending import Ending
from durable_trio.engine.runs.life import BODY_END
from durable_trio.engine.runs.resident import ResidentRun
from durable_trio.errors import CodecError, Detached
from durable_trio.failures import CARRYING, close_left_open, is_cancelled, is_left_open, without_strays
from durable_trio.looks import is_a
from durable_trio.rules.problems import ProblemKind


def check_list(text: str) -> None:
    """Raise ``CodecError`` if a stored text is no JSON array."""
    if type(parse(text, where="what is stored")) is not list:
        raise CodecError("a list was expected")


class RunActor(ResidentRun):
    """One run of a workflow, resident in this process."""

    @trio.lowlevel.enable_ki_protection  # who is not noted to have left would be waited for
    async def run(self) -> None:
        """Execute the run until it ends or leaves this process, as a task of its own."""
        try:
            if self.port.is_cut:
                return
            async with self:
                try:
                    error, result = await self._execute_body()
                    self.life = BODY_END[self.life]
                    if not self.port.is_cut:
                        await Ending(self).end(error, result)
                    self._knows_why = True
                except Detached:
                    pass
                finally:
                    self._end_tasks()
            if not self._knows_why:
                raise RuntimeError("the tasks of the run have ended, and nobody has asked them to")
        except BaseException as fault:
            self.keeper.came_out(self, fault)
        finally:
            self.keeper.left(self)

    def _end_tasks(self) -> None:
        """The body has ended, and writes nothing any more: nor is anything else of the run to go on."""
        self.port.cut()
        if self._nursery is not None and self._nursery.child_tasks:
            self._nursery.cancel_scope.cancel()

    @trio.lowlevel.disable_ki_protection  # Ctrl-C is for the user's tasks
    async def _execute_body(self) -> tuple[Exception | None, str | None]:
        """Return the body's error, or its encoded result."""
        error: Exception | None = None
        result: str | None = None
        try:
            with self.root_scope:
                self.turns.base_deadline = trio.current_effective_deadline()
                args = self._arguments()
                with Branch(self.body, "") as branch:
                    try:
                        try:
                            value = await self.workflow.fn(Context(branch), *args)
                        finally:
                            if is_left_open(self.root_scope):
                                await close_left_open(self.root_scope)
                        result = self.keeper.codec.encode(
                            value, self.workflow.result_type, where=f"the result of run {self.row.id!r}"
                        ).text
                    except BaseException as caught:
                        failure = self._without_strays(caught)
                        if not is_a(failure, Exception):
                            with CARRYING:
                                raise
                        error = cast(Exception, failure)  # not let out: it may be one that trio cannot carry
        except BaseExceptionGroup as group:
            if self.port.is_cut:
                rest = group.split((Detached, Exception, trio.Cancelled))[1]
                if rest is not None:
                    raise rest from None
                raise Detached from None
            failures = group.split(Exception)[0]
            if failures is None or group.split(Exception)[1] is not None:
                raise
            error = failures
        return error, result

    def _without_strays(self, error: BaseException) -> BaseException:
        """Return what the body has raised, with failures for what must not end it without a word."""
        if is_a(error, Exception):
            return error
        if not is_cancelled():
            error = without_strays(error, trio.Cancelled)
        return error if self.port.is_cut else without_strays(error, Detached)

    def _arguments(self) -> tuple[Any, ...]:
        where = f"the arguments of run {self.row.id!r}"
        try:
            return self.keeper.codec.decode_arguments(self.row.args, self.workflow.annotations_for, where=where)
        except (CodecError, TypeError) as error:
            self.body.check_stored(self.row.args, f"runs, the row with id {self.row.id!r}, args", check_list)
            advice = OF_PARAMETERS if is_a(error, TypeError) else OF_FIELDS
            self.body.refuse(
                ProblemKind.ARGUMENTS, f"{error}\nThe stored arguments do not fit the workflow's code. {advice}"
            )
