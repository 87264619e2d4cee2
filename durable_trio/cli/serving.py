"""``serve`` around an engine: the engine serves as it does under ``trio.run``, and what it does is shown beside it.

Nothing here can end the server: what shows it may fail, and is then only logged.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

import attrs
import trio

from durable_trio.cli.faults import ReaderGone
from durable_trio.cli.output import is_unicode, write_lines
from durable_trio.cli.screen import Screen, find_screen
from durable_trio.cli.serve_events import Line, TreeLog
from durable_trio.cli.status_line import StatusLine, fitted
from durable_trio.cli.text import plural, visible
from durable_trio.cli.tree_view import shape_of, tree_lines, worker_nodes
from durable_trio.engine.engine import Engine
from durable_trio.engine.os_signals import has_terminal, reset_after_first
from durable_trio.engine.runs.run_log import UNKNOWN_WORKFLOW, unknown_text
from durable_trio.errors import DurableError
from durable_trio.logger import Logger
from durable_trio.records import EngineStatus, RunStatus
from durable_trio.views.rates import Rates, unfinished_count
from supervisors import ChildStatus, NodeKind, TreeNode

__all__ = ["Display", "requests_ignored", "serve"]

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
# This asks to reload where there is no terminal that it could come of.
_RELOAD_SIGNAL: Final[Any] = getattr(signal, "SIGHUP", None)
_RESTART: Final = "a server that executes runs in its own process cannot reload: restart it. One with --workers can"
# These ask for the tree, where there are such: SIGINFO is what Ctrl-T sends on BSD and macOS.
_TREE_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name))

_STATUS_SECONDS: Final = 1.0
_COUNTERS_SECONDS: Final = 10.0
_TREE_SECONDS: Final = 1.0
# Looking at the store takes at most this share of the time, however large it is.
_LOOKING_SHARE: Final = 0.1
# Workers say what their trees are a moment after they are ready.
_TREE_COMPLETE_SECONDS: Final = 2.0


@attrs.frozen(kw_only=True)
class Display:
    """What is shown, and where. ``status_line``: on a terminal; else counters are logged."""

    logger: Logger
    status_line: StatusLine | None = None
    draws_tree: bool = False
    is_json: bool = False  # then nothing else may stand on standard error

    def say(self, line: Line) -> None:
        """Log one thing that has happened."""
        self.logger.log(line.level, "%s", line.message, extra={"fields": {"event": line.event, **line.fields}})


@contextmanager
def requests_ignored() -> Iterator[Sequence[int]]:
    """Ignore what asks for the tree, or to reload, while nobody serves yet, or no more: it would end the process.

    Yields what asks to reload: SIGHUP, unless it tells the end of a terminal, or is ignored by whoever has started us.
    """
    asks = _RELOAD_SIGNAL is not None and signal.getsignal(_RELOAD_SIGNAL) is signal.SIG_DFL and not has_terminal()
    reload_signals = [_RELOAD_SIGNAL] if asks else []
    before = [(os_signal, signal.signal(os_signal, signal.SIG_IGN)) for os_signal in (*_TREE_SIGNALS, *reload_signals)]
    try:
        yield reload_signals
    finally:
        for os_signal, handler in before:
            signal.signal(os_signal, handler)


async def serve(
    engine: Engine, display: Display, *, app: str, workers: int | None, reload_signals: Sequence[int] = ()
) -> None:
    """Serve until SIGTERM or Ctrl-C, as ``trio.run(engine.serve)`` does, and raise what that would raise.

    The second of them ends the process.

    Args:
        reload_signals: those that ask to reload, as long as they are ignored: the application may have taken one.
    """
    failures: list[BaseException] = []
    ready = _Ready()
    server = _Server(engine, display, ready, app)
    engine._serving.is_program = True
    reload_signals = [each for each in reload_signals if signal.getsignal(each) is signal.SIG_IGN]
    with trio.open_signal_receiver(*_TREE_SIGNALS, *reload_signals) as asking:
        async with trio.open_nursery() as nursery:

            async def serve_engine() -> None:
                try:
                    await engine.serve(workers=workers, app=app, signals=_STOP_SIGNALS, task_status=ready)
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    failures.append(error)  # as itself, not within the nursery's group
                nursery.cancel_scope.cancel()

            nursery.start_soon(serve_engine)
            for part in (server.say_when_stopped, server.follow, server.count, server.draw_tree):
                nursery.start_soon(server.undisturbed, part)
            nursery.start_soon(server.undisturbed, server.answer, asking)
    if failures:
        raise failures[0]
    display.say(Line("stopped", "stopped", {"pid": os.getpid()}))


class _Ready:
    """The ``task_status`` of the engine's task, which may end before it is ready."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def started(self, value: object = None) -> None:
        self.event.set()


