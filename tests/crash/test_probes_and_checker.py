"""The tools themselves: probes are reached where they say, and the checker is a program of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from durable_trio import Context, Engine, workflow
from durable_trio.stores.sqlite import SqliteStore
from durable_trio.testing.checker import Snapshot, check, compare, read_lines, snapshot
from durable_trio.testing.probes import KINDS, PROBES, ProbedStore
from tests.crash.driver import Campaign
from tests.crash.zygote import Zygote
from tests.kit import forks


class Killed(BaseException):
    """Stands for the death of the process."""


def die() -> None:
    """Die without killing the test."""
    raise Killed


@workflow
async def one_step(ctx: Context) -> int:
    """Do one thing."""
    return await ctx.step("one", one)


async def one() -> int:
    """Do it."""
    return 1


def test_every_kind_has_a_probe_before_and_after_and_names_are_unique() -> None:
    """``PROBES`` is complete: it follows from ``KINDS``."""
    assert len(set(PROBES)) == len(PROBES) == 2 * len(KINDS) + 2
    assert all(probe.partition(":")[2] in KINDS for probe in PROBES)


def test_an_unknown_probe_is_refused() -> None:
    """A typing error must not look like a campaign that finds nothing."""
    with pytest.raises(ValueError, match="no probe 'before:nothing'"):
        ProbedStore(SqliteStore(":memory:"), kill_at="before:nothing")


@pytest.mark.parametrize(("probe", "rows"), [("before:step", 0), ("after:step", 1)])
async def test_a_probe_kills_before_or_after_its_commit(probe: str, rows: int, tmp_path: Path) -> None:
    """Before it nothing is stored, after it everything."""
    path = tmp_path / "app.db"
    engine = Engine(ProbedStore(SqliteStore(path), kill_at=probe, kill=die), workflows=[one_step])

    async def start_one() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            await engine.start(one_step, id="run")
            await trio.sleep(10)

    with pytest.raises(BaseExceptionGroup) as caught:
        await start_one()
    assert caught.group_contains(Killed)
    assert len(snapshot(path).history.get("run", ())) == rows


@pytest.fixture
def finished(zygote: Zygote, tmp_path: Path) -> Path:
    """The directory of a campaign without faults."""
    directory = tmp_path / "campaign"
    assert Campaign(zygote, directory, only=["saga", "mail"]).run(()).violations == []
    return directory


def run_checker(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the checker as a user would."""
    return forks.run(
        [
            *(sys.executable, "-m", "durable_trio.testing.checker", str(directory / "app.db")),
            *("--acks", str(directory / "acks.jsonl"), "--ledger", str(directory / "ledger.jsonl")),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_checker_is_a_program_that_finds_what_was_acknowledged_and_is_lost(finished: Path) -> None:
    """Exit code 0 and counters; 1 and one line for each broken promise; 2 for wrong usage."""
    clean = run_checker(finished, "--all-ended", "--effects-table", "effects")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert json.loads(clean.stdout)["violations"] == 0

    with (finished / "acks.jsonl").open("a") as acks:
        acks.write('{"at": 1, "kind": "start", "run": "lost", "workflow": "saga", "args": []}\n')
        acks.write('{"at": 1, "kind": "start", "run": "cut off by the de')
    spoilt = run_checker(finished)
    assert spoilt.returncode == 1
    assert spoilt.stdout.splitlines()[0].startswith("point 1: start of run 'lost' was acknowledged")
    assert len(spoilt.stdout.splitlines()) == 2

    wrong = forks.run(
        [sys.executable, "-m", "durable_trio.testing.checker", str(finished / "no.db")],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert wrong.returncode == 2


def test_what_is_left_behind_is_found(finished: Path) -> None:
    """A process that has the file open, and a file that nobody knows."""
    assert check(finished / "app.db", stopped=True).violations == ()
    (finished / "app.db-journal.tmp").touch()
    with (finished / "app.db").open("rb"):
        found = check(finished / "app.db", stopped=True).violations
    assert [violation.point for violation in found] == [15, 15]


def doctored(now: Snapshot, run: str, **fields: Any) -> Snapshot:
    """Return a snapshot in which a run is another."""
    return Snapshot(
        runs={**now.runs, run: {**now.runs[run], **fields}},
        history=now.history,
        waits=now.waits,
        mailbox=now.mailbox,
        published=now.published,
        living=now.living,
    )


@pytest.mark.parametrize(
    ("fields", "point"),
    [({"token": 0}, 8), ({"status": "completed"}, 9), ({"error": None}, 9), ({"finished_at": 1}, 9)],
)
def test_what_must_never_change_is_compared(finished: Path, fields: dict[str, Any], point: int) -> None:
    """Tokens that fall and final states that change are found; a run that was resumed in between is excused."""
    now = snapshot(finished / "app.db")
    later = doctored(now, "0-saga-fail", **fields)

    assert compare(now, now) == []
    assert [violation.point for violation in compare(now, later)] == [point]
    assert compare(now, later, excused=["0-saga-fail"]) == []


def test_rows_that_change_or_vanish_are_found(finished: Path) -> None:
    """History is written once."""
    now = snapshot(finished / "app.db")
    rows = now.history["0-mail"]
    changed = [{**rows[0], "result": "1"}, *rows[2:]]
    later = Snapshot(
        runs=now.runs,
        history={**now.history, "0-mail": changed},
        waits=now.waits,
        mailbox=now.mailbox,
        published=now.published,
        living=now.living,
    )

    assert [violation.point for violation in compare(now, later)] == [3, 3]


def test_lines_without_end_were_told_to_nobody(tmp_path: Path) -> None:
    """A process that died while it wrote a line has told nothing."""
    path = tmp_path / "log"
    path.write_text('{"a": 1}\n{"a": ')
    assert read_lines(path) == [{"a": 1}]
    with path.open("a") as log:
        log.write('\n{"c": 3}\n')  # of the next process
    assert read_lines(path) == [{"a": 1}, {"c": 3}]
    assert read_lines(tmp_path / "none") == []
