"""Lives through a day, a minute at a time, and judges what was noted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from day_parts import shop
from durable_trio import Clock, RunStatus

MINUTE: Final = 60.0
#: When the day begins, in the simulated time.
MORNING: Final = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
_ROOT: Final = Path(__file__).resolve().parents[2]


@attrs.define(kw_only=True)
class Day:
    """One day.

    Args:
        folder: where its database and its notes are.
        store: an address.
        workers: worker processes of each process; 0: none.
        kills: which share of the processes is killed, each at a random instant.
        faketime: the path of libfaketime, by which the processes have the simulated time; else by the engine's clock.
        is_woken: the next process begins when the one before has said, instead of each minute.
        start: what starts a process.
    """

    folder: Path
    minutes: int
    runs: int
    numbers: random.Random
    store: str
    workers: int = 0
    kills: float = 0
    faketime: str | None = None
    is_woken: bool = False
    start: Callable[..., subprocess.Popen[str]] = subprocess.Popen
    began: list[float] = attrs.Factory(list)  # of all processes, as far as they have not been killed
    killed: list[int] = attrs.Factory(list)  # their pids
    typical_seconds: float = 1.0

    @property
    def notes(self) -> Path:
        """The file of notes."""
        return self.folder / "notes"

    def environment(self, now: float) -> dict[str, str]:
        """Return the environment of a process that begins at an instant of that day."""
        path = os.pathsep.join([str(_ROOT / "scripts"), str(_ROOT), *filter(None, sys.path)])
        found = {**os.environ, "PYTHONPATH": path, "DAY_STORE": self.store, "DAY_NOTES": str(self.notes)}
        found["DAY_BEGAN"] = str(now)
        if self.faketime is None:
            return {**found, "DAY_NOW": str(now)}
        when = datetime.fromtimestamp(now).strftime("@%Y-%m-%d %H:%M:%S")
        return {**found, "LD_PRELOAD": self.faketime, "FAKETIME": when, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def live(self) -> None:
        """Live through the day."""
        with _time_is(MORNING):
            trio.run(self._start_runs)
        now, end = MORNING, MORNING + self.minutes * MINUTE
        due: float | None = now
        while now <= end or due is not None:
            due = self._serve(now, self.kills if now <= end else 0)
            if not self.is_woken:
                now += MINUTE
            elif due is None:
                break
            else:
                now = max(now + 1, due)

    def _serve(self, now: float, kills: float) -> float | None:
        """Have one process serve until it is idle; return when the next run is due."""
        argv = [sys.executable, "-m", "durable_trio", "serve", "day_parts.shop:make", "--until-idle", "--json"]
        argv += ["--workers", str(self.workers)]
        began_at = time.monotonic()
        process = self.start(
            argv,
            env=self.environment(now),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        if self.numbers.random() < kills:
            time.sleep(self.numbers.random() * 1.2 * self.typical_seconds)
            process.kill()
        out, err = process.communicate()
        if process.returncode == -9:
            self.killed.append(process.pid)
            return now
        assert process.returncode == 0, err
        self.typical_seconds = 0.8 * self.typical_seconds + 0.2 * (time.monotonic() - began_at)
        self.began.append(now)
        document = json.loads(out)
        assert document["reason"] == "idle", document
        return None if document["next_due"] is None else datetime.fromisoformat(document["next_due"]).timestamp()

    async def _start_runs(self) -> None:
        """Store all runs of the day, of which each waits for something in it."""
        numbers, seconds_max = self.numbers, 0.8 * self.minutes * MINUTE
        async with shop.make_at(self.store) as engine:
            for _ in range(self.runs):
                seconds = numbers.uniform(0, seconds_max)
                match numbers.choice(["naps", "begins", "waits", "tries"]):
                    case "naps":
                        await engine.start(shop.naps, self._naps(seconds_max))
                    case "begins":
                        at = MORNING + seconds
                        await engine.start(shop.begins, at, at=datetime.fromtimestamp(at, UTC))
                    case "waits":
                        await engine.start(shop.waits, seconds)
                    case "tries":
                        await engine.start(shop.tries, seconds / 2.5)

    def _naps(self, seconds_max: float) -> list[float]:
        """Return for how long a run sleeps, again and again: a moment, about a minute, or any time."""
        left, naps = seconds_max, list[float]()
        while left > 0 and len(naps) < 6:
            naps.append(self.numbers.choice([0.2, 59, 61, self.numbers.uniform(0, left / 2)]))
            left -= naps[-1] + MINUTE  # it may be found a minute late each time
        return naps

    # ---- judging ---------------------------------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """Return what was not as it should be."""
        return [*self._faults_of_times(), *trio.run(self._faults_of_runs)]

    def read_notes(self) -> list[dict[str, Any]]:
        """Return what was noted."""
        return [json.loads(line) for line in self.notes.read_text().splitlines()]

    def _faults_of_times(self) -> Iterator[str]:
        """Each step once, but for what a process that was killed had in hand; and within its minute."""
        notes, killed = self.read_notes(), set(self.killed)
        by_attempt = defaultdict(list)
        for line in notes:
            by_attempt[line["run"], line["key"], line["attempt"]].append(line)
        for which, lines in by_attempt.items():
            last = lines[-1]
            if any(line["pid"] not in killed for line in lines[:-1]):
                yield f"{which} was executed {len(lines)} times, and not because its process was killed"
            for line in lines:
                if line["at"] < line["due"]:
                    yield f"{which} was executed {line['due'] - line['at']:.3f} s too early"
            if last["attempt"] > 1 or (killed and not last["is_firm"]):
                continue  # when it was due depends on when the one before has failed, or on who was killed with it
            # The first process that was not killed, among those that began when it was due or after that.
            first = min((began for began in self.began if began >= last["due"] - 1), default=None)
            if first is not None and last["began"] > first and last["at"] >= first:
                times = f"due at {_clock(last['due'])}, and executed by the process of {_clock(last['began'])}"
                yield f"{which} was {times}"

    async def _faults_of_runs(self) -> list[str]:
        found = []
        async with shop.make_at(self.store) as engine:
            counts = Counter[RunStatus]((await engine.status()).runs_by_status)
            if counts != {RunStatus.COMPLETED: self.runs}:
                found.append(f"not all runs have completed: {dict(counts)}")
            for report in await engine.processes():
                found.append(f"process {report.pid} is still there")
        return found


def _clock(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%H:%M:%S")


@contextmanager
def _time_is(instant: float) -> Iterator[None]:
    """Have the engine's clock in this process show an instant of the day."""
    before = shop.CLOCK
    offset = int(instant * 1e9) - time.monotonic_ns()
    shop.CLOCK = Clock(wall=lambda: time.monotonic_ns() + offset)
    try:
        yield
    finally:
        shop.CLOCK = before
