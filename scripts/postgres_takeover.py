"""Measures how soon the runs of a dead process go on on another machine, and how several share the work.

    python scripts/postgres_takeover.py [--times N] [--lease SECONDS] [--only takeover|growth]

On a private PostgreSQL server, with two machines (``demo_parts.network``: network namespaces where that is allowed,
else there is no cable to pull). Of one of them the process is killed, the cable pulled, or the process stopped, in
turns; it is measured until each run that it owned has committed another step elsewhere. Then 1, 2 and 4 processes
execute the same runs, whose steps compute for a millisecond: steps per second. The exit code is 1 where a bar is
missed: 2 s after kill -9, 12 s after a pulled cable, the lease for a stopped process. An executor's last renewal may
have been seen a look after the process has stopped, which is what is granted beyond the lease.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio
from demo_parts.children import end_with_parent, open_process
from demo_parts.database import Database, open_database
from demo_parts.ledger import Ledger
from demo_parts.network import NETWORK, Machine, enter_namespace, open_machines

from durable_trio import Context, Engine, workflow

LEASE_SECONDS: Final = 30.0  # the default, so that what is sooner is not due to it
RUNS: Final = 8
STEP_SECONDS: Final = 0.02
LOOK_SECONDS: Final = 0.02
# From a renewal to the look that sees it, from the end of the lease to the look after it, and what a step takes.
GRANTED_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 120.0
STEPS_PER_RUN: Final = 5


async def pause(seconds: float) -> None:
    await trio.sleep(seconds)


async def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    await trio.lowlevel.checkpoint()


@workflow
async def ticks(ctx: Context) -> None:
    """Go on until cancelled, in new generations, so that no history grows long."""
    for _ in range(200):
        await ctx.step("tick", pause, STEP_SECONDS)
    await ctx.continue_as_new()


@workflow
async def steps(ctx: Context) -> None:
    for _ in range(STEPS_PER_RUN):
        await ctx.step("one", compute, 0.001)


@asynccontextmanager
async def open_server(url: str, lease: float, prefix: Sequence[str] = ()) -> AsyncIterator[trio.Process]:
    """Serve for the length of a block, on a machine."""
    command = [*prefix, sys.executable, __file__, "--serve", url, str(lease)]
    async with open_process(command, stderr=subprocess.DEVNULL) as process:  # it says who has died
        yield process


# ---- takeover ----------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Station:
    """A machine, and the process that serves there."""

    machine: Machine
    url: str
    process: trio.Process = attrs.field(init=False)
    _stack: AsyncExitStack = attrs.Factory(AsyncExitStack)

    async def start(self, lease: float) -> None:
        self.process = await self._stack.enter_async_context(open_server(self.url, lease, self.machine.prefix))

    async def stop(self) -> None:
        await self._stack.aclose()
        self._stack = AsyncExitStack()


async def kill(station: Station) -> None:
    station.process.kill()
    await station.process.wait()


async def stop(station: Station) -> None:
    station.process.send_signal(signal.SIGSTOP)
    await trio.lowlevel.checkpoint()


async def go_on(station: Station) -> None:
    station.process.send_signal(signal.SIGCONT)
    await trio.lowlevel.checkpoint()


async def pull(station: Station) -> None:
    await station.machine.cut()


async def plug(station: Station) -> None:
    await station.machine.mend()


@attrs.frozen(kw_only=True)
class Case:
    """One way to die, how that is undone, and what is promised."""

    name: str
    strike: Callable[[Station], Awaitable[None]]
    undo: Callable[[Station], Awaitable[None]] | None  # None: another process is started
    seconds_max: float
    lease: float = LEASE_SECONDS


async def executor_of(ledger: Ledger, process: trio.Process, after: int = 0) -> int:
    """Return the executor that a process is, once it is one, of those after another."""
    query = "SELECT id FROM executors WHERE pid = ? AND id > ? AND ended_at IS NULL"
    while not (found := ledger.ask(query, process.pid, after)):  # noqa: ASYNC110  # nobody tells
        await trio.sleep(LOOK_SECONDS)
    return int(found[0][0])


async def measure(case: Case, stations: Sequence[Station], ledger: Ledger) -> float:
    """Strike whoever has runs, and return after how many seconds all of them have gone on elsewhere."""
    executors = [await executor_of(ledger, station.process) for station in stations]
    query = "SELECT owner, count(*) FROM runs WHERE owner = ANY(?) GROUP BY owner"
    while sum((owned := dict(ledger.ask(query, executors))).values()) < RUNS:  # noqa: ASYNC110  # nobody tells
        await trio.sleep(LOOK_SECONDS)
    victim, executor = max(zip(stations, executors, strict=True), key=lambda pair: owned.get(pair[1], 0))
    began = time.perf_counter()
    await case.strike(victim)
    runs = [run for (run,) in ledger.ask("SELECT run FROM runs WHERE owner = ?", executor)]
    assert runs, "it had nothing to do"
    # A claim gives a run another token, and what is committed after it another history or generation.
    query = "SELECT run, owner, (generation, (SELECT count(*) FROM history WHERE run = runs.run))::text FROM runs"
    seen: dict[int, str] = {}
    waiting = set(runs)
    while waiting:
        for run, owner, state in ledger.ask(f"{query} WHERE run = ANY(?)", list(waiting)):
            if owner not in (None, executor) and seen.setdefault(run, state) != state:
                waiting.discard(run)
        await trio.sleep(LOOK_SECONDS)
    seconds = time.perf_counter() - began
    if case.undo is None:
        await victim.stop()
        await victim.start(case.lease)
    else:
        await case.undo(victim)
    await executor_of(ledger, victim.process, executor)
    return seconds


async def measure_takeover(database: Database, has_namespaces: bool, times: int, lease: float) -> bool:
    """Print a table, and return whether all bars hold."""
    cases = [Case(name="kill -9", strike=kill, undo=None, seconds_max=2.0)]
    if has_namespaces:
        cases.append(Case(name="cable pulled", strike=pull, undo=plug, seconds_max=12.0))
    cases.append(Case(name="stopped", strike=stop, undo=go_on, seconds_max=lease + GRANTED_SECONDS, lease=lease))
    print(f"takeover of {RUNS} runs, {times} times each; seconds until all of them go on on the other machine")
    print(f"  {'':<14}{'lease':>8}{'median':>8}{'max':>8}{'bar':>8}", flush=True)
    holds = True
    async with (
        open_machines(2, has_namespaces=has_namespaces) as machines,
        Engine(database.url) as client,
        AsyncExitStack() as stack,
    ):
        stations = [Station(machine, database.url_at(*await machine.reach(database.port))) for machine in machines]
        for station in stations:
            stack.push_async_callback(station.stop)
        with Ledger(database.url) as ledger:
            for number in range(RUNS):
                await client.start(ticks, id=f"run {number}")
            for case in cases:
                for station in stations:
                    await station.start(case.lease)
                seconds = [await measure(case, stations, ledger) for _ in range(times)]
                is_good = max(seconds) <= case.seconds_max
                holds = holds and is_good
                print(
                    f"  {case.name:<14}{case.lease:>8.0f}{statistics.median(seconds):>8.2f}{max(seconds):>8.2f}"
                    f"{case.seconds_max:>8.0f}{'' if is_good else '  missed'}",
                    flush=True,
                )
                for station in stations:
                    await station.stop()
            await cancel_all(client)
    return holds


async def cancel_all(client: Engine) -> None:
    """Have nobody go on with them."""
    for number in range(RUNS):
        await client.get(f"run {number}").cancel()


# ---- growth ------------------------------------------------------------------------------------------------------


async def measure_growth(database: Database, runs: int, rounds: int) -> None:
    """Print the steps per second of 1, 2 and 4 processes; they take turns, as the machine may be busy."""
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for number in range(rounds):
        for count in rates:
            rates[count].append(await steps_per_second(database, count, runs, f"{number}/{count}"))
    one = statistics.median(rates[1])
    print(f"steps of 1 ms CPU: {runs} runs of {STEPS_PER_RUN}, {rounds} rounds; steps/s of all processes together")
    for count, found in rates.items():
        spread = f"{min(found):.0f}-{max(found):.0f}"
        rate = statistics.median(found)
        print(f"  {count} process{'es' if count > 1 else '  '}{rate:>8.0f}  ({spread})  {rate / one:.2f} x", flush=True)


async def steps_per_second(database: Database, processes: int, runs: int, name: str) -> float:
    """Return how fast so many processes execute runs."""
    query = "SELECT count(*) FROM runs WHERE id LIKE ? AND finished_at IS NOT NULL"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Engine(database.url))
        ledger = stack.enter_context(Ledger(database.url))
        for _ in range(processes):
            process = await stack.enter_async_context(open_server(database.url, LEASE_SECONDS))
            await executor_of(ledger, process)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(runs):
                nursery.start_soon(partial_start, client, f"{name}/{number}")
        while ledger.ask(query, f"{name}/%")[0][0] < runs:  # noqa: ASYNC110  # a look costs less than a watch
            await trio.sleep(LOOK_SECONDS)
        return runs * STEPS_PER_RUN / (time.perf_counter() - began)


async def partial_start(client: Engine, name: str) -> None:
    await client.start(steps, id=name)


# ---- the program -------------------------------------------------------------------------------------------------


async def main(chosen: argparse.Namespace, has_namespaces: bool, folder: Path) -> bool:
    where = "network namespaces" if has_namespaces else "processes behind proxies"
    load = os.getloadavg()[0]
    python = platform.python_version()
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {load:.1f}, Python {python}, {where}")
    holds = True
    async with open_database(folder / "postgres", NETWORK if has_namespaces else "") as database:
        with trio.fail_after(PATIENCE_SECONDS + chosen.times * (2 * PATIENCE_SECONDS)):
            if chosen.only != "growth":
                holds = await measure_takeover(database, has_namespaces, chosen.times, chosen.lease)
            if chosen.only != "takeover":
                await measure_growth(database, chosen.runs, chosen.times)
    return holds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="how often each is measured (default 5)")
    parser.add_argument("--lease", type=float, default=10.0, metavar="S", help="of those that are stopped (default 10)")
    parser.add_argument("--runs", type=int, default=300, metavar="N", help="that processes share (default 300)")
    parser.add_argument("--only", choices=("takeover", "growth"), help="default both")
    return parser.parse_args()


def serve(url: str, lease: float) -> None:
    end_with_parent()
    trio.run(Engine(url, workflows=[ticks, steps], lease_seconds=lease).serve)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], float(sys.argv[3]))
        sys.exit()
    chosen = parse()
    has_namespaces = enter_namespace()
    with tempfile.TemporaryDirectory(prefix="durable_trio-takeover-") as folder:
        os.chmod(folder, 0o711)  # to the server's data in it, the user must get that the server runs as
        sys.exit(0 if trio.run(main, chosen, has_namespaces, Path(folder)) else 1)
