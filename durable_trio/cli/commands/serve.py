"""``serve``: executes runs, in this process or in workers, until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from durable_trio.cli.options import duration

if TYPE_CHECKING:
    from durable_trio.cli.serving import Display
    from durable_trio.logger import Logger
    from durable_trio.serving.logs import LogStyle


@click.command("serve")
@click.argument("app", metavar="APP")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Worker processes; 0: this process. Default: the engine's own."
)
@click.option("--db", "database", metavar="FILE|URL", hidden=True)
@click.option("--tree", "draws_tree", is_flag=True, help="Print the supervision tree, and again when it has changed.")
@click.option("--log-json", is_flag=True, help="Log as JSON lines, also on a terminal.")
@click.option("--verbose", is_flag=True, help="Show the traceback of what ends the server.")
@click.option("--until-idle", is_flag=True, help="End as soon as nothing is due or in hand.")
@click.option("--max-seconds", type=duration, metavar="N", help="With --until-idle: end after N seconds at the latest.")
@click.option("--alone", is_flag=True, help="With --until-idle: end at once if another process serves the database.")
@click.option(
    "--wake-up",
    type=click.Choice(["systemd", "launchd", "cron", "none"]),
    help="With --until-idle: by whom this is started again when the next run is due. Default: none.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With --until-idle: print what came of it as JSON.",
)
@click.pass_context
def command(
    ctx: click.Context,
    app: str,
    database: str | None,
    workers: int | None,
    draws_tree: bool,
    log_json: bool,
    verbose: bool,
    until_idle: bool,
    max_seconds: float | None,
    alone: bool,
    wake_up: str | None,
    as_json: bool,
) -> None:
    """Serve APP: module:engine or FILE.py:engine, where the name is an Engine or a function that returns one.

    Ctrl-C or SIGTERM drains: no new runs are taken, steps in flight get the engine's grace_seconds, and unfinished runs
    go on when the database is served again. A second one stops at once. SIGUSR1 prints the supervision tree. 'reload',
    or SIGHUP where there is no terminal, has workers replaced by new ones with the code as it is then.

    With --until-idle it ends when nothing is left to do, prints when the next run is due, and can have itself started
    again by then: for a timer, instead of a server that stays.
    """
    if database is not None or ctx.find_root().get_parameter_source("db") is ParameterSource.COMMANDLINE:
        raise click.UsageError("serve takes no --db: the database is the one that the engine was made with")
    for_idle = {"--max-seconds": max_seconds, "--alone": alone, "--wake-up": wake_up, "--json": as_json}
    if not until_idle and (given := [name for name, value in for_idle.items() if value]):
        raise click.UsageError(f"{given[0]} goes with --until-idle")
    if until_idle and draws_tree:
        raise click.UsageError("--tree does not go with --until-idle, which shows nothing while it serves")
    from durable_trio.cli.app import importable, load
    from durable_trio.cli.serving import requests_ignored

    with requests_ignored() as reload_signals:
        app = importable(app)
        with _failing_in_json() if log_json else nullcontext():
            engine = load(app, verbose=verbose and not log_json)
            display = _display(draws_tree=draws_tree, log_json=log_json, has_line=not until_idle)
            try:
                if until_idle:
                    from durable_trio.cli.until_idle import serve_and_go

                    going = partial(serve_and_go, engine, app, workers, max_seconds, alone, wake_up or "none", as_json)
                    _run(going, display, verbose=verbose)
                else:
                    from durable_trio.cli.serving import serve

                    staying = partial(serve, engine, display, app=app, workers=workers, reload_signals=reload_signals)
                    _run(staying, display, verbose=verbose)
            finally:
                if display.status_line is not None:
                    display.status_line.close()


@contextmanager
def _failing_in_json() -> Iterator[None]:
    """Say in a line of JSON why the server has failed: whoever reads the others reads that too."""
    from durable_trio.cli.faults import Failed
    from durable_trio.cli.output import write_lines
    from durable_trio.serving.logs import LogStyle, failure_line
    from durable_trio.serving.reasons import needs_traceback

    try:
        yield
    except Failed as error:
        cause = error.__cause__
        shown = cause if cause is not None and needs_traceback(cause) else None
        write_lines([failure_line(LogStyle.JSON, str(error), shown)], is_error=True)
        raise click.exceptions.Exit(1) from error


def _run(serve: Callable[[], Awaitable[None]], display: Display, *, verbose: bool) -> None:
    """Serve, or raise why it has failed."""
    import trio

    from durable_trio.cli.faults import Failed
    from durable_trio.errors import DurableError
    from durable_trio.serving.reasons import failure_text, needs_traceback

    try:
        trio.run(serve)
    except (DurableError, BaseExceptionGroup, ValueError, OSError) as error:
        if isinstance(error, BaseExceptionGroup) and error.split(KeyboardInterrupt)[1] is None:
            raise
        if display.status_line is not None:
            display.status_line.close()
        is_terminal = display.status_line is not None or sys.stderr.isatty()
        is_told_by_caller = display.is_json and not verbose
        if verbose or (isinstance(error, BaseExceptionGroup) and not is_terminal and not is_told_by_caller):
            fields = {"event": "failed", "error": failure_text(error)}
            shown = error if verbose or needs_traceback(error) else None
            display.logger.critical("the server has failed", exc_info=shown, extra={"fields": fields})
        raise Failed(failure_text(error)) from error


# ---- what is shown -------------------------------------------------------------------------------------------------


def _display(*, draws_tree: bool, log_json: bool, has_line: bool) -> Display:
    """Return how this server shows what it does: for people on a terminal, else as structured log lines."""
    from durable_trio.cli.serving import Display
    from durable_trio.cli.status_line import StatusLine, can_have_status_line
    from durable_trio.serving.logs import LogStyle

    has_line = has_line and can_have_status_line(sys.stdout) and not log_json
    style = LogStyle.JSON if log_json else LogStyle.TEXT if has_line or sys.stderr.isatty() else LogStyle.FIELDS
    return Display(
        logger=_make_logger(style),
        status_line=StatusLine(sys.stdout) if has_line else None,
        draws_tree=draws_tree,
        is_json=log_json,
    )


def _make_logger(style: LogStyle) -> Logger:
    """Return the logger of what the server itself has to say; give those of the library, and of workers, the style."""
    from durable_trio.logger import Logger
    from durable_trio.serving.logs import LOG_VARIABLE, LineFormatter, set_up_logging

    set_up_logging(style)
    os.environ[LOG_VARIABLE] = style.value  # for workers; each takes it out again
    logger = logging.getLogger("durable_trio.serve")
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(style))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return Logger(logger.name)
