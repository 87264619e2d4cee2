"""A storm of which only the log is read: what has become of each run, and that it is what the file says.

Real servers with workers log JSON lines. Runs fail, expire, are parked, kill their process or block its loop, and
processes are killed from outside besides.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from durable_trio import Engine, FailureRecord, RunExpired, RunRecord, RunStatus
from tests.crash import fates_app
from tests.kit import forks

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: Far above anything that a busy machine needs.
PATIENCE_SECONDS: Final = 300
_TTL_SECONDS: Final = 3
# Shares of workflows in a storm.
SHARES: Final[Mapping[str, int]] = {
    "completes": 110,
    "failing": 25,
    "undoing_badly": 15,
    "expiring": 15,
    "poison": 12,
    "blocking": 3,
    "parking": 20,
}
#: What a record tells of a run's fate.
FATES: Final = {
    "run_failed": "failed",
    "run_expired": "expired",
    "run_set_aside": "set aside",
    "run_parked": "parked",
}
_INTENDED: Final = {
    "completes": "completed",
    "failing": "failed",
    "undoing_badly": "failed",
    "expiring": "expired",
    "poison": "set aside",
    "blocking": "set aside",
    "parking": "parked",
}


@attrs.define
class Storm:
    """What was seen of one storm: lines of the log, and records of the file."""

    lines: list[dict[str, Any]]
    records: dict[str, RunRecord]
    kills: int

    def of(self, *events: str) -> list[dict[str, Any]]:
        """Return the records of some events."""
        return [line for line in self.lines if line.get("event") in events]

    def fates(self) -> dict[str, str]:
        """Return what the log tells: of a run of which nothing is told, that it has completed."""
        told = {line["run_id"]: FATES[line["event"]] for line in self.of(*FATES)}
        return {run_id: told.get(run_id, "completed") for run_id in self.records}

    def violations(self) -> Iterator[str]:
        """Yield what is not as it should be."""
        fates = self.fates()
        for run_id, record in self.records.items():
            stored = fate_of(record)
            if stored != _INTENDED[record.workflow]:
                yield f"{run_id} is {stored}"
            if stored != fates[run_id]:
                yield f"{run_id} is {stored}, and the log tells {fates[run_id]}"
        # Who was killed as it told it has perhaps told it: then it is told again, and said that it is.
        told = Counter(line["run_id"] for line in self.of(*FATES) if not line.get("told_again"))
        for run_id, count in (told | Counter(dict.fromkeys((line["run_id"] for line in self.of(*FATES)), 1))).items():
            if count != 1:
                yield f"the fate of {run_id} is told {count} times"
        yield from self._steps()
        yield from self._deaths()

    def _steps(self) -> Iterator[str]:
        for line in self.of(*FATES):
            workflow, event = line["workflow"], line["event"]
            if workflow == "failing" and (line["step"], line["attempt"]) != ("fails#0", 3):
                yield f"{line['run_id']} is not told by its step: {line}"
            if event == "run_failed" and not line["place"].endswith(" in fails"):
                yield f"{line['run_id']} is not told by the line of the user's code: {line}"
            if event == "run_set_aside" and " step" not in line["message"]:
                yield f"{line['run_id']} is not told by where it was: {line}"
        retried = Counter((line["run_id"], line["attempt"]) for line in self.of("step_retried"))
        yield from (f"retry {which} is told {count} times" for which, count in retried.items() if count > 1)
        undone = Counter(line["run_id"] for line in self.of("compensation_failed"))
        stored = {run_id for run_id, record in self.records.items() if record.compensation_errors}
        yield from (
            f"the compensation of {run_id} is told {count} times" for run_id, count in undone.items() if count > 1
        )
        if not set(undone) <= stored:
            yield f"failed compensations are told of {set(undone) - stored}"

    def _deaths(self) -> Iterator[str]:
        told = self.of("process_died", "process_silent")
        # Who was killed as it told it has perhaps told it: then it is told again, and said that it is.
        died = Counter(line["dead_pid"] for line in told if not line.get("told_again"))
        yield from (f"the death of process {pid} is told {count} times" for pid, count in died.items() if count > 1)
        ended = {line["pid"] for line in self.of("worker_exited") if line.get("pid") and line["reason"] != "stopped"}
        if missing := ended - {line["dead_pid"] for line in told}:
            yield f"the deaths of {missing} are told by nobody but their parent"


def fate_of(record: RunRecord) -> str:
    """Return what has become of a run, as it is stored."""
    if record.problem is not None:
        return "parked"
    if record.status is not RunStatus.FAILED:
        return record.status.value
    if isinstance(record.error, RunExpired):
        return "expired"
    text = record.error.message if isinstance(record.error, FailureRecord) else str(record.error)
    return "set aside" if "was set aside" in text else "failed"


def storm(folder: Path, *, runs: int, workers: int, kills: int, seed: int) -> Storm:
    """Have a storm, and return what was seen of it."""
    dice = random.Random(seed)
    database, log = folder / "fates.db", folder / "log.json"
    names = [name for name, share in SHARES.items() for _ in range(max(1, round(share * runs / sum(SHARES.values()))))]
    dice.shuffle(names)
    with _serving(database, log, workers) as server:
        records = trio.run(_drive, database, log, names, kills, dice)
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=PATIENCE_SECONDS)
    return Storm(_lines(log), records, kills)


@contextmanager
def _serving(database: Path, log: Path, workers: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "durable_trio", "serve", "tests.crash.fates_app:engine", "--log-json"]
    surroundings = os.environ | {fates_app.DATABASE_VARIABLE: str(database), "PYTHONPATH": str(_ROOT)}
    with open(log, "wb") as said:
        process: forks.Forked[bytes] = forks.Forked(
            [*command, "--workers", str(workers)],
            cwd=_ROOT,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def _drive(database: Path, log: Path, names: list[str], kills: int, dice: random.Random) -> dict[str, RunRecord]:
    """Start all runs, kill some workers meanwhile, and return the records once each run has met its fate."""
    while not any(line.get("event") == "started" for line in _lines(log)):  # noqa: ASYNC110
        await trio.sleep(0.02)
    async with Engine(str(database)) as client:
        for number, name in enumerate(names):
            ttl = _TTL_SECONDS if name == "expiring" else None
            await client.start(name, id=f"{name}-{number}", ttl=ttl)
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                page = await client.list_runs(limit=len(names))
                records = {record.id: record for record in page.runs}
                if all(record.status.is_final or record.problem is not None for record in records.values()):
                    return records
                if kills and dice.random() < 0.2:
                    kills -= _kill_one(log, dice)
                await trio.sleep(0.1)


def _kill_one(log: Path, dice: random.Random) -> bool:
    """Kill a worker, and return whether there was one."""
    started = [line["pid"] for line in _lines(log) if line.get("event") in ("worker_started", "worker_restarted")]
    gone = {line["pid"] for line in _lines(log) if line.get("event") == "worker_exited"}
    alive = [pid for pid in started if pid not in gone]
    if not alive:
        return False
    with suppress(ProcessLookupError):
        os.kill(dice.choice(alive), signal.SIGKILL)
        return True
    return False


def _lines(log: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the log; a process that is killed may leave a part of one."""
    found = []
    for text in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                found.append(line)
    return found
