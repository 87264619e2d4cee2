"""What the durable calls of one resident run share: its identity, its turns, its converters, its way out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar, cast

import attrs
import trio

from durable_trio.calls.saga import Saga
from durable_trio.calls.step_tasks import StepTasks
from durable_trio.calls.step_values import StepValues
from durable_trio.clock import Clock
from durable_trio.codec import Codec, parse
from durable_trio.errors import CodecError, Detached, PayloadTooLarge
from durable_trio.failures import CannotRebuild, Failures, describe
from durable_trio.limits import NAME_CHARACTERS_MAX, check_name
from durable_trio.looks import is_a, members_of
from durable_trio.records import Problem, StepKind
from durable_trio.rows import HistoryRow, Key, RunRow, WaitRow
from durable_trio.rules import randomness
from durable_trio.rules.damage import damaged
from durable_trio.rules.problems import ProblemKind
from durable_trio.stores.step_slots import StepSlots
from durable_trio.turns.call import Call
from durable_trio.turns.lobby import Lobby
from durable_trio.turns.state import RunState
from durable_trio.workflows import Registry, Workflow

T = TypeVar("T")
# Failures of its steps that a body has raised last, and may have let out.
_RAISED_MAX: Final = 64
#: What the types of stored values must bear in mind.
OF_FIELDS: Final = (
    "Of a class, a field that was added needs a default, and one that was removed must stay, while such are stored."
)
#: What the parameters of a workflow must bear in mind.
OF_PARAMETERS: Final = (
    "A parameter that was added needs a default, and one that was removed must stay, while runs are under way that "
    "were started without the one or with the other."
)


class Observe(Protocol):
    """What is told of a body's steps, where somebody wants to know; see ``engine.runs.attempts``."""

    def began(self, call: Any, number: int) -> None:
        """An attempt of a call begins."""

    def came_out(self, call: Any) -> None:
        """The function of an attempt has come out."""

    def ended(self, row: HistoryRow, *, is_replay: bool) -> None:
        """The outcome of a step is given to the body."""

    def dropped(self, key: Key) -> None:
        """A call is cancelled without an outcome."""


def check_json(text: str) -> None:
    """Raise ``CodecError`` if a stored text is no JSON."""
    parse(text, where="what is stored")


class ResidentOfBody(Protocol):
    """The run in memory, as the calls of its body know it; ``turns.resident`` says how its turns do."""

    def refuse(self, problem: Problem) -> None:
        """Give the run back with this problem and detach it."""

    def diverged(self, row: HistoryRow | None) -> None:
        """Refuse the run, whose code does not do what is recorded next; ``None``: nothing more is."""

    def detach(self) -> None:
        """Leave this process, with nothing of what is under way."""

    def ends_program(self, place: str) -> None:
        """The run's own code ends the program at that place: leave before anybody else stops."""

    def failed(self, error: BaseException) -> None:
        """Leave because of a fault of ours; or because the run's own code has ended the program, and end it."""

    def retried(self, kind: StepKind, wait: WaitRow, delay: float) -> None:
        """An attempt has failed, and there will be another one; that is committed."""

    def continued(self) -> None:
        """A new generation of the run is stored: this one leaves."""

    def child_started(self, child_id: str, *, missed: Workflow[..., Any] | None) -> None:
        """A child of the run is stored and due; ``missed``: its workflow, if this engine lacks it, and that is news."""

    def request_cancel(self, run_id: str) -> None:
        """Ask another run to cancel; nobody waits for it."""

    async def cancel_and_tell(self, run_id: str) -> bool:
        """Ask another run to cancel, and return whether it had not ended."""

    async def look_up(self, run_id: str) -> RunRow | None:
        """Return another run as it is stored now."""


def current_task() -> trio.lowlevel.Task | None:
    """Return the calling task; ``None`` outside of trio, as in the thread of a sync function."""
    try:
        return trio.lowlevel.current_task()
    except RuntimeError:
        return None


