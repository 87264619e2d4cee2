"""Measures the engine inside other loops against ``trio.run``, interleaved in one run; prints ratios and spread.

    python scripts/bench_hosts.py [--folder DIR] [--rounds N] [--json] [--hosts NAME ...]

Hosts: ``native`` (``trio.run``), ``guest`` (asyncio's own loop, trio in its thread), ``uvloop`` (the same with uvloop,
where it is installed), ``thread`` (trio in a thread of its own). Four questions, each at ``durability="full"``:

1. one sequential step, the host idle;
2. steps per second of 200 runs of 5 steps, started from the host;
3. an empty call from the host to trio and back;
4. runs of 5 steps one after the other, beside 4 tasks of the host that use a millisecond of CPU at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import attrs
import trio
from bench import machine_of, quantile_ms, sequential, short, show, summary_of

import durable_trio
import durable_trio.asyncio

RUNS: Final = 200
STEPS_PER_RUN: Final = 5
BURSTS: Final = 4
SEQUENTIAL_STEPS: Final = 200
EMPTY_CALLS: Final = 500
BUSY_TASKS: Final = 4
BUSY_SECONDS: Final = 0.001
RUNS_BESIDE_BUSY: Final = 100


def burn() -> None:
    """Use a millisecond of CPU."""
    ends_at = time.perf_counter() + BUSY_SECONDS
    while time.perf_counter() < ends_at:
        pass


class Measured(Protocol):
    """An engine and its host, of either kind, as the questions use them."""

    async def run(self, workflow: Any, *args: Any) -> Any:
        """Start a run and wait for its result."""

    async def gather(self, count: int, fn: Callable[[], Awaitable[Any]]) -> None:
        """Call ``fn`` so many times at once."""

    def busy(self) -> AbstractAsyncContextManager[None]:
        """Have tasks of the host use the CPU."""

    async def empty_call(self) -> None:
        """Go to trio and back."""


@attrs.frozen
class InTrio:
    """A native engine."""

    engine: durable_trio.Engine

    async def run(self, workflow: Any, *args: Any) -> Any:
        return await self.engine.run(workflow, *args)

    async def gather(self, count: int, fn: Callable[[], Awaitable[Any]]) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(fn)

    @asynccontextmanager
    async def busy(self) -> AsyncGenerator[None, None]:
        async with trio.open_nursery() as nursery:
            for _ in range(BUSY_TASKS):
                nursery.start_soon(self._burn)
            yield
            nursery.cancel_scope.cancel()

    async def _burn(self) -> None:
        while True:
            burn()
            await trio.lowlevel.checkpoint()

    async def empty_call(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.frozen
class InAsyncio:
    """An engine inside asyncio."""

    engine: durable_trio.asyncio.Engine

    async def run(self, workflow: Any, *args: Any) -> Any:
        return await self.engine.run(workflow, *args)

    async def gather(self, count: int, fn: Callable[[], Awaitable[Any]]) -> None:
        await asyncio.gather(*(fn() for _ in range(count)))

    @asynccontextmanager
    async def busy(self) -> AsyncGenerator[None, None]:
        tasks = [asyncio.create_task(self._burn()) for _ in range(BUSY_TASKS)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _burn(self) -> None:
        while True:
            burn()
            await asyncio.sleep(0)

    async def empty_call(self) -> None:
        await self.engine.tree()


async def figures_of(host: Measured) -> dict[str, float]:
    """Return all figures of an engine."""
    steps = await host.run(sequential, SEQUENTIAL_STEPS)
    gc.collect()
    gc.freeze()  # as a server does after its start: what is loaded is not searched for garbage again
    rates = []
    for _ in range(BURSTS):
        began = time.perf_counter()
        await host.gather(RUNS, partial(host.run, short))
        rates.append(RUNS * STEPS_PER_RUN / (time.perf_counter() - began))
    gc.unfreeze()
    calls = []
    for _ in range(EMPTY_CALLS):
        began = time.perf_counter()
        await host.empty_call()
        calls.append(time.perf_counter() - began)
    beside = []
    async with host.busy():
        for _ in range(RUNS_BESIDE_BUSY):
            began = time.perf_counter()
            await host.run(short)
            beside.append(time.perf_counter() - began)
    return {
        "step_ms_p50": quantile_ms(steps, 0.5),
        "step_ms_p99": quantile_ms(steps, 0.99),
        "steps_per_second": statistics.median(rates),
        "empty_call_ms_p50": quantile_ms(calls, 0.5),
        "busy_run_ms_p50": quantile_ms(beside, 0.5),
        "busy_run_ms_p99": quantile_ms(beside, 0.99),
    }


async def in_trio(path: str) -> dict[str, float]:
    """Return the figures of an engine that ``trio.run`` runs."""
    async with durable_trio.open_engine(path, workflows=[sequential, short]) as engine:
        return await figures_of(InTrio(engine))


async def in_asyncio(path: str, host: Literal["guest", "thread"]) -> dict[str, float]:
    """Return those of one in the loop that runs here."""
    async with durable_trio.asyncio.open_engine(path, workflows=[sequential, short], host=host) as engine:
        return await figures_of(InAsyncio(engine))


def in_uvloop(path: str) -> dict[str, float]:
    """Return those of one in a loop of uvloop's."""
    import uvloop

    return uvloop.run(in_asyncio(path, "guest"))


HOSTS: Final[dict[str, Callable[[str], dict[str, float]]]] = {
    "native": lambda path: trio.run(in_trio, path),
    "guest": lambda path: asyncio.run(in_asyncio(path, "guest")),
    "uvloop": in_uvloop,
    "thread": lambda path: asyncio.run(in_asyncio(path, "thread")),
}


def main() -> None:
    """Measure one host after the other in each round, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure; default temporary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hosts", nargs="+", choices=tuple(HOSTS), default=tuple(HOSTS))
    arguments = parser.parse_args()
    hosts = [host for host in arguments.hosts if host != "uvloop" or find_spec("uvloop")]
    results: dict[str, list[dict[str, float]]] = {host: [] for host in hosts}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for number in range(arguments.rounds):
            for host in hosts:
                found = HOSTS[host](str(Path(folder) / f"{host}{number}.db"))
                if "native" in results and host != "native":
                    found["rate_to_native"] = found["steps_per_second"] / results["native"][-1]["steps_per_second"]
                results[host].append(found)
    machine = machine_of(arguments.rounds)
    summaries = {host: summary_of(found) for host, found in results.items()}
    if arguments.json:
        print(json.dumps({"machine": machine, "results": summaries}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"n per round: {SEQUENTIAL_STEPS} steps, {BURSTS} bursts of {RUNS} runs x {STEPS_PER_RUN} steps,")
    print(
        f"{EMPTY_CALLS} empty calls, {RUNS_BESIDE_BUSY} runs beside {BUSY_TASKS} tasks x {BUSY_SECONDS * 1000:.0f} ms;"
    )
    print("median of rounds (least - most)")
    for host, summary in summaries.items():
        print(f"\n{host}")
        show(summary)


if __name__ == "__main__":
    main()
