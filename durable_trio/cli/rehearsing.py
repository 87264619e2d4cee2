"""A rehearsal in a process of its own, watched from here.

Bodies run there, and one that keeps the event loop for itself keeps it from all others: then the process is killed,
and what it had in hand is done again, each run alone. Only one that stands still by itself is a fault; the others were
late through no fault of theirs. What stands still is told by what the process says, never by how long a run takes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs

from durable_trio.cli.client import check_database
from durable_trio.cli.faults import Failed
from durable_trio.rehearsal.judged import Groups, Judged
from durable_trio.rehearsal.messages import BEAT_SECONDS, from_line, judged_from, to_line
from durable_trio.rehearsal.records import Rehearsal, Verdict
from durable_trio.rehearsal.stage import AT_ONCE
from durable_trio.serving.app import environment_of_child
from durable_trio.stores.address import without_password
from durable_trio.stores.kinds import readable

__all__ = ["rehearse"]

_READ_BYTES: Final = 1 << 16
# Runs that one request names.
_REQUEST_RUNS: Final = 5000
# Where so many have been found to stand still, the next one there is given less time.
_KNOWN: Final = 3
_KNOWN_SECONDS: Final = 1.0
_EXIT_SECONDS: Final = 5.0


@attrs.define(kw_only=True)
class _Halted(Exception):
    """The process has come to an end: it stood still and was killed, or it has died. ``text`` is what is known."""

    verdict: Verdict
    cause: str
    text: str


def _stands_still(place: str | None, stack: str) -> _Halted:
    return _Halted(
        verdict=Verdict.STALLS,
        cause=f"blocks the event loop at {place or 'an unknown place'}",
        text=f"the body keeps the event loop for itself, and no other run goes on meanwhile:\n{stack}",
    )


def rehearse(
    app: str,
    database: str,
    *,
    workflow: str | None,
    sample: int | None,
    patience_seconds: float,
    progress: Callable[[int, int], object],
) -> tuple[str, Rehearsal]:
    """Rehearse the unfinished runs of a database with an application, and return where it is and what was found.

    Args:
        app: ``module:engine``, which can be imported with the paths of this process.
        database: a path or a URL; empty: that of the engine.
        patience_seconds: how long the loop of the process may stand still.
        progress: told how many runs are done, of how many.

    Raises:
        Failed: the application cannot be imported, or the process dies.
        DurableError: the database cannot be read.
    """
    if database:
        check_database(database)
    child = _Child(app, patience_seconds)
    try:
        child.start()
        address = database or child.database
        if not address:
            raise Failed(f"the engine {app!r} keeps its runs in no file; name one by --db")
        check_database(address)
        with readable(address) as copy:
            return without_password(address), _Rehearsing(child, copy, progress).run(workflow, sample)
    finally:
        child.kill()


class _Rehearsing:
    """One rehearsal, through as many processes as it takes."""

    def __init__(self, child: _Child, database: str, progress: Callable[[int, int], object]) -> None:
        self._child = child
        self._database = database
        self._progress = progress
        self._groups = Groups()
        self._is_new = True
        self._found: Counter[str] = Counter()  # at which places runs have stood still
        self._done = 0
        self._total = 0

    def run(self, workflow: str | None, sample: int | None) -> Rehearsal:
        """Rehearse them all."""
        (runs,) = (found["runs"] for found in self._ask({"list": {"workflow": workflow, "sample": sample}}, "runs"))
        self._total = len(runs)
        for start in range(0, len(runs), _REQUEST_RUNS):
            left = runs[start : start + _REQUEST_RUNS]
            while left:
                left = self._rehearse(left)
        return self._groups.rehearsal()

    def _rehearse(self, runs: Sequence[int]) -> list[int]:
        """Rehearse some runs, and return those that are left because the process stood still meanwhile."""
        left, in_hand = dict.fromkeys(runs), set[int]()
        try:
            request = {"rehearse": list(runs), "at_once": AT_ONCE}
            for message in self._ask(request, "done", is_enough=lambda: not left):
                if "begins" in message:
                    in_hand.add(message["begins"])
                elif "told" in message:
                    in_hand.discard(message["told"])
                    if message["told"] in left:
                        del left[message["told"]]
                        self._take(judged_from(message["judged"]))
        except _Halted as halted:
            if not in_hand:
                raise Failed(f"the rehearsal has come to an end, and no run is to blame: {halted.cause}") from halted
            for run in sorted(in_hand):
                del left[run]
                self._alone(run)
        return list(left)

    def _alone(self, run: int) -> None:
        """Rehearse a run with nobody beside it."""
        is_known = bool(self._found) and max(self._found.values()) >= _KNOWN
        begun: dict[str, Any] = {}
        try:
            request = {"rehearse": [run], "at_once": 1}
            for message in self._ask(request, "done", patience_seconds=_KNOWN_SECONDS if is_known else None):
                if "begins" in message:
                    begun = message
                elif "told" in message:
                    begun = {}
                    self._take(judged_from(message["judged"]))
        except _Halted as halted:
            if not begun:  # it is judged, or has ended meanwhile
                return
            self._found[halted.cause] += 1
            self._take(
                Judged(
                    run=run,
                    run_id=begun["run_id"],
                    workflow=begun["workflow"],
                    version=begun["version"],
                    verdict=halted.verdict,
                    cause=halted.cause,
                    text=halted.text,
                    is_executing=begun["is_executing"],
                )
            )

    def _take(self, judged: Judged | None) -> None:
        self._done += 1
        if judged is not None:
            self._groups.add(judged)
        self._progress(self._done, self._total)

    def _ask(
        self,
        request: dict[str, Any],
        last: str,
        *,
        patience_seconds: float | None = None,
        is_enough: Callable[[], bool] = bool,
    ) -> Iterator[dict[str, Any]]:
        """Yield the answers to a request until the one that has ``last``, in another process if this one has ended."""
        if self._child.is_over:
            self._child.start()
            self._is_new = True
        if self._is_new:
            self._is_new = False
            for _ in self._child.ask({"open": self._database}, "opened"):
                pass
        yield from self._child.ask(request, last, patience_seconds=patience_seconds, is_enough=is_enough)


class _Child:
    """The process that rehearses."""

    def __init__(self, app: str, patience_seconds: float) -> None:
        self._app = app
        self._patience_seconds = patience_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._descriptor = -1
        self._read = b""
        self._turns = -1
        self.database = ""

    @property
    def is_over(self) -> bool:
        """Whether it was killed."""
        return self._process is None

    def start(self) -> None:
        """Start it, and wait until it has imported the application."""
        self._descriptor, other = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "durable_trio.rehearsal", self._app, str(other)],
                stdin=subprocess.PIPE,
                stdout=sys.stderr.fileno() if _has_descriptor() else subprocess.DEVNULL,
                env=environment_of_child(),
                pass_fds=[other],
                start_new_session=True,  # Ctrl-C at the terminal is for this process
            )
        finally:
            os.close(other)
        self._read = b""
        try:
            for message in self._messages("ready", patience_seconds=None):  # an import takes the time it takes
                self.database = message.get("database", self.database)
        except _Halted as halted:
            raise Failed(f"{self._app!r} cannot be imported: {halted.text}") from halted

    def kill(self) -> None:
        """End it at once: it has nothing to lose."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        os.close(self._descriptor)

    def ask(
        self,
        request: dict[str, Any],
        last: str,
        *,
        patience_seconds: float | None = None,
        is_enough: Callable[[], bool] = bool,
    ) -> Iterator[dict[str, Any]]:
        """Yield the answers to a request; once they are enough, the process is killed if it does not come to an end.

        So it is where a body does not leave, which is cancelled, and keeps that off.

        Raises:
            _Halted: the loop has not turned for too long, and the process was killed; or it has died.
            Failed: it could not do it.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_line(request))
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        patience_seconds = patience_seconds or self._patience_seconds
        yield from self._messages(last, patience_seconds=patience_seconds, is_enough=is_enough)

    def _messages(
        self, last: str, *, patience_seconds: float | None, is_enough: Callable[[], bool] = bool
    ) -> Iterator[dict[str, Any]]:
        """Yield what it says until ``last``. Looks are counted, not seconds: this process may be late itself."""
        looks = idle = 0
        still = _stands_still(None, "it does not let Python go on, so nothing tells where it is")
        while True:
            message = self._next()
            if message is None or "beat" in message:
                has_turned = message is not None and message["beat"] != self._turns
                if message is not None:
                    self._turns = message["beat"]
                    if "stack" in message:
                        still = _stands_still(message["place"], message["stack"])
                looks = 0 if has_turned else looks + 1
                idle += 1
                if patience_seconds is None:
                    continue
                if looks * BEAT_SECONDS > patience_seconds:
                    self.kill()
                    raise still
                if idle * BEAT_SECONDS > patience_seconds and is_enough():
                    self.kill()
                    return
                continue
            if "failed" in message:
                raise Failed(message["failed"])
            looks = idle = 0
            yield message
            if last in message:
                return

    def _next(self) -> dict[str, Any] | None:
        """Return the next message; ``None`` if there was none for twice the time in which it should tell something."""
        while b"\n" not in self._read:
            if not select.select([self._descriptor], [], [], 2 * BEAT_SECONDS)[0]:
                return None
            more = os.read(self._descriptor, _READ_BYTES)
            if not more:
                raise self._died()
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return from_line(line)

    def _died(self) -> _Halted:
        process = self._process
        assert process is not None
        with suppress(subprocess.TimeoutExpired):
            process.wait(_EXIT_SECONDS)
        code = process.returncode
        self.kill()
        how = "closed its end" if code is None else f"exited with {code}" if code >= 0 else f"died of signal {-code}"
        text = f"the process that rehearses {self._app!r} {how}"
        return _Halted(verdict=Verdict.RAISES, cause=f"the process {how}", text=text)


def _has_descriptor() -> bool:
    try:
        sys.stderr.fileno()
    except OSError:
        return False
    return True
