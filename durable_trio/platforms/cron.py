"""Wake-ups by cron, which knows no single instants: a line in the user's table that starts the program each minute."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Final

import attrs

from durable_trio.clock import from_datetime
from durable_trio.platforms.wake_ups import Program, WakeUp, WakeUpFailed, call

__all__ = ["CronWakeUp"]

# What the tools say of a user who has no table yet: that of most systems, and that of BusyBox.
_NO_TABLE: Final = ("no crontab for", "No such file or directory")


@attrs.frozen(kw_only=True)
class CronWakeUp(WakeUp):
    """One line in the crontab of the user, each minute.

    So whatever is due is found within its minute, and nothing is to be done when the next instant is known. What the
    program prints is dropped, so that cron mails only what it says on standard error.

    Args:
        program: what is to be started; its name stands at the end of the line.
    """

    program: Program

    async def schedule(self, at: datetime) -> None:
        """See to it that the line is there, and is the one of this program."""
        from_datetime(at, what="at")
        table = await self._table()
        lines = [line for line in table if not self._is_ours(line)]
        if table != [*lines, self.line()]:
            await self._write([*lines, self.line()])

    async def cancel(self) -> None:
        """Take the line out, and leave the others as they are."""
        table = await self._table()
        lines = [line for line in table if not self._is_ours(line)]
        if lines != table:
            await self._write(lines)

    def describe(self) -> str:
        """Return the line, to be put into a table by hand as well."""
        return f"cron starts it each minute: {self.line()}"

    def line(self) -> str:
        """Return the line. In one, a percent sign ends the command."""
        program = self.program
        setting = ["env", *(f"{key}={value}" for key, value in program.environment.items())]
        argv = [*(setting if program.environment else ()), *program.argv]
        command = f"cd {shlex.quote(program.folder)} && {shlex.join(argv)} >/dev/null"
        return f"* * * * * {command.replace('%', chr(92) + '%')} {self._mark}"

    @property
    def _mark(self) -> str:
        return f"# {self.program.name}"

    def _is_ours(self, line: str) -> bool:
        return line.startswith("* * * * * ") and line.endswith(f" {self._mark}")

    async def _table(self) -> list[str]:
        try:
            return (await call(["crontab", "-l"])).splitlines()
        except WakeUpFailed as error:
            # Only then: what cannot be read for another reason must not be written over.
            if any(text in str(error) for text in _NO_TABLE):
                return []
            raise

    async def _write(self, lines: list[str]) -> None:
        await call(["crontab", "-"], text="".join(f"{line}\n" for line in lines))
