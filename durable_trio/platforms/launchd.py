"""Wake-ups by agents of launchd, the service manager of macOS: a property list each, with a minute to start at.

launchd ends a job's process when the job is unloaded. So a process that asks for its next wake-up asks under another
label, and leaves the job that it is itself to whoever comes next.
"""

from __future__ import annotations

import os
import plistlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from durable_trio.clock import Clock
from durable_trio.platforms.wake_ups import (
    Program,
    WakeUp,
    WakeUpFailed,
    call,
    instants_of,
    is_asked_for,
    not_past,
    tagged,
)

__all__ = ["LaunchdWakeUp"]

_MINUTE: Final = timedelta(minutes=1)
# In the environment of a process that launchd has started: the label of its job.
_OWN_LABEL: Final = "XPC_SERVICE_NAME"


@attrs.frozen(kw_only=True)
class LaunchdWakeUp(WakeUp):
    """An agent of launchd for each wake-up, as a property list in ``~/Library/LaunchAgents``.

    launchd knows minutes: the program is started at the first whole one that is not before the instant. A machine that
    sleeps then starts it when it wakes; the lists outlast a restart of the machine.

    Args:
        program: what is to be started; the label is its name, with the instant behind.
        agents: the folder of property lists.
        domain: whom the agents belong to; default ``gui/UID``, a login session's.
        clock: the wall clock; for tests.
    """

    program: Program
    agents: Path = attrs.field(factory=lambda: Path.home() / "Library" / "LaunchAgents", converter=Path)
    domain: str = attrs.field(factory=lambda: f"gui/{os.getuid()}")
    clock: Clock = attrs.field(factory=Clock)

    async def schedule(self, at: datetime) -> None:
        """Have the program started at the first minute that is not before that instant, unless an earlier one comes."""
        due = self.minute(at)
        jobs = await self._jobs()
        if is_asked_for(due, jobs.values(), self.clock):
            return
        label = tagged(self.program.name, due)
        path = self._path(label)
        try:
            await trio.to_thread.run_sync(_write, path, plistlib.dumps(self.job(due)))
        except OSError as error:
            raise WakeUpFailed(f"{path} cannot be written: {error.strerror}") from error
        await call(["launchctl", "bootstrap", self.domain, path])
        for other in jobs:  # later ones, and what has been: it would come again in a year
            await self._remove(other)

    async def cancel(self) -> None:
        """Unload the program's jobs, and remove their lists; this process's own job stays until the next login."""
        for label in await self._jobs():
            await self._remove(label)

    def describe(self) -> str:
        """Say where the lists are."""
        return f"launchd starts it at the minute when a run is due ({self._path(self.program.name + '-…')})"

    def minute(self, at: datetime) -> datetime:
        """Return the minute that is meant, in UTC: not one that has begun, since launchd starts nothing any more then.

        Raises:
            ValueError: ``at`` has no time zone.
        """
        due = not_past(at, self.clock, margin=timedelta(seconds=1))
        whole = due.replace(second=0, microsecond=0)
        return whole if whole == due else whole + _MINUTE

    def job(self, due: datetime) -> dict[str, Any]:
        """Return the property list of a job. launchd reads the machine's local time."""
        local, program = due.astimezone(), self.program
        return {
            "Label": tagged(program.name, due),
            "ProgramArguments": list(program.argv),
            "WorkingDirectory": program.folder,
            "EnvironmentVariables": dict(program.environment),
            "StartCalendarInterval": {
                "Month": local.month,
                "Day": local.day,
                "Hour": local.hour,
                "Minute": local.minute,
            },
            "ProcessType": "Background",
        }

    def _path(self, label: str) -> Path:
        return self.agents / f"{label}.plist"

    async def _jobs(self) -> Mapping[str, datetime]:
        """Return the instants of all jobs of the program by their labels."""
        return instants_of(self.program.name, await trio.to_thread.run_sync(_labels, self.agents))

    async def _remove(self, label: str) -> None:
        # The list first: what is unloaded and still has one would be loaded again at the next login.
        await trio.to_thread.run_sync(_unlink, self._path(label))
        if os.environ.get(_OWN_LABEL) != label:
            with suppress(WakeUpFailed):  # it is not loaded
                await call(["launchctl", "bootout", f"{self.domain}/{label}"])


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _labels(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.plist"))


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
