"""``top`` in a terminal: reads keys, looks at the database, draws. One client, and one task for each of these.

The terminal is put back by the task that draws, which never waits for the database: not even a file that another
process holds leaves it in disorder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import rich.console
import rich.live
import rich.text
import trio

from durable_trio.cli.cancelling import in_hand_of
from durable_trio.cli.keyboard import Keyboard
from durable_trio.cli.output import harmless, is_unicode
from durable_trio.cli.screen import Screen
from durable_trio.cli.top_state import Action, Look, TopState
from durable_trio.cli.top_view import draw
from durable_trio.engine.engine import Engine
from durable_trio.errors import DurableError, RunNotFound
from durable_trio.records import EngineStatus, RunRecord, RunStatus
from durable_trio.views.rates import Rates
from durable_trio.views.run import RunView

__all__ = ["Top"]

_UNFINISHED: Final = tuple(status for status in RunStatus if not status.is_final)
# More runs than anybody scrolls through; the filter finds others among as many again.
_RUNS_SHOWN_MAX: Final = 100
_RUNS_SEARCHED_MAX: Final = 1000
_CHILDREN_MAX: Final = 200
# Reading takes at most this share of the time, however large the database is.
_READING_SHARE: Final = 0.1
# Where counts tell of no change, lists are read so many times more seldom.
_QUIET_LOOKS: Final = 5
_QUIT_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class Top:
    """The screen of one database."""

    def __init__(self, client: Engine, database: str, interval_seconds: float) -> None:
        self._client = client
        self._database = database
        self._interval = interval_seconds
        self._state = TopState()
        self._rates = Rates()
        self._is_changed = trio.Event()
        self._is_asked = trio.Event()
        self._scope = trio.CancelScope()
        self._exit_code = 0

    async def run(self) -> int:
        """Show the screen until ``q``; return the exit code, that of a signal if one has ended it."""
        with trio.open_signal_receiver(*_QUIT_SIGNALS) as quits, trio.open_signal_receiver(signal.SIGWINCH) as resizes:
            with trio.open_signal_receiver(signal.SIGTSTP) as stops:
                async with trio.open_nursery() as nursery:
                    self._scope = nursery.cancel_scope
                    nursery.start_soon(self._draw, stops)
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._redraw_at, resizes)
                    nursery.start_soon(self._quit_at, quits)
        return self._exit_code

    def _quit(self, code: int = 0) -> None:
        self._exit_code = code
        self._scope.cancel()

    async def _quit_at(self, signals: AsyncIterator[int]) -> None:
        async for signum in signals:
            self._quit(128 + signum)

    async def _redraw_at(self, signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            self._is_changed.set()

    # ---- the terminal --------------------------------------------------------------------------------------------

    async def _draw(self, stops: AsyncIterator[int]) -> None:
        """Draw whenever something has changed, and take keys."""
        terminal = _Terminal()
        async with trio.open_nursery() as nursery:
            with terminal.taken():
                nursery.start_soon(self._take_keys, terminal.keyboard)
                nursery.start_soon(self._suspend_at, stops, terminal)
                while True:
                    self._is_changed = trio.Event()
                    terminal.show(
                        lambda screen, height: draw(self._state, self._database, datetime.now(UTC), screen, height)
                    )
                    await self._is_changed.wait()

    async def _suspend_at(self, signals: AsyncIterator[int], terminal: _Terminal) -> None:
        """Ctrl-Z: give the terminal back, stop as any program does, take it again when the shell lets go on."""
        async for _ in signals:
            with terminal.given_back():
                os.kill(os.getpid(), signal.SIGSTOP)
            self._is_changed.set()

    async def _take_keys(self, keyboard: Keyboard) -> None:
        state = self._state
        while True:
            try:
                action = state.press(await keyboard.key())
            except (EOFError, OSError):  # the terminal has gone
                self._quit(128 + signal.SIGHUP)
                return
            self._is_changed.set()
            if action is Action.QUIT:
                self._quit()
            elif action is Action.READ:
                self._is_asked.set()
            elif action is Action.CANCEL:
                run_id, state.asks_to_cancel = state.asks_to_cancel, None
                assert run_id is not None
                await self._act(self._cancel, run_id)
            elif action is Action.RESUME and state.selected_id is not None:
                await self._act(self._resume, state.selected_id)

    async def _act(self, act: Callable[[str], Awaitable[str]], run_id: str) -> None:
        try:
            self._state.message = await act(run_id)
        except (DurableError, ValueError) as error:
            self._state.message = f"{error}"
        self._is_asked.set()
        self._is_changed.set()

    async def _cancel(self, run_id: str) -> str:
        is_new = await self._client.cancel(run_id, reason="cancelled in durable-trio top")
        return f"asked {run_id!r} to cancel" if is_new else f"{run_id!r} has ended; nothing has changed"

    async def _resume(self, run_id: str) -> str:
        await self._client.resume(run_id)
        return f"{run_id!r} goes on when an executor takes it"

    # ---- the database --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Look at the database again and again, and at once when a key asks for it."""
        quiet_count = 0
        while True:
            is_asked = self._is_asked.is_set()
            self._is_asked = trio.Event()
            began_at = trio.current_time()
            try:
                before = self._state.look
                status = await self._client.status()
                self._rates.add(status, trio.current_time())
                is_quiet = before is not None and not is_asked and _signature(status) == _signature(before.status)
                quiet_count = quiet_count + 1 if is_quiet else 0
                if before is None or quiet_count % _QUIET_LOOKS == 0:
                    look = await self._look(status)
                else:
                    look = attrs.evolve(before, status=status)
                self._state.take(
                    attrs.evolve(
                        look,
                        at=datetime.now(UTC),
                        runs_per_second=self._rates.runs,
                        steps_per_second=self._rates.steps,
                    )
                )
                if look.view is None and self._state.selected_id is not None:
                    self._is_asked.set()  # now it is known which run is selected
            except DurableError as error:
                self._state.fault = " ".join(str(error).split())
            self._is_changed.set()
            spent = trio.current_time() - began_at
            with trio.move_on_after(max(self._interval, spent / _READING_SHARE)):
                await self._is_asked.wait()

    async def _look(self, status: EngineStatus) -> Look:
        selected = self._state.selected_id
        return Look(
            at=datetime.now(UTC),
            status=status,
            runs=await self._runs(),
            roots=await self._client.trees(),
            view=None if selected is None else await self._view(selected, status),
        )

    async def _runs(self) -> tuple[RunRecord, ...]:
        """Return unfinished runs, then those that ended; of each the newest first."""
        limit = _RUNS_SEARCHED_MAX if self._state.filter else _RUNS_SHOWN_MAX
        unfinished = (await self._client.list_runs(status=_UNFINISHED, limit=limit)).runs
        newest = (await self._client.list_runs(limit=limit)).runs
        return (*unfinished, *(record for record in newest if record.status.is_final))

    async def _view(self, run_id: str, status: EngineStatus) -> RunView | None:
        before = self._state.look.view if self._state.look is not None else None
        run = self._client.get(run_id)
        try:
            record = await run.record()
            if before is not None and before.record == record and record.status.is_final:
                return before
            return RunView(
                record=record,
                steps=await run.steps(),
                waits=await run.waits(),
                unread=await run.unread(),
                children=(await self._client.list_runs(parent=run_id, limit=_CHILDREN_MAX)).runs[::-1],
                owner=next((item for item in status.executors if item.id == record.owner), None),
                in_hand=await in_hand_of(self._client, run_id) if record.owner is not None else (),
            )
        except RunNotFound:
            return None  # it was removed


