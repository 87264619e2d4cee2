"""Options and arguments that commands share, and the types of what is written on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import click
from click.core import ParameterSource

from durable_trio.cli.completion import complete_run, complete_tag, complete_workflow
from durable_trio.cli.times import read_seconds, read_when

__all__ = [
    "database_option",
    "database_or_app_options",
    "duration",
    "json_option",
    "json_value",
    "queue_option",
    "run_argument",
    "status_option",
    "tag",
    "tags_of",
    "tags_option",
    "when",
    "workflow_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])

# As RunStatus has them, which is not imported before a command runs; a test compares.
_STATUSES: Final = ("pending", "running", "suspended", "compensating", "completed", "failed", "cancelled")


def json_value(text: str) -> Any:
    """Return a JSON value; numbers that JSON has not are refused."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        hint = f"a text has quotes of its own: '{json.dumps(text, ensure_ascii=False)}'"
        if text.startswith("-"):
            raise click.BadParameter(f"{text!r} is no option, and no JSON; {hint}") from None
        raise click.BadParameter(f"{text!r} is no JSON ({error}); {hint}") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def duration(text: str) -> float:
    """Return a duration, in seconds."""
    try:
        return read_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def when(text: str) -> datetime:
    """Return an instant, written as ISO or as an age."""
    try:
        return read_when(text, datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def tag(text: str) -> tuple[str, str]:
    """Split ``key=value`` at the first ``=``."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{text!r} is no tag; write key=value")
    return key, value


def _database(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """Take the option after the command, else the one before it or the environment's."""
    found = value if value is not None else ctx.find_root().params.get("db")
    if not found and not ctx.resilient_parsing:
        raise click.UsageError("no database is named; give --db FILE|URL, or set DURABLE_TRIO_DB", ctx)
    return found or ""


def database_option(command: Command) -> Command:
    """Add ``--db``, which may also stand before the command's name."""
    option = click.option(
        "--db", "database", metavar="FILE|URL", type=click.Path(), callback=_database, help="The database."
    )
    return option(command)


def _database_or_none(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """As ``_database``; the engine of an application has its own."""
    if not ctx.params.get("app"):
        return _database(ctx, param, value)
    root = ctx.find_root()
    if value is not None or root.get_parameter_source("db") is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --db or --app, not both: an app's database is that of its engine", ctx)
    return ""


def database_or_app_options(text: str) -> Callable[[Command], Command]:
    """Add ``--db`` and ``--app``, which is told before it; ``text``: what the code of the application is used for."""
    app = click.option(
        "--app", metavar="APP", is_eager=True, help=f"module:engine or FILE.py:engine, in place of --db: {text}"
    )
    database = click.option(
        "--db", "database", metavar="FILE|URL", type=click.Path(), callback=_database_or_none, help="The database."
    )
    return lambda command: database(app(command))


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON; 'durable-trio schema' has its shape.")(
        command
    )


def run_argument(command: Command) -> Command:
    """Add the argument RUN."""
    return click.argument("run_id", metavar="RUN", shell_complete=complete_run)(command)


def tags_option(text: str) -> Callable[[Command], Command]:
    """Add ``--tag key=value``, which may be given several times."""
    return click.option(
        "--tag", "tags", metavar="KEY=VALUE", type=tag, multiple=True, shell_complete=complete_tag, help=text
    )


def _once(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Refuse an option's second value: beside options that may be repeated, the first would be lost unnoticed."""
    if len(values) > 1:
        raise click.UsageError(f"{param.opts[0]} is given twice", ctx)
    return values[0] if values else None


def workflow_option(command: Command) -> Command:
    """Add ``--workflow NAME``."""
    return click.option(
        "--workflow",
        metavar="NAME",
        multiple=True,
        callback=_once,
        shell_complete=complete_workflow,
        help="Only runs of this workflow.",
    )(command)


def queue_option(command: Command) -> Command:
    """Add ``--queue NAME``."""
    return click.option("--queue", metavar="NAME", multiple=True, callback=_once, help="Only runs of this queue.")(
        command
    )


def status_option(command: Command, *others: str) -> Command:
    """Add ``--status``, which may be given several times; ``others``: words that this command takes as well."""
    return click.option(
        "--status",
        "statuses",
        type=click.Choice([*_STATUSES, *others]),
        multiple=True,
        help="Only runs in this status; may be repeated.",
    )(command)


def tags_of(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return tags as a dict; the same key with two values is a mistake."""
    tags: dict[str, str] = {}
    for key, value in pairs:
        if tags.setdefault(key, value) != value:
            raise click.UsageError(f"the tag {key!r} is given twice")
    return tags
