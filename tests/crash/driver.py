"""Drives a campaign: starts workers on one database, kills them, restarts them until all runs have ended, and checks.

A campaign is a list of kills. Each kill is one *incarnation* of the worker, which asks for a new wave of runs and for
what its predecessors were killed before. After each death the database is compared with what it was at the one before;
at the end the checker holds it against the logs, and a second recovery must find nothing to do.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import attrs

from durable_trio.testing.checker import Snapshot, Violation, compare, read_lines, reference_key, snapshot
from tests.crash.worker import extra_waves_path
from tests.crash.zygote import Process, Zygote

#: Seconds in which a probe must be reached, and in which all runs must end once the faults stop; far above anything
#: that a busy machine needs.
PROBE_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 120.0
_WAL_HEADER_BYTES: Final = 32


@attrs.frozen(kw_only=True)
class Kill:
    """How one incarnation dies: at a probe, in the function of a step, or some seconds after its start."""

    probe: str | None = None
    count: int = 1
    in_effect: str | None = None
    after_seconds: float | None = None
    torn: bool = False  # then half a frame is appended to the log, as an interrupted write would leave it
    pause_seconds: float = 0.0  # until the next incarnation

    def __str__(self) -> str:
        if self.probe is not None:
            return f"{self.probe} (time {self.count})"
        if self.in_effect is not None:
            return f"in the function of step {self.in_effect!r}"
        return f"after {self.after_seconds:.3f} s"


@attrs.define(kw_only=True)
class Result:
    """What a campaign has found."""

    violations: list[str] = attrs.Factory(list)
    counters: Counter[str] = attrs.Factory(Counter)
    seconds: float = 0.0


class Campaign:
    """One database, its logs, and all that happens to it.

    Args:
        directory: empty; the logs are there, and the file.
        url: of a schema that is new, in place of a file.
        hosts: names of ``HOSTS``: the engines of its processes run there, in turns.
        during: around the life of each incarnation that is killed, from when it has been started.
    """

    def __init__(
        self,
        zygote: Zygote,
        directory: Path,
        *,
        seed: int = 1,
        has_client: bool = False,
        durability: str = "normal",
        planted: str | None = None,
        only: Sequence[str] = (),
        reference: dict[str, Any] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        url: str | None = None,
        hosts: Sequence[str] = ("trio",),
        during: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / "app.db"
        self.url = url
        self.address = url or self.path
        self.result = Result()
        self._zygote = zygote
        self._random = random.Random(seed)
        self._planted = planted
        self._reference = reference
        self._settle_seconds = settle_seconds
        self._during = during
        self._hosts = itertools.cycle(hosts)
        self._wave = -1
        self._client: Process | None = None
        self._before: Snapshot | None = None
        self._spec: dict[str, Any] = {
            "directory": str(directory),
            "url": url,
            "durability": durability,
            "only": list(only),
            "has_client": has_client,
            "planted": planted,
        }

    # ---- all of it -----------------------------------------------------------------------------------------------

    def run(self, kills: Iterable[Kill]) -> Result:
        """Do it all, and return what was found. Without kills it is one wave without faults."""
        began = time.monotonic()
        kills = tuple(kills)
        try:
            if not kills:
                self._next_wave()
            for kill in kills:
                if not self._die(kill):
                    break
            if not self.result.violations:
                self._settle()
        finally:
            if self._client is not None:
                self._client.kill()
                self._client.close()
                self._client = None
            self.result.seconds = time.monotonic() - began
        return self.result

    def _found(self, violations: Iterable[Violation | str]) -> None:
        self.result.violations += [str(violation) for violation in violations]

    # ---- incarnations ----------------------------------------------------------------------------------------------

    def _spawn(self, **fields: Any) -> Process:
        done = [line["run"] for line in self._acks() if line["kind"] == "ended"]
        resumed = {line["run"] for line in self._acks() if line["kind"] in ("resume", "delete")}
        spec = {
            **self._spec,
            "role": "worker",
            "host": next(self._hosts),
            "seed": self._random.randrange(1 << 30),
            "wave": self._wave,
            "done": sorted(set(done) - resumed),
            "extra_waves": self._extra_waves(),
            **fields,
        }
        return self._zygote.spawn(spec)

    def _next_wave(self) -> None:
        self._wave += 1
        if not self._spec["has_client"]:
            return
        if self._client is None:
            self._client = self._zygote.spawn(
                {**self._spec, "role": "client", "host": next(self._hosts), "seed": self._wave}
            )
            self._client.wait_for("ready", PROBE_SECONDS)
        self._client.send(wave=self._wave)

    def _die(self, kill: Kill) -> bool:
        """Have one incarnation die; return whether it has died as it should."""
        self._next_wave()
        worker = self._spawn(kill_at=kill.probe, count=kill.count, kill_in_effect=kill.in_effect)
        try:
            if kill.after_seconds is not None:
                with self._during():
                    time.sleep(kill.after_seconds)
                    worker.kill()
            else:
                with self._during():
                    code = worker.wait_dead(PROBE_SECONDS)
                if code != -signal.SIGKILL:
                    self._found([f"the worker ended with {code} instead of being killed at {kill}: {self._output()}"])
        except TimeoutError:
            self._found([f"the worker did not reach {kill} within {PROBE_SECONDS:g} s"])
            worker.kill()
        finally:
            worker.close()
        if kill.probe is not None:
            self.result.counters["probes"] += 1
        self.result.counters["kills"] += 1
        self._look_at_log(kill)
        if self._look_at_rows() is not None:
            self.check()
        if kill.pause_seconds:
            time.sleep(kill.pause_seconds)
        return not self.result.violations or self._planted is not None

    def _settle(self) -> None:
        """Let all runs end, check everything, and let the worker recover once more."""
        worker = self._spawn(settle=True)
        try:
            message = worker.wait_for("settled", self._settle_seconds)
            if message is None:
                self._found([f"point 14: the last worker ended by itself: {self._output()}"])
            elif (code := worker.wait_dead(PROBE_SECONDS)) != 0:
                self._found([f"the last worker ended with {code}: {self._output()}"])
        except TimeoutError:
            self._found([f"point 14: not all runs have ended within {self._settle_seconds:g} s"])
            worker.kill()
        finally:
            worker.close()
        if self._client is not None:
            code = self._client.hang_up()
            self._client = None
            if code:
                self._found([f"the client ended with {code}: {self._output()}"])
        settled = self._look_at_rows()
        self.check(all_ended=True, stopped=True)
        self._recover_once_more(settled)

    def _recover_once_more(self, settled: Snapshot | None) -> None:
        worker = self._spawn(plain=True)
        worker.wait_for("ready", PROBE_SECONDS)
        time.sleep(0.05)
        worker.kill()
        worker.close()
        again = snapshot(self.address)
        if settled is not None and again.without_executors() != settled.without_executors():
            self._found(["point 12: a second recovery has changed something"])

    # ---- looking ---------------------------------------------------------------------------------------------------

    def _acks(self) -> list[Any]:
        return list(read_lines(self.directory / "acks.jsonl"))

    def _extra_waves(self) -> list[int]:
        path = extra_waves_path(self.directory)
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def _output(self) -> str:
        path = self.directory / "output.txt"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def _look_at_log(self, kill: Kill) -> None:
        wal = self.path.with_name("app.db-wal")
        if self._client is not None or not wal.exists() or wal.stat().st_size <= _WAL_HEADER_BYTES:
            return
        self.result.counters["log recovered"] += 1
        if kill.torn:
            with wal.open("r+b") as file:
                data = file.read()
                file.write(data[_WAL_HEADER_BYTES : _WAL_HEADER_BYTES + 1500])  # a frame with the checksum of another
            self.result.counters["torn log recovered"] += 1

    def _look_at_rows(self) -> Snapshot | None:
        """Compare the rows with those at the death before; count what happened in between."""
        if self.url is None and not self.path.exists():
            return None
        try:
            now = snapshot(self.address)
        except Exception as error:  # killed before the tables were there
            if self._before is not None:
                self._found([f"the database cannot be read: {error}"])
            return None
        before, self._before = self._before, now
        if before is not None:
            excused = {line["run"] for line in self._acks() if line["kind"] in ("resume", "delete")}
            self._found(compare(before, now, excused=excused))
            self.result.counters.update(_what_happened(before, now))
        return now

    def check(self, *, all_ended: bool = False, stopped: bool = False) -> None:
        """Have the checker look at the database, in a process of its own."""
        (self.directory / "report.json").unlink(missing_ok=True)
        checker = self._zygote.spawn(
            {
                "role": "checker",
                "directory": str(self.directory),
                "url": self.url,
                "reference": self._reference if all_ended else None,
                "all_ended": all_ended,
                "stopped": stopped,
            }
        )
        code = checker.wait_dead(PROBE_SECONDS)
        checker.close()
        if code:
            self._found([f"the checker ended with {code}: {self._output()}"])
            return
        report = json.loads((self.directory / "report.json").read_text())
        self._found(Violation(*found) for found in report["violations"])
        if all_ended:  # they count all there is, not what is new
            self.result.counters.update(report["counters"])

    def reference(self) -> dict[str, Any]:
        """Return the results of this campaign as the reference for others; it had no kills."""
        rows = snapshot(self.address).runs.values()
        return {
            reference_key(row["workflow"], row["args"]): [row["status"], json.loads(row["result"] or "null")]
            for row in rows
        }

    def clear(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _what_happened(before: Snapshot, now: Snapshot) -> Counter[str]:
    """Count what shows that the kills have hit something worth hitting."""
    found: Counter[str] = Counter()
    interrupted = 0
    for name, old in before.runs.items():
        new = now.runs.get(name)
        if new is None or old["finished_at"] is not None:
            continue
        rows = now.history.get(name, ())
        old_rows = before.history.get(name, ())
        if old["owner"] is not None and len(rows) == len(old_rows) and new["finished_at"] is None:
            interrupted += 1
        if old["status"] == "compensating" and len(rows) > len(old_rows):
            found["compensation resumed"] += 1
        keys = {row["text"]: row for row in rows}
        for wait in before.waits.get(name, ()):
            later = keys.get(wait["text"])
            if wait["kind"] == "retry" and later is not None and later["attempt"] > wait["attempt"]:
                found["retry continued"] += 1
            if wait["kind"] == "signal" and later is not None and later["kind"] == "signal":
                found["wait for a signal continued"] += 1
                is_late = wait["due_at"] is not None and later["finished_at"] >= wait["due_at"]
                if is_late and later["status"] == "completed":
                    found["timer and signal past due"] += 1
    if interrupted:
        found["recovery interrupted"] += 1
    return found