def _signature(status: EngineStatus) -> Any:
    """Return what is different where something worth reading has happened."""
    executors = tuple((item.id, item.is_alive) for item in status.executors)
    return dict(status.runs_by_status), status.recorded_count, status.parked, executors


class _Terminal:
    """Standard input and output, taken for the screen and given back."""

    def __init__(self) -> None:
        self.keyboard = Keyboard(sys.stdin.fileno())
        self._console = rich.console.Console(highlight=False, markup=False, emoji=False)
        self._live: rich.live.Live | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the whole screen, and keys as they are pressed, inside the block."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Leave the terminal to others inside the block."""
        self._leave()
        try:
            yield
        finally:
            self._enter()

    def show(self, drawn: Callable[[Screen, int], list[str]]) -> None:
        """Replace the screen."""
        if self._live is None:
            return
        width, height = self._console.size
        lines = drawn(Screen(width=width, is_unicode=is_unicode(sys.stdout)), height)
        text = rich.text.Text.from_ansi(harmless("\n".join(lines)), no_wrap=True, overflow="crop", end="")
        self._live.update(text, refresh=True)

    def _enter(self) -> None:
        self.keyboard.__enter__()
        self._live = rich.live.Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def _leave(self) -> None:
        live, self._live = self._live, None
        with contextlib.suppress(OSError):  # the terminal has gone
            if live is not None:
                live.stop()
        with contextlib.suppress(OSError, termios.error):
            self.keyboard.__exit__(None, None, None)
