"""``python -m demo_parts``: the options, the temporary folder, and the end on Ctrl-C."""

from __future__ import annotations

import argparse
import io
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from demo_parts.director import DemoFailed, Options, perform
from demo_parts.places import Places
from demo_parts.screen import Screen


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """Return the options, and whether to keep the folder."""
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Mirror the standard library and check out orders as durable runs, while the process that "
        "executes them is killed again and again; then prove that nothing was lost or done twice.",
    )
    parser.add_argument("--files", type=_at_least_one, metavar="N", help="files to mirror at most (default 2000)")
    parser.add_argument("--orders", type=_at_least_one, metavar="N", help="checkouts (default 200)")
    parser.add_argument("--kills", type=_count, metavar="N", help="how often to kill the process (default 10)")
    parser.add_argument("--seed", type=_count, metavar="N", help="plan of an earlier run (default a new one)")
    parser.add_argument("--small", action="store_true", help="30 files, 12 orders, 2 kills: for tests")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the database and the logs")
    given = parser.parse_args(arguments)
    files, orders, kills = (30, 12, 2) if given.small else (2000, 200, 10)
    options = Options(
        files=files if given.files is None else given.files,
        orders=orders if given.orders is None else given.orders,
        kills=kills if given.kills is None else given.kills,
        seed=random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed,
    )
    return options, given.keep


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _at_least_one(text: str) -> int:
    number = _count(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


async def main(options: Options, places: Places, screen: Screen) -> int:
    """Perform the demonstration and return the exit code. SIGINT, SIGTERM and SIGHUP end it and all its processes."""
    code = 128 + signal.SIGINT

    async def stop_on_signal(scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as os_signals:
            async for _ in os_signals:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, nursery.cancel_scope)
        try:
            code = 0 if await perform(options, places, screen) else 1
        except* DemoFailed as group:
            code = 1
            screen.end_progress()
            for error in _leaves(group):
                screen.line(f"  {error}", "red")
        nursery.cancel_scope.cancel()
    screen.end_progress()
    return code


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    options, keep = parse(sys.argv[1:])
    folder = Path(tempfile.mkdtemp(prefix="durable_trio-demo-"))
    screen = Screen()
    try:
        code = trio.run(main, options, Places(folder), screen)
    finally:
        if keep:
            screen.line(f"  Everything is kept in {folder}")
        else:
            shutil.rmtree(folder)
    if code == 128 + signal.SIGINT:
        screen.line("  Stopped; all processes have ended." + ("" if keep else " The temporary folder is removed."))
    sys.stdout.flush()
    sys.exit(code)
