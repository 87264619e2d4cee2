"""The options of an engine, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypedDict

import attrs

from durable_trio.aliases import check_aliases
from durable_trio.clock import Clock
from durable_trio.codec import TypeHook, hooks_by_class
from durable_trio.engine.observers import Observer
from durable_trio.limits import (
    AWAY_SECONDS_MAX,
    CONCURRENCY,
    GENERATIONS_KEPT,
    GRACE_SECONDS,
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    LEASES_OF_A_STALL,
    PAYLOAD_BYTES_MAX,
    REPLAY_STALL_SECONDS,
    RESIDENT_RUNS_MAX,
    UNREAD_SIGNALS_MAX,
    WORKERS_MAX,
    check_name,
)
from durable_trio.options import check_options
from durable_trio.serving.app import check_app
from durable_trio.workflows import Workflow

# Thirty years: a lease is stored as whole microseconds. Where a longer time is allowed, it is taken for this one.
_SECONDS_MAX: Final = 10**9


def _seconds(value: Any) -> Any:
    """Return a duration as seconds; what is none is left to the validators."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def _patience(value: Any) -> Any:
    """Return a time that may be endless as seconds that a deadline can be made of."""
    seconds = _seconds(value)
    return _SECONDS_MAX if isinstance(seconds, int | float) and seconds > _SECONDS_MAX else seconds


def _positive(instance: Settings, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{attribute.name} must be a number above 0, not {value!r}")


def _finite(instance: Settings, attribute: attrs.Attribute[Any], value: float) -> None:
    if value > _SECONDS_MAX:
        raise ValueError(f"{attribute.name} must be at most {_SECONDS_MAX}, not {value!r}")


def _of_type(instance: Settings, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, Clock if attribute.name == "clock" else bool):
        raise TypeError(f"{attribute.name} must be a {attribute.type}, not {value!r}")


def _whole(instance: Settings, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number of at least 1, not {value!r}")


def _kept(instance: Settings, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{attribute.name} must be a whole number of at least 0, or None to keep all, not {value!r}")


def _count(value: Any) -> Any:
    """Return how many are kept, such that a store can count with it."""
    return min(value, 2**62) if type(value) is int else value


def _hooks(value: Any) -> tuple[TypeHook[Any], ...]:
    if isinstance(value, TypeHook):
        raise TypeError("types takes a list, also of one: types=[TypeHook(…)]")
    hooks = tuple(value)
    hooks_by_class(hooks)  # raises
    return hooks


def _app(instance: Settings, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None:
        check_app(value)


@attrs.frozen(kw_only=True)
class Settings:
    """What ``Engine`` was given. Seconds, bytes, counts."""

    durability: str = attrs.field(default="full")
    concurrency: int = attrs.field(default=CONCURRENCY, validator=_whole)
    lease_seconds: float = attrs.field(default=LEASE_SECONDS, converter=_seconds, validator=[_positive, _finite])
    loop_stall_seconds_max: float | None = attrs.field(
        default=None, converter=_patience, validator=attrs.validators.optional(_positive)
    )
    away_seconds_max: float = attrs.field(default=AWAY_SECONDS_MAX, converter=_patience, validator=_positive)
    grace_seconds: float = attrs.field(default=GRACE_SECONDS, converter=_patience)
    resident_runs_max: int = attrs.field(default=RESIDENT_RUNS_MAX, validator=_whole)
    unread_signals_max: int = attrs.field(default=UNREAD_SIGNALS_MAX, validator=_whole)
    generations_kept: int | None = attrs.field(default=GENERATIONS_KEPT, converter=_count, validator=_kept)
    payload_bytes_max: int = attrs.field(default=PAYLOAD_BYTES_MAX, validator=_whole)
    heartbeat_seconds: float = attrs.field(
        default=HEARTBEAT_SECONDS, converter=_seconds, validator=[_positive, _finite]
    )
    workers: int = attrs.field(default=0)
    app: str | None = attrs.field(default=None, validator=_app)
    build: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(lambda _, __, value: check_name("build", value))
    )
    replay_stall_seconds: float = attrs.field(default=REPLAY_STALL_SECONDS, converter=_patience, validator=_positive)
    slow_step_seconds: float | None = attrs.field(default=None, converter=_seconds)
    strict: bool = attrs.field(default=False, validator=_of_type)
    errors: tuple[type[Exception], ...] = attrs.field(default=())
    types: tuple[TypeHook[Any], ...] = attrs.field(default=(), converter=_hooks)
    aliases: Mapping[str, type] = attrs.field(factory=dict, converter=check_aliases)
    observers: tuple[Any, ...] = ()
    clock: Clock = attrs.field(factory=Clock, validator=_of_type)

    @property
    def stall_seconds_max(self) -> float:
        """How long the event loop may be blocked before this executor counts as hung."""
        given = self.loop_stall_seconds_max
        return LEASES_OF_A_STALL * self.lease_seconds if given is None else given

    @durability.validator
    def _check_durability(self, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in ("full", "normal"):
            raise ValueError(f"durability is {value!r}; choose 'full' (power loss) or 'normal' (death of the process)")

    @workers.validator
    def _check_workers(self, attribute: attrs.Attribute[int], value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= WORKERS_MAX:
            raise ValueError(f"workers must be a whole number from 0 to {WORKERS_MAX}, not {value!r}")

    @grace_seconds.validator
    def _check_grace(self, attribute: attrs.Attribute[float], value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"grace_seconds must be a number of at least 0, not {value!r}")

    @slow_step_seconds.validator
    def _check_slow(self, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None:
            _positive(self, attribute, value)
            _finite(self, attribute, value)

    @errors.validator
    def _check_errors(self, attribute: attrs.Attribute[Any], value: Sequence[Any]) -> None:
        for item in value:
            if not (isinstance(item, type) and issubclass(item, Exception)):
                raise TypeError(f"errors must be subclasses of Exception, not {item!r}")


class EngineOptions(TypedDict, total=False):
    """The keyword options of ``Engine`` beyond the named ones; see ``Settings`` for units and defaults."""

    concurrency: int
    lease_seconds: float | timedelta
    loop_stall_seconds_max: float | timedelta | None
    away_seconds_max: float | timedelta
    grace_seconds: float | timedelta
    heartbeat_seconds: float | timedelta
    payload_bytes_max: int
    unread_signals_max: int
    resident_runs_max: int
    generations_kept: int | None
    replay_stall_seconds: float | timedelta
    slow_step_seconds: float | timedelta | None
    types: Sequence[TypeHook[Any]]
    aliases: Mapping[str, type]
    build: str | None
    clock: Clock


class ServeOptions(EngineOptions, total=False):
    """All keyword options of ``Engine`` but the workflows."""

    observers: Sequence[Observer]
    errors: Sequence[type[Exception]]
    durability: str
    strict: bool
    workers: int
    app: str | None


class OpenOptions(ServeOptions, total=False):
    """The keyword options of ``open_engine``: all of ``Engine``."""

    workflows: Iterable[Workflow[Any, Any]]


def make_settings(options: dict[str, Any]) -> Settings:
    """Return the settings for an engine's keyword options.

    Raises:
        TypeError: an option of another name; the message offers the nearest one.
        ValueError: a value out of range.
    """
    known = [attribute.name for attribute in attrs.fields(Settings)]
    check_options("Engine", options, [*known, "workflows"])  # that one is taken before; it is there for the hint
    return Settings(**options)
