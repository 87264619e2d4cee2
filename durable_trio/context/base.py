"""What all parts of a context share: whose it is, its keys, and the facts that need no wait."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

import trio

from durable_trio.calls.body import Environment, current_task
from durable_trio.clock import to_datetime
from durable_trio.codec import Codec
from durable_trio.errors import PayloadTooLarge
from durable_trio.limits import check_name
from durable_trio.logger import Logger
from durable_trio.records import Key
from durable_trio.rules import randomness

T = TypeVar("T")

_LOGGER_NAME: Final = "durable_trio.run"


class RunLogger(Logger):
    """A logger that names the run and is silent while the run replays what it has logged before."""

    def __init__(self, env: Environment) -> None:
        super().__init__(_LOGGER_NAME, {"run_id": env.run_id})
        self._env = env

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return not self._env.turns.is_repeating and super().isEnabledFor(level)


class ContextBase:
    """One branch of a run's body, bound to its task."""

    def __init__(self, env: Environment, *, branch: str = "", depth: int = 0) -> None:
        self._env = env
        self._branch = branch
        self._depth = depth  # nurseries of durable branches around this one
        self._task = trio.lowlevel.current_task()
        self._counts: dict[str, int] = {}
        self._random_count = 0
        self._uuid_count = 0
        self._open_nursery_count = 0
        self._log: RunLogger | None = None

    @property
    def env(self) -> Environment:
        """What the durable calls of the run share; not for users."""
        return self._env

    @property
    def branch(self) -> str:
        """The branch's part of keys; empty for the body itself."""
        return self._branch

    # ---- facts -------------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._env.run_id

    @property
    def generation(self) -> int:
        """How often the run has begun a new history; 0 at first."""
        return self._env.generation

    @property
    def replaying(self) -> bool:
        """Whether recorded outcomes are still being given back."""
        return self._env.turns.is_replaying

    @property
    def detaching(self) -> bool:
        """Whether the run is leaving this process: ``finally`` blocks run, their durable calls do not."""
        return self._env.is_detaching

    @property
    def log(self) -> RunLogger:
        """A logger that is silent while replaying."""
        if self._log is None:
            self._log = RunLogger(self._env)
        return self._log

    def now(self) -> datetime:
        """Return the time of the last outcome that was given back, in UTC; the same on replay."""
        self._check_task()
        return to_datetime(self._env.turns.now)

    def random(self) -> float:
        """Return a float in [0, 1); the same on replay. Not for secrets."""
        self._check_task()
        self._random_count += 1
        return randomness.random_float(self._env.seed, self._env.generation, self._branch, self._random_count)

    def uuid4(self) -> uuid.UUID:
        """Return a UUID of version 4; the same on replay. Not for secrets."""
        self._check_task()
        self._uuid_count += 1
        return randomness.random_uuid(self._env.seed, self._env.generation, self._branch, self._uuid_count)

    def _encode_again(self, encode: Callable[[Codec], T], *, is_recorded: Callable[[], bool]) -> T:
        """Encode a payload that each replay makes again: accepted or refused as it was, also under another limit.

        A refusal is recorded, in a row that nobody waits for, so that a body that has caught it goes the same way.

        Args:
            is_recorded: whether it was accepted before; asked if it is too large now.
        """
        turns, codec = self._env.turns, self._env.codec
        key = self.reserve_key("(payload)")
        if turns.history.take_patch(key):
            raise PayloadTooLarge("a payload was too large when this was called for the first time")
        try:
            return encode(codec)
        except PayloadTooLarge:
            if is_recorded():
                return encode(codec.own)
            turns.note(key)
            raise

    # ---- keys --------------------------------------------------------------------------------------------------

    def _check_task(self) -> None:
        if current_task() is not self._task:
            raise RuntimeError(
                f"the context of run {self._env.run_id!r} was used from another task than its own;"
                " open branches with ctx.open_nursery(), and use the context that each is given;"
                " a step's function has none"
            )

    def _next_key(self, what: str, name: str) -> Key:
        return self.reserve_key(check_name(what, name))

    def reserve_key(self, name: str) -> Key:
        """Return the next key of that name in this branch; not for users."""
        n = self._counts.get(name, 0)
        self._counts[name] = n + 1
        return Key(self._branch, name, n)
