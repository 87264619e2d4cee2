"""Telling of executors that are dead, each once, though whoever has found one may die before it has told it.

That somebody has died is stored in the transaction that sets its runs free, with who is to tell it and what it has
noted to be told (``runs.untold``); once told, that is removed. Where the teller dies in between, the next that looks
finds it and tells. One that is killed after it has written a line, and before that is removed, has its line told again,
with ``told_again``: better twice than never.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import attrs
import trio

from durable_trio.engine.runs.untold import tell_untold
from durable_trio.logger import Logger
from durable_trio.processes import ProcessIdentity
from durable_trio.rows import DeathRow, DeathStage, ExecutorRow, UntoldRow
from durable_trio.stores.code_questions import CountParked
from durable_trio.stores.contract import TellDeath
from durable_trio.stores.questions import ListDeaths, ListUntold
from durable_trio.stores.writer import Writer

__all__ = ["Deaths"]

_LOGGER = Logger("durable_trio.processes")
# Telling is not broken off when this process is to end, but waits no longer than that for a database that others hold.
_TELL_SECONDS = 5.0


class Deaths:
    """Tells of deaths, for one that looks for the dead."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        # Two engines of one process are two of them.
        self._name = f"{secrets.token_hex(4)}/{ProcessIdentity.own()}"
        self._is_to_look = True
        self._said: set[tuple[int, UntoldRow | None]] = set()  # what was told here, and is not stored as told yet

    def of(self, row: ExecutorRow, untold: Iterable[UntoldRow], *, is_silent: bool) -> DeathRow:
        """Return what is to be told of an executor that this one declares dead. It is stored with that."""
        stage = DeathStage.SILENT if is_silent else DeathStage.DIED
        return DeathRow(
            executor=row.id, pid=row.pid, host=row.host, stage=stage, untold=tuple(untold), teller=self._name
        )

    def look_again(self) -> None:
        """Somebody has died: perhaps whoever was to tell of another one."""
        self._is_to_look = True

    async def tell(self, death: DeathRow, parked_before: int) -> None:
        """Tell of a death that is stored, with this one as its teller. ``parked_before``: how many runs were parked."""
        self._is_to_look = True  # until it is seen that it is done
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _TELL_SECONDS):
            parked = await self._writer.ask_patiently(CountParked()) - parked_before
            await self._tell(death, parked, is_again=False)

    async def look(self) -> None:
        """Tell what those were to tell who have died themselves, and what silent ones have left once they end."""
        if not self._is_to_look:
            return
        is_to_look = False
        for death in await self._writer.ask_patiently(ListDeaths()):
            is_own = death.teller == self._name
            if death.stage is DeathStage.WATCHED and death.is_locked:
                is_to_look = True  # it may still tell it itself
            elif is_own or not death.is_teller_alive:
                is_to_look = await self._take(death, is_own=is_own) or is_to_look
            else:  # it may die before it has told
                is_to_look = True
        self._is_to_look = is_to_look

    async def _take(self, death: DeathRow, *, is_own: bool) -> bool:
        """Tell of a death in the stead of its teller, unless another one was faster; return whether to look again."""
        taken = attrs.evolve(death, teller=self._name)
        take = TellDeath(executor=death.executor, teller=death.teller, becomes=taken)
        if not is_own and not await self._writer.write(take):
            return True
        return await self._tell(taken, 0, is_again=not is_own)

    async def _tell(self, death: DeathRow, parked: int, *, is_again: bool) -> bool:
        """Tell of it, store that it is told, and return whether its process is to be watched."""
        executor, untold = death.executor, death.untold
        if death.stage is DeathStage.WATCHED:
            untold = await self._writer.ask_patiently(ListUntold(executor))
        elif (executor, None) not in self._said:
            self._said.add((executor, None))
            _say_dead(death, parked, is_again=is_again)
        for each in untold:
            if (executor, each) not in self._said:
                await tell_untold(self._writer, [each])
                self._said.add((executor, each))
        becomes = attrs.evolve(death, stage=DeathStage.WATCHED) if death.stage is DeathStage.SILENT else None
        await self._writer.write(TellDeath(executor=executor, teller=self._name, becomes=becomes))
        self._said = {each for each in self._said if each[0] != executor}
        return becomes is not None


def _say_dead(death: DeathRow, parked: int, *, is_again: bool) -> None:
    """Say that an executor is no more.

    Args:
        parked: the runs that are parked because of that: they fit no other code.
        is_again: another one was to say so, and perhaps has.
    """
    is_silent = death.stage is DeathStage.SILENT
    what = "gives no sign of life, as if it were stopped or hung" if is_silent else "has died"
    event = "process_silent" if is_silent else "process_died"
    extra = {"event": event, "executor": death.executor, "dead_pid": death.pid, "host": death.host, "runs": death.runs}
    text = _what_is_free(death.runs)
    if parked > 0:
        extra |= {"parked": parked}
        runs = "1 run now waits" if parked == 1 else f"{parked:,} runs now wait"
        text += f"; {runs} for such code as it had"
    if is_again:
        extra |= {"told_again": True}
        text += "; whoever was to say so has died too"
    _LOGGER.warning("executor %d (process %d) %s; %s", death.executor, death.pid, what, text, extra=extra)


def _what_is_free(count: int) -> str:
    if count == 0:
        return "it had no runs"
    return "its run is free for others" if count == 1 else f"its {count:,} runs are free for others"