class Branch:
    """One branch of a body, bound to its task: its part of keys, and how often each name came before.

    ``with Branch(body, path) as branch:`` is the block in which the calling task is that branch; what comes out of it
    passes untouched. ``depth``: nurseries of durable branches around it.
    """

    def __init__(self, body: Body, path: str, *, depth: int = 0) -> None:
        self.body = body
        self.path = path  # empty for the body itself
        self.depth = depth
        self.random_count = 0
        self.uuid_count = 0
        self.open_nursery_count = 0
        self._task = trio.lowlevel.current_task()
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Branch:
        self.body.branches[self._task] = self
        return self

    def __exit__(self, *_: object) -> None:
        del self.body.branches[self._task]

    def check_task(self) -> None:
        """Refuse a call from another task than its own: it would take a key of this one.

        Raises:
            RuntimeError: it is one.
        """
        try:
            is_own = trio.lowlevel.current_task() is self._task
        except RuntimeError:  # outside of trio, as in the thread of a sync function
            is_own = False
        if not is_own:
            raise RuntimeError(
                f"the context of run {self.body.run_id!r} was used from another task than its own;"
                " open branches with ctx.open_nursery(), and use the context that each is given;"
                " a step's function has none"
            )

    def next_key(self, what: str, name: str) -> Key:
        """Return the next key of a name that the user has chosen; ``what`` it names is for errors.

        Raises:
            RuntimeError: as ``check_task``.
        """
        try:
            is_own = trio.lowlevel.current_task() is self._task
        except RuntimeError:
            is_own = False
        if not is_own:
            self.check_task()
        n = self._counts.get(name) if type(name) is str else None
        if n is None:  # else it was checked before; and nothing is wrong with a short identifier, as most are
            if not (type(name) is str and name.isidentifier() and len(name) <= NAME_CHARACTERS_MAX):
                name = check_name(what, name)
            n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return Key(self.path, name, n)

    def coming_key(self, name: str) -> Key:
        """Return the key that the next call of that name will have in this branch."""
        return Key(self.path, name, self._counts.get(name, 0))

    def reserve_key(self, name: str) -> Key:
        """Return the next key of a name in this branch."""
        n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return Key(self.path, name, n)

    def encode_again(self, encode: Callable[[Codec], T], *, is_recorded: Callable[[], bool]) -> T:
        """Encode a payload that each replay makes again: accepted or refused as it was, also under another limit.

        A refusal is recorded, in a row that nobody waits for, so that a body that has caught it goes the same way.

        Args:
            is_recorded: whether it was accepted before; asked if it is too large now.
        """
        state, codec = self.body.state, self.body.codec
        key = self.reserve_key("(payload)")
        if state.history.answer(key):
            raise PayloadTooLarge("a payload was too large when this was called for the first time")
        try:
            return encode(codec)
        except PayloadTooLarge:
            if is_recorded():
                return encode(codec.own)
            state.note(key)
            raise


