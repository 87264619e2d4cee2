"""Many runs on a family of workers of which one is killed every moment, and what must be so when it is over."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from tests.engine.workers.kit import Scene, Server, kill

WORKFLOW: Final = "sequence"
# Runs are asked for by so many callers at once.
_CALLERS: Final = 64


@attrs.define(kw_only=True)
class Storm:
    """What to do, and what was done. ``killed`` has when each worker was killed, in microseconds UTC."""

    runs: int = 2000
    steps: int = 5
    step_seconds: float = 0.005
    workers: int = 4
    interval_seconds: float = 0.3
    seed: int = 1
    max_seconds: float = 120.0
    durability: str = "normal"
    killed: dict[int, int] = attrs.Factory(dict)
    seconds: float = 0.0
    repeated: int = 0
    executors: int = 0

    def __str__(self) -> str:
        rate = self.runs * self.steps / self.seconds
        return (
            f"{self.runs} runs x {self.steps} steps, {self.workers} workers: {self.seconds:.1f} s, {rate:.0f} steps/s, "
            f"{len(self.killed)} workers killed, {self.repeated} steps in flight executed again, seed {self.seed}"
        )

    async def rage(self, scene: Scene) -> None:
        """Start all runs, kill workers until all have ended, and check everything.

        Raises:
            AssertionError: something was lost, done twice, or left.
        """
        server = await scene.serving(workers=self.workers, durability=self.durability, lease_seconds=30)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_some, scene, server)
            with trio.fail_after(self.max_seconds):
                await self._ask(scene)
            nursery.cancel_scope.cancel()
        self.seconds = time.monotonic() - began
        await server.leave()
        self._check(scene)

    async def _ask(self, scene: Scene) -> None:
        limiter = trio.CapacityLimiter(_CALLERS)
        async with scene.client() as client, trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                async with limiter:
                    await client.start(WORKFLOW, self.steps, self.step_seconds, id=f"run-{number}")
                scene.logs.ack("start", f"run-{number}", workflow=WORKFLOW, args=[self.steps, self.step_seconds])
                result = await client.get(f"run-{number}").result()
                scene.logs.ack("ended", f"run-{number}", status="completed", result=result)

            for number in range(self.runs):
                nursery.start_soon(ask, number)

    async def _kill_some(self, scene: Scene, server: Server) -> None:
        chance = random.Random(self.seed)
        while True:
            await trio.sleep(self.interval_seconds)
            pids = scene.ready(server)
            if (
                len(pids) > self.workers // 2
            ):  # a slow machine may need longer to bring them back than this to kill them
                pid = chance.choice(pids)
                kill(pid, signal.SIGKILL)
                self.killed[pid] = time.time_ns() // 1000

    def _check(self, scene: Scene) -> None:
        scene.assert_sound()
        now = scene.snapshot()
        expected = sum(range(self.steps))
        wrong = {name: run["status"] for name, run in now.runs.items() if run["status"] != "completed"}
        assert not wrong, wrong
        assert len(now.runs) == self.runs
        assert {run["result"] for run in now.runs.values()} == {str(expected)}
        keys = [f"work#{number}" for number in range(self.steps)]
        for name in now.runs:
            assert [row["text"] for row in now.history[name]] == keys, f"{name}: {now.history[name]}"
        self._check_ledger(scene.ledger())

    def _check_ledger(self, ledger: list[Mapping[str, Any]]) -> None:
        """A step was executed again only if its process was killed while it was the run's step in flight."""
        executions: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
        last: dict[tuple[str, int], Mapping[str, Any]] = {}
        for line in ledger:
            executions[line["run"], line["key"]].append(line)
            last[line["run"], line["pid"]] = line
        assert len(executions) == self.runs * self.steps
        for name, lines in executions.items():
            for line in lines[:-1]:
                self.repeated += 1
                assert line["pid"] in self.killed, f"{name} was executed again, though {line['pid']} was not killed"
                assert line["at"] <= self.killed[line["pid"]], f"{name}: executed by a process that was dead"
                assert last[line["run"], line["pid"]] is line, f"{name} was executed again, and was not in flight"
        self.executors = len(Counter(line["pid"] for line in ledger))
