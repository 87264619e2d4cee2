"""What a supervisor is told about its children, as values that check themselves.

A specification never changes and holds nothing that runs, so one may be started many times, compared and printed.
Durations are seconds (int, float) or ``datetime.timedelta``; they are kept as float seconds.
"""

from __future__ import annotations

import difflib
import enum
import inspect
import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import attrs

# OTP's default for workers: long enough to flush a socket, short enough for a deploy.
SHUTDOWN_SECONDS = 5.0

# Names end up in reports and messages; longer ones are a mistake.
NAME_CHARACTERS_MAX = 256

# What a child has to stop, even with ``shutdown=0``: a cancelled task needs some passes of the loop to end.
STOP_SECONDS_MIN = 0.05

# How long the kernel may take to end a killed process before the process counts as unstopped.
KILL_GRACE_SECONDS = 5.0

# Enough for the tail of a long traceback, little enough to keep one per event.
STDERR_BYTES_MAX = 16 * 1024

Seconds: TypeAlias = float | timedelta
StartFunction: TypeAlias = Callable[..., Awaitable[object]]

EnumT = TypeVar("EnumT", bound=enum.Enum)


class Strategy(enum.Enum):
    """Which children are restarted with one that ended and is to be restarted.

    Attributes:
        ONE_FOR_ONE: that child alone.
        ONE_FOR_ALL: all: the others are stopped in reverse order, then all are started in order.
        REST_FOR_ONE: that child and those started after it.
    """

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class Restart(enum.Enum):
    """When a child that ended by itself is started again.

    Attributes:
        PERMANENT: always.
        TRANSIENT: if it crashed, not if it returned.
        TEMPORARY: never, not even with its siblings; it is forgotten when it ends.
    """

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class AutoShutdown(enum.Enum):
    """Whether a supervisor stops by itself when significant children have ended by themselves (for good)."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


def to_seconds(value: Seconds) -> float:
    """Turn a duration into float seconds; refuse what is not a number, negative, or NaN."""
    if isinstance(value, timedelta):
        return to_seconds(value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a duration is seconds or a timedelta, not {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"a duration is zero or more seconds, not {value!r}")
    return float(value)


def to_optional_seconds(value: Seconds | None) -> float | None:
    return None if value is None else to_seconds(value)


def to_children(children: Iterable[ChildSpec]) -> tuple[ChildSpec, ...]:
    return tuple(children)


def to_arguments(arguments: Iterable[object]) -> tuple[object, ...]:
    if isinstance(arguments, str):
        raise TypeError(f"args is a tuple of arguments, not the str {arguments!r}; a comma may be missing")
    return tuple(arguments)


def to_words(words: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    if isinstance(words, str):
        raise TypeError(f"argv is a sequence of words, not the str {words!r}; no shell will split it")
    return tuple(os.fspath(word) if isinstance(word, os.PathLike) else word for word in words)


def to_descriptors(descriptors: Iterable[int]) -> tuple[int, ...]:
    return tuple(descriptors)


def positive(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value!r}")


def count(instance: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{attribute.name} must be a whole number, not {value!r}")
    if value < 0:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value!r}")


def check_name(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"a name is a str, not {value!r}")
    if not 1 <= len(value) <= NAME_CHARACTERS_MAX or value != value.strip() or not value.isprintable():
        raise ValueError(
            f"a name has 1 to {NAME_CHARACTERS_MAX} printable characters and no blank at either end, not {value!r}"
        )


def member_of(kind: type[EnumT]) -> Callable[[object, attrs.Attribute[EnumT], EnumT], None]:
    def check(instance: object, attribute: attrs.Attribute[EnumT], value: EnumT) -> None:
        if isinstance(value, kind):
            return
        names = [member.name for member in kind]
        close = difflib.get_close_matches(str(value).upper(), names, n=1, cutoff=0.5)
        hint = f"; did you mean {kind.__name__}.{close[0]}?" if close else f" ({', '.join(names)})"
        raise TypeError(f"{attribute.name} must be a {kind.__name__}, not {value!r}{hint}")

    return check


@attrs.frozen
class Intensity:
    """How many restarts a supervisor makes within a sliding window before it gives up: ``Intensity(3, per=5)``.

    A restart of several children by the strategy counts once. Zero restarts: the first one needed is one too many.
    """

    restarts: int = attrs.field(default=3, validator=count)
    per: float = attrs.field(default=5.0, kw_only=True, converter=to_seconds, validator=positive)


@attrs.frozen(kw_only=True)
class Backoff:
    """How long a child that ended waits for its restart: ``first`` seconds, ``factor`` times as long each time,
    at most ``longest``.

    ``jitter`` (0 to 1, default 0.2) is the part of the delay that chance may take off, so that children that
    crashed together do not come back together. A child that has been ready for ``reset_after`` seconds starts
    over with ``first``.
    """

    first: float = attrs.field(default=0.1, converter=to_seconds)
    factor: float = attrs.field(default=2.0)
    longest: float = attrs.field(default=30.0, converter=to_seconds)
    jitter: float = attrs.field(default=0.2)
    reset_after: float = attrs.field(default=60.0, converter=to_seconds)

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, not {self.jitter!r}")
        if not (math.isfinite(self.longest) and self.first <= self.longest):
            raise ValueError(f"first ({self.first:g} s) must not be over longest ({self.longest:g} s), which is finite")


@attrs.frozen
class Child:
    """A child that is a trio task, or (with a specification as ``start``) a nested supervisor.

    ``start(*args)`` is awaited in a task of the supervisor. If it has a parameter ``task_status``, the child is
    ready when it calls ``task_status.started(value)``; else when it runs.

    ``restart``: default PERMANENT. ``significant``: see ``AutoShutdown``. ``backoff``: default none, restarts are
    immediate.

    ``shutdown``: seconds the child has to end after its cancellation; default 5, for a supervisor ``math.inf``.
    Cancellation *is* the request to stop: a child with something to finish does it in a shielded scope with a
    deadline shorter than this.

    ``mailbox``: capacity of a memory channel that belongs to the child's place in the tree and outlives its
    restarts. The child gets the receiving end as the keyword argument ``mailbox``; ``Supervisor.mailbox`` gives the
    sending end. What a child had taken out when it crashed is gone.
    """

    name: str = attrs.field(validator=check_name)
    start: StartFunction | SupervisorSpec | DynamicSupervisorSpec
    args: tuple[object, ...] = attrs.field(default=(), converter=to_arguments, kw_only=True)
    restart: Restart = attrs.field(default=Restart.PERMANENT, validator=member_of(Restart), kw_only=True)
    shutdown: float = attrs.field(converter=to_seconds, kw_only=True)
    significant: bool = attrs.field(default=False, kw_only=True)
    backoff: Backoff | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(Backoff)), kw_only=True
    )
    mailbox: int | None = attrs.field(default=None, validator=count, kw_only=True)

    @shutdown.default
    def _shutdown_default(self) -> float:
        return math.inf if self.is_supervisor else SHUTDOWN_SECONDS

    def __attrs_post_init__(self) -> None:
        if inspect.iscoroutine(self.start):
            self.start.close()
            raise TypeError(f"child {self.name!r}: pass the async function and args=(…), not a coroutine")
        if self.is_supervisor:
            if self.args or self.mailbox is not None:
                raise ValueError(f"child {self.name!r} is a supervisor: it takes no args and no mailbox")
        elif not callable(self.start):
            raise TypeError(
                f"child {self.name!r}: start must be an async function, a SupervisorSpec or a "
                f"DynamicSupervisorSpec, not {self.start!r}"
            )
        check_significant(self.name, self.significant, self.restart)

    @property
    def is_supervisor(self) -> bool:
        return isinstance(self.start, SupervisorSpec | DynamicSupervisorSpec)

    @property
    def stop_seconds(self) -> float:
        """How long after the request to stop the child counts as unstopped."""
        return max(self.shutdown, STOP_SECONDS_MIN)


@attrs.frozen
class Process:
    """A child that is a process of the operating system, started with ``argv`` (no shell).

    It runs in its own process group, with no descriptors but the standard ones and ``pass_fds``, standard input
    closed off. ``env`` replaces the whole environment (default: inherited), ``cwd`` the directory.

    ``ready_within``: seconds until the process must have called ``child_process().ready()``; default None: it is
    ready when it is spawned. ``heartbeat_within``: the longest time in seconds without a heartbeat, counted from
    then on; default None: not watched. A process that misses either is killed and counts as crashed. Time in which the
    supervisor's own process was stopped counts for none of these durations, but for an eighth at most each time.

    ``stack_signal``: sent to a process half a second before it is killed, because it has missed a heartbeat or does not
    end in time, so that it can write to its standard error what it is at (``faulthandler.register``); default None. A
    process must have registered it before it says that it is ready. What it writes then is in the report of its end,
    and not forwarded.

    ``shutdown``: seconds between SIGTERM (to the process, which tells its own) and SIGKILL (to its whole group),
    default 5. Whatever is left of the group when the process has ended is killed too. The process is killed with its
    parent on Linux; elsewhere if it calls ``child_process()``.

    ``is_told_by_link``: once it is ready, it waits for ``child_process().told_to_end()``, and is told so instead of by
    SIGTERM, which then is what others send it: a service manager that sends one to all processes of a service at the
    same time, say. Default False.

    ``backoffs``: by exit code, in place of ``backoff`` for a process that has ended with it.

    ``answer``: called with the pid and the value when the process asks something (``child_process().ask(value)``), in
    the event loop; gives the answer, which JSON carries. It must neither wait nor raise. Default None: all answers are
    ``None``.

    ``closing``: the last so many of these seconds are only for a process that is about to end; default 0. Without a
    heartbeat for half of ``heartbeat_within`` it is not, and is killed before them, as one that hangs.

    ``stderr_bytes_max``: how much of the end of its standard error is kept for the report (16 KiB); with
    ``is_stderr_forwarded`` (default) all of it is also written to the parent's.
    """

    name: str = attrs.field(validator=check_name)
    argv: tuple[str, ...] = attrs.field(converter=to_words)
    ready_within: float | None = attrs.field(
        default=None, converter=to_optional_seconds, validator=positive, kw_only=True
    )
    heartbeat_within: float | None = attrs.field(
        default=None, converter=to_optional_seconds, validator=positive, kw_only=True
    )
    stack_signal: int | None = attrs.field(default=None, kw_only=True)
    shutdown: float = attrs.field(default=SHUTDOWN_SECONDS, converter=to_seconds, kw_only=True)
    closing: float = attrs.field(default=0.0, converter=to_seconds, kw_only=True)
    is_told_by_link: bool = attrs.field(default=False, kw_only=True)
    env: Mapping[str, str] | None = attrs.field(default=None, kw_only=True)
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    pass_fds: tuple[int, ...] = attrs.field(default=(), converter=to_descriptors, kw_only=True)
    restart: Restart = attrs.field(default=Restart.PERMANENT, validator=member_of(Restart), kw_only=True)
    significant: bool = attrs.field(default=False, kw_only=True)
    backoff: Backoff | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(Backoff)), kw_only=True
    )
    backoffs: Mapping[int, Backoff] = attrs.field(factory=dict, hash=False, kw_only=True)
    answer: Callable[[int, object], object] | None = attrs.field(default=None, kw_only=True)
    stderr_bytes_max: int = attrs.field(default=STDERR_BYTES_MAX, validator=count, kw_only=True)
    is_stderr_forwarded: bool = attrs.field(default=True, kw_only=True)

    @argv.validator
    def _check_argv(self, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
        if not value or not all(isinstance(word, str) for word in value):
            raise ValueError(f"process {self.name!r}: argv is a non-empty sequence of str, not {value!r}")

    def __attrs_post_init__(self) -> None:
        check_significant(self.name, self.significant, self.restart)

    @property
    def stop_seconds(self) -> float:
        """How long after the request to stop the child counts as unstopped."""
        return self.shutdown + KILL_GRACE_SECONDS

    def backoff_after(self, code: int | None) -> Backoff | None:
        """Return the backoff of a process that has ended with an exit code, or by a signal (``None``)."""
        return self.backoff if code is None else self.backoffs.get(code, self.backoff)


ChildSpec: TypeAlias = Child | Process


def check_significant(name: str, is_significant: bool, restart: Restart) -> None:
    if is_significant and restart is Restart.PERMANENT:
        raise ValueError(f"child {name!r} is permanent, so it never ends for good and cannot be significant")


def check_admissible(child: ChildSpec, auto_shutdown: AutoShutdown) -> None:
    """Refuse a child that a supervisor with this ``auto_shutdown`` cannot have."""
    if not isinstance(child, Child | Process):
        raise TypeError(f"a child is a Child or a Process, not {child!r}")
    if child.significant and auto_shutdown is AutoShutdown.NEVER:
        raise ValueError(f"child {child.name!r} is significant, but its supervisor's auto_shutdown is NEVER")


def check_children(children: Sequence[ChildSpec], auto_shutdown: AutoShutdown) -> None:
    """Refuse children that a supervisor cannot have together."""
    names = set()
    for child in children:
        check_admissible(child, auto_shutdown)
        if child.name in names:
            raise ValueError(f"two children are named {child.name!r}")
        names.add(child.name)


@attrs.frozen(kw_only=True)
class SupervisorSpec:
    """A supervisor: its strategy, intensity, and the children it starts in this order and stops in reverse."""

    strategy: Strategy = attrs.field(default=Strategy.ONE_FOR_ONE, validator=member_of(Strategy))
    intensity: Intensity = attrs.field(factory=Intensity, validator=attrs.validators.instance_of(Intensity))
    auto_shutdown: AutoShutdown = attrs.field(default=AutoShutdown.NEVER, validator=member_of(AutoShutdown))
    children: tuple[ChildSpec, ...] = attrs.field(default=(), converter=to_children)

    @children.validator
    def _check_children(self, attribute: attrs.Attribute[Sequence[ChildSpec]], value: Sequence[ChildSpec]) -> None:
        check_children(value, self.auto_shutdown)


@attrs.frozen(kw_only=True)
class DynamicSupervisorSpec:
    """A supervisor for any number of independent children started on demand; ``max_children`` None: no limit.

    ``children`` are those it starts by itself, all at the same time; it is open when all are ready.
    """

    max_children: int | None = attrs.field(default=None, validator=count)
    intensity: Intensity = attrs.field(factory=Intensity, validator=attrs.validators.instance_of(Intensity))
    children: tuple[ChildSpec, ...] = attrs.field(default=(), converter=to_children)

    @children.validator
    def _check_children(self, attribute: attrs.Attribute[Sequence[ChildSpec]], value: Sequence[ChildSpec]) -> None:
        check_children(value, AutoShutdown.NEVER)
        if self.max_children is not None and len(value) > self.max_children:
            raise ValueError(f"{len(value)} children are more than max_children, {self.max_children}")