@attrs.define(kw_only=True, eq=False)
class Body:
    """Everything around one run's body."""

    run_id: str
    generation: int
    numbers_changes_apart: bool  # not in a run of an earlier version in which a change and a call have the same name
    seed: bytes
    workflow: Workflow[..., Any]
    registry: Registry
    state: RunState
    lobby: Lobby
    tasks: StepTasks
    clock: Clock
    codec: Codec
    failures: Failures
    saga: Saga
    resident: ResidentOfBody
    observe: Observe | None
    slots: StepSlots | None  # where it is noted which steps are executing, if that is noted
    stored_positions: dict[str, tuple[int, int]]  # of the published values in the store
    engine: object  # of the user's, which executes it: for functions of steps
    generations_kept: int | None  # how many histories that it has ended are kept; None: all
    published: dict[str, tuple[str, tuple[int, int]]] = attrs.Factory(dict)  # by the body so far, live or at replay
    step_values: StepValues | None = None  # once a step has published something
    is_detaching: bool = False
    # Children that the run waits for before it ends: whether each has been seen to end.
    children: dict[str, bool] = attrs.Factory(dict)
    # Which ways the body has taken at each change, in this stay.
    ways: dict[str, set[bool]] = attrs.Factory(dict)
    # Failures that calls have raised in it, and their rows: to tell which step has ended the run.
    raised: deque[tuple[BaseException, HistoryRow]] = attrs.Factory(partial(deque, maxlen=_RAISED_MAX))
    # Which task of the body is which branch.
    branches: dict[trio.lowlevel.Task, Branch] = attrs.Factory(dict)

    def branch_of_current_task(self) -> Branch:
        """Return the branch of the calling task.

        Raises:
            RuntimeError: it is no task of this run's body.
        """
        task = current_task()
        branch = None if task is None else self.branches.get(task)
        if branch is None:
            raise RuntimeError(f"only a task of run {self.run_id!r} with a context of its own can do this")
        return branch

    def where(self, kind: str, key: Key) -> str:
        """Return how errors name a durable call."""
        return f"{kind} {str(key)!r} of run {self.run_id!r}"

    def idempotency_key(self, key: Key) -> str:
        """Return the key that outside services can use to recognise a repeated call."""
        return randomness.idempotency_key(self.seed, self.run_id, self.generation, key)

    def deliver(self, call: Call, row: HistoryRow, annotation: Any) -> Any:
        """Return or raise what a delivered row says; the same live and at replay."""
        if row.error is not None:
            raise self._error_of(call, row)
        if call.outcome is not None or row.result is None:
            return call.outcome
        try:
            return self.codec.decode(row.result, annotation, where=self.where(row.kind, row.key))
        except CodecError as error:
            self.check_stored(row.result, f"history, the row with key {str(row.key)!r}, result")
            self.refuse(
                ProblemKind.CODEC, f"{error}\nThe recorded value cannot be read back as the code's type. {OF_FIELDS}"
            )

    def _error_of(self, call: Call, row: HistoryRow) -> BaseException:
        if call.outcome is not None:
            error: BaseException = call.outcome
            call.outcome = None
            self.raised.append((error, row))
            return error
        assert row.error is not None
        try:
            error = self.failures.decode(row.error)
            self.raised.append((error, row))
            return error
        except (CannotRebuild, CodecError) as error:
            self.check_stored(row.error, f"history, the row with key {str(row.key)!r}, error", describe)
            self.refuse(
                ProblemKind.EXCEPTION,
                f"{self.where(row.kind, row.key)} failed with an exception that cannot be rebuilt: {error}",
            )

    def failed_row(self, error: BaseException | None) -> HistoryRow | None:
        """Return the row of the step whose failure has led to ``error``: it is that, or in it, or was before it."""
        rows = {id(raised): row for raised, row in self.raised}
        left, seen = [error], set[int]()
        while left and rows:
            each = left.pop()
            if each is None or id(each) in seen:
                continue
            seen.add(id(each))
            if id(each) in rows:
                return rows[id(each)]
            left += [each.__context__, each.__cause__]
            left += reversed(members_of(cast(BaseExceptionGroup[Any], each))) if is_a(each, BaseExceptionGroup) else ()
        return None

    def check_stored(self, text: str, place: str, read: Callable[[str], object] = check_json) -> None:
        """Park the run, and never return, if what is stored is nothing that was ever written there."""
        try:
            read(text)
        except CodecError as error:
            self.park_damaged(f"in table {place}: {error}")

    def park_damaged(self, what: str) -> NoReturn:
        """Park the run because of what is stored; never returns."""
        self.resident.refuse(damaged(self.run_id, what))
        raise Detached

    def refuse(self, kind: ProblemKind, text: str) -> NoReturn:
        """Give the run back with a problem; never returns."""
        self.resident.refuse(Problem(kind=kind.value, text=text))
        raise Detached
