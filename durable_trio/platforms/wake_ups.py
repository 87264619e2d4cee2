"""What a wake-up is: the platform starts a program when the next run is due, so that nobody has to stay for it.

Too early does no harm: who comes finds nothing to do, and asks for the next wake-up. Too late is what must not be. So
nothing that comes earlier is ever taken back for something later, an instant that is past means at once, and where a
platform knows no seconds, the next minute is meant. And a wake-up may get lost, as with a machine that was off: let
something periodic start the program besides, now and then.

The program that asks is usually the one that was woken: what replaces its own wake-up must not end it.
"""

from __future__ import annotations

import abc
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from durable_trio.clock import Clock, from_datetime, to_datetime
from durable_trio.errors import DurableError

__all__ = ["NoWakeUp", "Program", "WakeUp", "WakeUpFailed", "call", "instants_of", "is_asked_for", "not_past", "tagged"]

# Managers of services answer in milliseconds; one that is stuck must not keep a process that is about to end.
_ANSWER_SECONDS: Final = 10.0
# Characters that are the same in names of units, of labels and of files.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_TAG: Final = "%Y%m%dT%H%M%SZ"
_TAGGED: Final = re.compile(r"-(\d{8}T\d{6}Z)")


class WakeUpFailed(DurableError):
    """The platform did not take a wake-up, or there is no such platform here; the runs themselves are safe."""


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


@attrs.frozen(kw_only=True)
class Program:
    """What is to be started.

    Args:
        argv: the program, by its whole path, and its arguments.
        name: tells its wake-ups from those of others; letters, digits, ``_``, ``.`` and ``-``.
        folder: where it is started; default the present one.
        environment: what it needs of the environment, as ``PYTHONPATH``. Whoever may look at units can read it: no
            secrets.

    Raises:
        ValueError: no program, a name that a unit cannot have, or a control character in any of it.
    """

    argv: Sequence[str] = attrs.field(converter=_texts)
    name: str = attrs.field()
    folder: str = attrs.field(factory=os.getcwd)
    environment: Mapping[str, str] = attrs.field(factory=dict)

    @argv.validator
    def _check_argv(self, _: Any, argv: Sequence[str]) -> None:
        if not argv:
            raise ValueError("argv names no program")

    @name.validator
    def _check_name(self, _: Any, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a name of letters, digits, '_', '.' and '-' (at most 80), not {name!r}")

    def __attrs_post_init__(self) -> None:
        for text in (*self.argv, self.folder, *self.environment, *self.environment.values()):
            if not text.isprintable():
                raise ValueError(f"{text!r} has a control character")


class WakeUp(abc.ABC):
    """Has a platform start a program at an instant."""

    @abc.abstractmethod
    async def schedule(self, at: datetime) -> None:
        """Have the program started at that instant, or at once if it is past; where it is asked for already, nothing.

        *Cancellation:* what was asked for before stands, or what is asked for now, or both.
        *Durability:* once it returns, the platform starts the program also if this process is killed.

        Raises:
            WakeUpFailed: the platform does not take it.
            ValueError: ``at`` has no time zone.
        """

    @abc.abstractmethod
    async def cancel(self) -> None:
        """Take back what was scheduled under the program's name. A program that runs already is left alone.

        *Cancellation:* some of it may still stand.

        Raises:
            WakeUpFailed: the platform does not take it.
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return in a line or two, for people, how the program is woken up."""


class NoWakeUp(WakeUp):
    """No wake-up: somebody starts the program, now and then."""

    async def schedule(self, at: datetime) -> None:
        """Do nothing."""
        from_datetime(at, what="at")
        await trio.lowlevel.checkpoint()

    async def cancel(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()

    def describe(self) -> str:
        """Say so."""
        return "nothing wakes it up: start it now and then"


# ---- what the platforms have in common ---------------------------------------------------------------------------


def not_past(at: datetime, clock: Clock, *, margin: timedelta) -> datetime:
    """Return an instant in UTC; the end of a margin from now if it is before that, since what is past never comes.

    Raises:
        ValueError: it has no time zone.
    """
    return to_datetime(max(from_datetime(at, what="at"), clock.stamp() + margin // timedelta(microseconds=1)))


def tagged(name: str, at: datetime) -> str:
    """Return the name of the wake-up at an instant, whole seconds of which count.

    Another instant is another name: under the same one the program could not be woken that is running under it.
    """
    return f"{name}-{at.astimezone(UTC).strftime(_TAG)}"


def instants_of(name: str, tagged_names: Iterable[str]) -> dict[str, datetime]:
    """Return the instants of those that are wake-ups of a program, by their names."""
    found = {each: _TAGGED.match(each, len(name)) for each in tagged_names if each.startswith(name)}
    return {each: datetime.strptime(tag[1], _TAG).replace(tzinfo=UTC) for each, tag in found.items() if tag is not None}


def is_asked_for(due: datetime, instants: Iterable[datetime], clock: Clock) -> bool:
    """Return whether one of these wake-ups is to come, and not after ``due``."""
    now = to_datetime(clock.stamp())
    return any(now < each <= due for each in instants)


async def call(argv: Sequence[str | Path], *, text: str = "") -> str:
    """Run a tool of the platform; return what it prints.

    Args:
        text: what it reads.

    *Cancellation:* kills the tool, which may have done what it was to do.

    Raises:
        WakeUpFailed: there is no such tool, it fails or does not answer; with what it says.
    """
    tool, environment = str(argv[0]), {**os.environ, "LC_ALL": "C"}
    done: subprocess.CompletedProcess[bytes] | None = None
    with trio.move_on_after(_ANSWER_SECONDS):
        try:
            done = await trio.run_process(
                [str(each) for each in argv],
                stdin=text.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment,
            )
        except OSError as error:
            raise WakeUpFailed(f"{tool} cannot be started: {error.strerror}; is this such a platform?") from error
    if done is None:
        raise WakeUpFailed(f"{tool} did not answer within {_ANSWER_SECONDS:g} s")
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
    raise WakeUpFailed(f"{tool} failed: {said}")
