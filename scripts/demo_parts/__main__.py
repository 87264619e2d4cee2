"""``python -m demo_parts``: the options, the temporary folder, and the end on Ctrl-C."""

from __future__ import annotations

import argparse
import importlib.util
import io
import logging
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from demo_parts import director, troubles
from demo_parts.director import Options
from demo_parts.network import MACHINES_MAX, enter_namespace
from demo_parts.places import Places
from demo_parts.screen import Screen
from demo_parts.show import DemoFailed

_MACHINES: Final = 3


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """Return the options, and whether to keep the folder."""
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Mirror the standard library and check out orders as durable runs, while the process that "
        "executes them is killed again and again; then prove that nothing was lost or done twice. With --store "
        "postgres several machines do it, on a PostgreSQL server that is started for it: they are killed in turn, cut "
        "off from it for a short and for a long time, and the server crashes.",
    )
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="default sqlite: a file")
    parser.add_argument(
        "--machines",
        type=_machines,
        metavar="N",
        help=f"how many machines on PostgreSQL, 2 to {MACHINES_MAX} (default 3)",
    )
    parser.add_argument(
        "--proxies",
        action="store_true",
        help="machines are processes behind proxies also where they could have network namespaces of their own",
    )
    parser.add_argument("--files", type=_at_least_one, metavar="N", help="files to mirror at most (default 2000)")
    parser.add_argument("--orders", type=_at_least_one, metavar="N", help="checkouts (default 200)")
    parser.add_argument(
        "--kills",
        type=_count,
        metavar="N",
        help="how often to kill the process (default 10), or how many troubles on PostgreSQL (default 8)",
    )
    parser.add_argument("--seed", type=_count, metavar="N", help="plan of an earlier run (default a new one)")
    parser.add_argument("--small", action="store_true", help="30 files, 12 orders, 2 kills (3 troubles): for tests")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the database and the logs")
    given = parser.parse_args(arguments)
    is_postgres = given.store == "postgres"
    if not is_postgres and (given.machines or given.proxies):
        parser.error("--machines and --proxies are for --store postgres")
    files, orders = (30, 12) if given.small else (2000, 200)
    kills = {(False, False): 10, (False, True): 2, (True, False): 8, (True, True): 3}[is_postgres, given.small]
    options = Options(
        files=files if given.files is None else given.files,
        orders=orders if given.orders is None else given.orders,
        kills=kills if given.kills is None else given.kills,
        seed=random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed,
        machines=given.machines or _MACHINES if is_postgres else 0,
        has_namespaces=is_postgres and not given.proxies,
    )
    return options, given.keep


def missing_for_postgres() -> str | None:
    """Return what has to be installed before there can be a server, if anything has to."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'durable_trio[postgres]'"
    from private_postgres import find_binaries  # which needs psycopg

    binaries = find_binaries()
    if binaries is None or not (binaries / "initdb").exists():
        return "PostgreSQL is not installed: apt-get install postgresql, or DURABLE_TRIO_TEST_PG_BIN=/path/to/its/bin"
    return None


def _machines(text: str) -> int:
    number = _count(text)
    if not 2 <= number <= MACHINES_MAX:
        raise argparse.ArgumentTypeError(f"must be from 2 to {MACHINES_MAX}")
    return number


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
            perform = troubles.perform if options.machines else director.perform
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
    if options.machines:
        missing = missing_for_postgres()
        if missing is not None:
            sys.exit(f"demo: {missing}")
        if options.has_namespaces and not enter_namespace():
            options = attrs.evolve(options, has_namespaces=False)
    folder = Path(tempfile.mkdtemp(prefix="durable_trio-demo-"))
    logging.basicConfig(filename=Places(folder).client_log)
    if options.machines:
        folder.chmod(0o711)  # to the server's data in it, the user must get that the server runs as
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
