"""Measures what stays quick under load: timers and cancels beside a flood of starts; questions to a large file.

python scripts/overload.py [--starts 30000]      by four client processes, beside 100 timers and 100 cancels
python scripts/overload.py --finished 1000000    lists, counts and a wake-up, with so many runs that have ended
"""

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

import durable_trio
from durable_trio import Context, Engine, open_engine, workflow

FILL = """
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
    INSERT INTO runs (id, workflow, status, changed, queue, created_at, started_at, finished_at, parent_id, seed,
        args_digest, tags, args, result)
    SELECT 'ended-' || n, 'w' || (n % 20), iif(n % 50, 'completed', 'failed'), 100 + n, 'q' || (n % 7), 1000000 + n,
        1000000 + n, 2000000 + n, 'p' || (n % 1000), x'', x'', '{"t": "' || (n % 100) || '"}', '[]', '1' FROM number
"""
LIVE = ["pending", "running", "suspended", "compensating"]
Filter = dict[str, Any]
Call = Callable[[], Awaitable[object]]
STATUSES: list[Filter] = [{}, {"status": "completed"}, {"status": "failed"}, {"status": "cancelled"}, {"status": LIVE}]
OTHERS: list[Filter] = [{}, {"workflow": "w3"}, {"workflow": "nobody"}, {"queue": "q3"}, {"queue": "nobody"}]
OTHERS += [{"tags": {"t": "50"}}, {"tags": {"t": "nobody"}}, {"parent": "p7"}, {"workflow": "w10", "tags": {"t": "50"}}]
SORTED: list[Filter] = [{"tags": {"t": "50"}}, {"tags": {"t": "51"}}, {"workflow": "w10", "status": "failed"}]
SORTED += [{"tags": {"t": "50"}, "status": "failed"}, {"tags": {"t": "50"}, "status": "completed"}]


@workflow
async def job(ctx: Context) -> None:
    await ctx.step("step", trio.sleep, 0)


@workflow
async def timer(ctx: Context, due: float) -> float:
    await ctx.sleep(due - time.time())
    return time.time() - due


@workflow
async def waiter(ctx: Context) -> None:
    await ctx.wait_signal("go")


def show(name: str, times: list[float]) -> None:
    p50, p99 = (sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1000 for part in (0.5, 0.99))
    print(f"{name:65} p50 {p50:7.1f}  p99 {p99:7.1f}  most {max(times) * 1000:7.1f} ms  n {len(times)}", flush=True)


async def timed(times: list[float], call: Call) -> None:
    began = time.monotonic()
    await call()
    times.append(time.monotonic() - began)


async def start_many(path: str, count: int) -> None:
    async with Engine(path, durability="normal") as engine:
        limiter = trio.CapacityLimiter(50)

        async def start() -> None:
            async with limiter:
                await engine.start("job")

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(start)


async def flood(path: str, starts: int) -> None:
    late, cancels = list[float](), list[float]()

    async def look(number: int) -> None:
        run = await engine.start(waiter)
        late.append(await engine.run(timer, time.time() + 2 + number * 0.05))
        await timed(cancels, partial(run.cancel, wait=True))

    opened = open_engine(path, workflows=[job, timer, waiter], durability="normal")
    async with opened as engine, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(look, number)
        for _ in range(4 if starts else 0):
            command = [sys.executable, __file__, "--client", path, "--starts", str(starts // 4)]
            nursery.start_soon(trio.run_process, command)
    show(f"beside {starts} starts: timers late", late)
    show(f"beside {starts} starts: cancels", cancels)


async def ask(path: str, finished: int) -> None:
    async with open_engine(path, workflows=[waiter], durability="normal") as engine:
        connection = engine.connect()
        connection.execute(FILL, (finished,))
        connection.execute("UPDATE change_counter SET changed = changed + ?", (200 + finished,))
        connection.commit()
        connection.close()
        filters = [{**first, **second} for first, second in itertools.product(OTHERS, STATUSES)]
        filters += [{**first, "sort": sort} for first, sort in itertools.product(SORTED, ("changed", "ended"))]
        calls: dict[str, Call] = {str(which): partial(engine.list_runs, **which, limit=50) for which in filters}
        for name, call in (*calls.items(), ("status()", engine.status)):
            times = list[float]()
            for _ in range(7):
                await timed(times, call)
            show(name, times)

        async def keep_asking() -> None:
            for call in itertools.cycle(calls.values()):
                await call()

        wakes = list[float]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_asking)
            for _ in range(10):
                run = await engine.start(waiter)
                await trio.sleep(0.1)
                await run.signal("go")
                await timed(wakes, run.result)
            nursery.cancel_scope.cancel()
        show("a signal's result, beside a loop of these questions", wakes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=30_000)
    parser.add_argument("--finished", type=int, default=0)
    parser.add_argument("--client", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client is not None:
        return trio.run(start_many, arguments.client, arguments.starts)
    versions = f"Python {platform.python_version()}, SQLite {durable_trio.sqlite3.sqlite_version}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.finished:
            trio.run(ask, f"{folder}/runs.db", arguments.finished)
            return None
        for starts in (0, arguments.starts):
            trio.run(flood, f"{folder}/{starts}.db", starts)
    return None


if __name__ == "__main__":
    main()