class _Server:
    """What is told of one server while it runs."""

    def __init__(self, engine: Engine, display: Display, ready: _Ready, app: str) -> None:
        self._app = app
        self._engine = engine
        self._display = display
        self._ready = ready.event
        self._log = TreeLog()
        self._rates = Rates()
        self._unknown: set[str] = set()  # that were told of
        self._unserved: set[tuple[str, int]] = set()  # likewise

    async def undisturbed(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a part of the display; its failure is no reason to stop serving."""
        try:
            await part(*args)
        except trio.ClosedResourceError:
            pass  # the engine has closed, and the display is about to be cancelled
        except Exception:
            self._display.logger.exception(
                "the display has failed; serving goes on", extra={"fields": {"event": "fault"}}
            )

    # ---- what has happened ---------------------------------------------------------------------------------------

    async def say_when_stopped(self) -> None:
        """Tell people that the first signal was heard, and what a second one does."""
        for _ in range(3):  # by then the engine has its own handlers, whatever the order of tasks
            await trio.lowlevel.checkpoint()
        with _overheard(_STOP_SIGNALS, self._stop):
            await trio.sleep_forever()

    def _stop(self, signum: int) -> None:
        if self._display.status_line is not None:
            self._display.status_line.close()  # the next one ends the process, without another word
        name = signal.Signals(signum).name
        self._display.say(Line("draining", "draining … (again to stop at once)", {"signal": name}))

    async def follow(self) -> None:
        """Say what happens in the tree."""
        await self._ready.wait()
        events = self._engine.events()
        tree = self._engine.tree()
        workers = list(worker_nodes(tree))
        where = f"with {len(workers)} worker{'' if len(workers) == 1 else 's'}" if workers else "in this process"
        fields = {"app": self._app, "pid": os.getpid(), "workers": len(workers)}
        message = f"serving {self._app} {where} (process {os.getpid()}); Ctrl-C drains"
        self._display.say(Line("started", message, fields))
        for line in self._log.present(iter(workers)):
            self._display.say(line)
        async for event in events:
            for line in self._log.lines(event):
                self._display.say(line)

    # ---- how much ------------------------------------------------------------------------------------------------

    async def count(self) -> None:
        """Keep the status line up to date; where there is none, log counters when they have changed."""
        line = self._display.status_line
        if line is not None:
            line.show(" starting …")
        await self._ready.wait()
        logged: Mapping[str, Any] | None = None
        while True:
            began_at = trio.current_time()
            try:
                status = await self._engine.status()
            except DurableError:
                status = None  # the store is busy or full, which others say
            if status is not None:
                self._rates.add(status, trio.current_time())
                await self._say_unknown(status)
                self._say_unserved(status)
                if line is not None:
                    line.show(fitted(self._parts(status), os.get_terminal_size(sys.stdout.fileno()).columns))
                elif (counters := _counters(status)) != logged:
                    logged = counters
                    self._display.say(Line("runs", _counters_text(counters), dict(counters)))
            interval = _STATUS_SECONDS if line is not None else _COUNTERS_SECONDS
            spent = trio.current_time() - began_at
            await trio.sleep(max(interval, spent / _LOOKING_SHARE))

    async def _say_unknown(self, status: EngineStatus) -> None:
        """Say once of each workflow that has unfinished runs that nobody who serves knows it."""
        news = {name: count for name, count in status.unknown_workflows.items() if name not in self._unknown}
        if not news:
            return
        try:
            served = {name for process in await self._engine.processes() for name in process.workflows}
        except DurableError:
            return
        for name, count in news.items():
            if name not in served:
                self._unknown.add(name)
                text = (
                    f"{plural(count, 'unfinished run')} of workflow {visible(name)!r}, which nobody who serves knows. "
                )
                fields = {"workflow": name, "runs": count}
                line = Line(UNKNOWN_WORKFLOW, text + unknown_text(name), fields, level=logging.WARNING)
                self._display.say(line)

    def _say_unserved(self, status: EngineStatus) -> None:
        """Say once of each version of a workflow that has unfinished runs that nobody who serves has it."""
        for (name, version), count in status.unserved_versions.items():
            if (name, version) in self._unserved:
                continue
            self._unserved.add((name, version))
            runs = f"{plural(count, 'unfinished run')} of version {version} of workflow {visible(name)!r}"
            text = f"{runs}, which nobody who serves has. Serve code that has it, or resume them with --version"
            fields = {"workflow": name, "version": version, "runs": count}
            self._display.say(Line("unserved_version", text, fields, level=logging.WARNING))

    def _parts(self, status: EngineStatus) -> list[str]:
        """Return what the status line shows, what matters most first."""
        parts = []
        workers = list(worker_nodes(self._engine.tree()))
        if workers:
            alive = sum(node.status is ChildStatus.RUNNING for node in workers)
            parts.append(f"{alive}/{len(workers)} workers")
        if self._log.restart_count:
            parts.append(f"restarted {self._log.restart_count}×")
        counts = status.runs_by_status
        parts += [f"{counts.get(name, 0):,} {name.value}" for name in (RunStatus.RUNNING, RunStatus.SUSPENDED)]
        if status.parked:
            parts.append(f"{len(status.parked):,} parked")
        if counts.get(RunStatus.PENDING):
            parts.append(f"{counts[RunStatus.PENDING]:,} {RunStatus.PENDING.value}")
        parts.append(f"{self._rates.steps:,.0f} steps/s")
        parts.append(f"{self._rates.runs:,.0f} runs/s")
        if counts.get(RunStatus.COMPENSATING):
            parts.append(f"{counts[RunStatus.COMPENSATING]:,} compensating")
        parts += [f"{counts[name]:,} {name.value}" for name in RunStatus if name.is_final and counts.get(name)]
        return parts

    # ---- the tree ------------------------------------------------------------------------------------------------

    async def draw_tree(self) -> None:
        """Print the tree once it is up, and again after it has changed."""
        if not self._display.draws_tree:
            return
        await self._ready.wait()
        drawn = None
        while True:
            tree = await self._whole_family()
            if (shape := shape_of(tree)) != drawn:
                drawn = shape
                _print_tree(tree, find_screen(), is_error=False)
            await trio.sleep(_TREE_SECONDS)

    async def answer(self, signals: AsyncIterator[int]) -> None:
        """Do what signals ask for: print the tree to standard error, or reload."""
        async for os_signal in signals:
            if os_signal in _TREE_SIGNALS:
                await self._draw_tree_once()
            else:
                await self._ready.wait()  # the workers may have begun with what was there before
                self._reload()

    def _reload(self) -> None:
        if not self._engine._serving.ask_reload():
            self._display.say(Line("reload_failed", _RESTART, {"reason": _RESTART}, logging.ERROR))

    async def _draw_tree_once(self) -> None:
        if not self._ready.is_set():
            self._display.say(Line("starting", "there is no tree yet: the server is starting"))
            return
        tree = await self._whole_family()
        screen = Screen(is_cut=False, is_unicode=is_unicode(sys.stderr))
        if self._display.is_json:
            self._display.say(Line("tree", "the supervision tree", {"tree": "\n".join(tree_lines(tree, screen))}))
        else:
            _print_tree(tree, screen, is_error=True)

    async def _whole_family(self) -> TreeNode:
        """Return the tree once those of the workers that have just begun are there as well."""
        tree = await self._family()
        with trio.move_on_after(_TREE_COMPLETE_SECONDS):
            while any(node.status is ChildStatus.RUNNING and not node.children for node in worker_nodes(tree)):
                await trio.sleep(_TREE_SECONDS / 10)  # it is in the store that they say so
                tree = await self._family()
        return tree

    async def _family(self) -> TreeNode:
        """Return this process's tree as it is now, with those of its workers as they were when they last changed."""
        own = attrs.evolve(self._engine.tree(), pid=os.getpid())
        if not any(True for _ in worker_nodes(own)):
            return own
        try:
            roots = await self._engine.trees()
        except DurableError:
            return own
        below = {root.pid: root.children for root in roots}  # where the parent's report is older than the worker
        below.update((node.pid, node.children) for root in roots for node in worker_nodes(root) if node.children)
        return _with_workers(own, below)


def _with_workers(node: TreeNode, below: Mapping[int | None, tuple[TreeNode, ...]]) -> TreeNode:
    if node.kind is NodeKind.PROCESS:
        return attrs.evolve(node, children=below.get(node.pid, ()))
    return attrs.evolve(node, children=tuple(_with_workers(child, below) for child in node.children))


def _print_tree(tree: TreeNode, screen: Screen, *, is_error: bool) -> None:
    with suppress(OSError, ReaderGone):  # nobody reads it
        write_lines(tree_lines(tree, screen), is_error=is_error)


def _counters(status: EngineStatus) -> dict[str, int]:
    counts = {name.value: status.runs_by_status.get(name, 0) for name in RunStatus}
    return {**counts, "parked": len(status.parked), "unfinished": unfinished_count(status)}


def _counters_text(counters: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counters.items() if count) or "no runs yet"


@contextmanager
def _overheard(signals: tuple[signal.Signals, ...], told: Callable[[int], None]) -> Iterator[None]:
    """Call ``told`` at each of these signals, beside whoever handles them now."""
    token = trio.lowlevel.current_trio_token()
    before = {signum: signal.getsignal(signum) for signum in signals}

    def hear(signum: int, frame: FrameType | None) -> None:
        token.run_sync_soon(told, signum)
        handler = before[signal.Signals(signum)]
        if callable(handler):
            handler(signum, frame)

    for signum in signals:
        signal.signal(signum, hear)
        reset_after_first(signum)
    try:
        yield
    finally:
        for signum in signals:
            if signal.getsignal(signum) is hear:  # else the engine has put back what there was before it
                signal.signal(signum, before[signum])
