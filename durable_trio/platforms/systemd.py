"""Wake-ups by transient timers of systemd: they need no file, and are gone when the machine is started again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import attrs

from durable_trio.clock import Clock
from durable_trio.platforms.wake_ups import Program, WakeUp, call, instants_of, is_asked_for, not_past, tagged

__all__ = ["SystemdWakeUp"]

# A timer whose instant is past when systemd reads it never elapses.
_MARGIN: Final = timedelta(seconds=3)


@attrs.frozen(kw_only=True)
class SystemdWakeUp(WakeUp):
    """A transient timer: ``systemd-run --on-calendar=…``.

    It lasts until the machine is started again. One of a user's manager runs only while that user is logged in, or
    always after ``loginctl enable-linger``.

    Args:
        program: what is to be started; as a unit it is called as the program is, with the instant behind.
        is_system: whether by the system's manager; default whether this is root, else by the user's.
        clock: the wall clock; for tests.
    """

    program: Program
    is_system: bool = attrs.field(factory=lambda: os.geteuid() == 0)
    clock: Clock = attrs.field(factory=Clock)

    async def schedule(self, at: datetime) -> None:
        """Have the program started in the second of that instant, unless an earlier one is to come."""
        # The second that it is in, not the next: a second too early it is waited for.
        due = not_past(at, self.clock, margin=_MARGIN).replace(microsecond=0)
        timers = await self._timers()
        if is_asked_for(due, timers.values(), self.clock):
            return
        await call(self.command(due))
        # Only now, so that there is one at each moment; and only later ones, which are needless.
        later = [unit for unit, each in timers.items() if each > due]
        if later:
            await call([*self._systemctl, "stop", *later])

    async def cancel(self) -> None:
        """Stop all timers of the program; what they have started goes on."""
        timers = await self._timers()
        if timers:
            await call([*self._systemctl, "stop", *timers])

    def describe(self) -> str:
        """Say which timers."""
        manager = "the system's" if self.is_system else "the user's"
        return f"a transient timer of {manager} systemd starts it when a run is due ({self.program.name}-….timer)"

    def command(self, due: datetime) -> list[str]:
        """Return the command that makes a timer; ``due`` in UTC."""
        program = self.program
        return [
            "systemd-run",
            *(() if self.is_system else ("--user",)),
            "--quiet",
            "--collect",
            f"--unit={tagged(program.name, due)}",
            f"--description=durable-trio: {shlex.join(program.argv)}"[:200],
            f"--on-calendar={due:%Y-%m-%d %H:%M:%S} UTC",
            "--timer-property=AccuracySec=1s",
            f"--working-directory={program.folder}",
            *(f"--setenv={key}={value}" for key, value in program.environment.items()),
            "--",
            *program.argv,
        ]

    @property
    def _systemctl(self) -> list[str]:
        return ["systemctl", *(() if self.is_system else ("--user",))]

    async def _timers(self) -> Mapping[str, datetime]:
        """Return the instants of all timers of the program by their units."""
        pattern = f"{self.program.name}-*.timer"
        said = await call([*self._systemctl, "list-units", "--all", "--plain", "--no-legend", "--no-pager", pattern])
        units = [line.split()[0] for line in said.splitlines() if line.strip()]
        return instants_of(self.program.name, units)
