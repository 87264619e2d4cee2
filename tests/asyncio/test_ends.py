"""Programs in asyncio that come to an end by no wish of theirs: killed, or by Ctrl-C, once and again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.asyncio.kit import Kind
from tests.engine.harness import PATIENCE_SECONDS
from tests.kit.forks import Forked, wait_for

STEPS = 6

# Each step notes that it has begun, and that it has ended; `hold` is where one of them stays for good.
PROGRAM = """
import asyncio, sys
import trio
from durable_trio import Context, workflow
from durable_trio.asyncio import from_asyncio, open_engine

path, host, grace, hold = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] == "hold"
notes = open(path + ".notes", "a", buffering=1)

async def in_trio(n):
    print("begun", n, file=notes)
    print("begun", n, flush=True)
    await trio.sleep(3600 if hold and n == 3 else 0.02)
    print("ended", n, file=notes)
    return n

async def in_asyncio(n):
    print("begun", n, file=notes)
    print("begun", n, flush=True)
    await asyncio.sleep(0.02)
    print("ended", n, file=notes)
    return n

@workflow
async def work(ctx: Context) -> list[int]:
    kinds = [("in asyncio", from_asyncio(in_asyncio)), ("in trio", in_trio)]
    return [await ctx.step(*kinds[n % 2], n) for n in range(STEPS)]

async def main():
    async with open_engine(path, workflows=[work], host=host, grace_seconds=grace) as engine:
        run = await engine.start(work, id="run")
        print("result", await run.result(), flush=True)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
""".replace("STEPS", str(STEPS))


class Program:
    """That program on one database, as one process after the other."""

    def __init__(self, folder: Path, host: Kind, *, grace: float = 10.0) -> None:
        self._path, self._host, self._grace = folder / "app.db", host, grace

    def begin(self, *, hold: bool = False) -> Forked[Any]:
        """Begin another process."""
        argv = [sys.executable, "-c", PROGRAM, str(self._path), self._host, str(self._grace), "hold" if hold else ""]
        return Forked(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def must_go_on(self) -> None:
        """Run another process to its end: all is done, and what was recorded is not done again."""
        out, err = self.begin().communicate(timeout=PATIENCE_SECONDS)
        assert f"result {list(range(STEPS))}" in out, err
        ended = self.counted("ended")
        assert set(ended) == set(range(STEPS))
        # Once more only what was in hand at an end of a process.
        assert all(count <= 2 for count in ended.values()), ended

    def counted(self, word: str) -> Counter[int]:
        """Return how often each step has begun, or ended."""
        lines = (line.split() for line in Path(f"{self._path}.notes").read_text().splitlines())
        return Counter(int(n) for said, n in lines if said == word)


@pytest.mark.parametrize("n", [2, 3])
def test_a_program_that_is_killed_goes_on(tmp_path: Path, host: Kind, n: int) -> None:
    program = Program(tmp_path, host)
    with program.begin() as process:
        wait_for(process, f"begun {n}")
        process.kill()
    program.must_go_on()
    begun = program.counted("begun")
    assert [begun[each] for each in range(STEPS) if each not in (n, n + 1)] == [1] * (STEPS - 2)


def test_ctrl_c_lets_the_step_in_hand_finish(tmp_path: Path, host: Kind) -> None:
    program = Program(tmp_path, host)
    with program.begin() as process:
        wait_for(process, "begun 2")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert out.splitlines()[-1] == "interrupted", err
    assert program.counted("begun") == program.counted("ended")
    program.must_go_on()
    assert set(program.counted("ended").values()) == {1}


def test_a_second_ctrl_c_waits_for_no_step(tmp_path: Path, host: Kind) -> None:
    """Without it this one would wait for an hour."""
    program = Program(tmp_path, host, grace=3600)
    with program.begin(hold=True) as process:
        wait_for(process, "begun 3")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert out.splitlines()[-1] == "interrupted", err
    program.must_go_on()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ctrl_c_at_any_instant_ends_it_and_loses_nothing(tmp_path: Path, host: Kind, count: int) -> None:
    dice = random.Random(count)
    program = Program(tmp_path, host, grace=0.1)
    for _ in range(3):
        with program.begin() as process:
            wait_for(process, "begun 0") if not (tmp_path / "app.db.notes").exists() else time.sleep(
                dice.uniform(0, 0.4)
            )
            for _ in range(count):
                time.sleep(dice.uniform(0, 0.05))
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_SECONDS)
    out, err = program.begin().communicate(timeout=PATIENCE_SECONDS)
    assert f"result {list(range(STEPS))}" in out, err
