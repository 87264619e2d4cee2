"""The program: finds commands, and turns whatever ends one into one line and an exit code.

0: done. 1: it could not be done, or ``check`` found something wrong. 2: wrong usage. 130: Ctrl-C. When the reader of
the output has gone (``| head``), the program ends silently, with 141 as if by SIGPIPE.

Nothing here imports trio or the engine; a command does, once it is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from durable_trio.cli.faults import Failed, Interrupted, ReaderGone
from durable_trio.cli.output import is_colored, say, say_interrupted, write_lines
from durable_trio.unseen import print_traceback

__all__ = ["COMMANDS", "Program", "main", "program"]

# Name: module in ``commands``, and what the list of commands says of it; so that the list needs no import.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("serve", "Execute runs, in this process or in worker processes."),
    "reload": ("reload", "Have a server replace its workers, for new code."),
    "start": ("start", "Start a run."),
    "list": ("list_runs", "List runs, newest first."),
    "show": ("show", "Show a run and its timeline."),
    "watch": ("watch", "Follow one run, or all, as they change."),
    "stats": ("stats", "Count the runs of each workflow: how many fail, how long they take."),
    "errors": ("errors", "Show what runs have failed with, and how often."),
    "versions": ("versions", "Show the versions and codes of workflows that are served, or needed."),
    "top": ("top", "Watch and steer runs on a screen that keeps itself up to date."),
    "signal": ("signal", "Send a signal to a run."),
    "cancel": ("cancel", "Ask runs to cancel."),
    "abandon": ("abandon", "End runs that no code ends, without undoing anything."),
    "resume": ("resume", "Let parked, failed or cancelled runs go on."),
    "fork": ("fork", "Start a new run with the beginning of another's history."),
    "rehearse": ("rehearse", "Tell which unfinished runs new code would refuse."),
    "tree": ("tree", "Show the supervision trees of those who serve."),
    "delete": ("delete", "Remove runs that have ended, by their ids or by what they are."),
    "prune": ("prune", "Remove runs that ended before a time."),
    "check": ("check", "Examine a database; exit code 1 if something is wrong."),
    "migrate": ("migrate", "Bring a database to this version's schema."),
    "copy": ("copy", "Move all runs of a file to a PostgreSQL database."),
    "schema": ("schema", "Print the JSON Schema of what a command prints with --json."),
}

_BROKEN_PIPE: Final = 141
_INTERRUPTED: Final = 130


class Program(click.Group):
    """A group of commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of a run's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"durable_trio.cli.commands.{COMMANDS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or offer the nearest."""
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Offer the names of commands without importing them; else what options offer."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]

    def main(  # type: ignore[override]  # there is one mode only
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the program and exit."""
        extra.pop("standalone_mode", None)
        name = prog_name or "durable-trio"
        try:
            ended = super().main(args, name, standalone_mode=False, color=is_colored(sys.stdout), **extra)
            sys.stdout.flush()
            code = ended if isinstance(ended, int) else 0
        except BaseException as error:
            code = _exit_code_of(error, name)
        sys.exit(code)


def _exit_code_of(error: BaseException, name: str) -> int:
    """Say what an exception means, in one line, and return the exit code."""
    if isinstance(error, SystemExit):  # click's own, of the completion
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, ReaderGone | BrokenPipeError):
        return _reader_has_gone()
    if isinstance(error, Interrupted | KeyboardInterrupt | click.Abort):
        if isinstance(error, Interrupted):  # click has ended the line for the others
            say_interrupted(str(error))
        return _INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else name
        _say(f"{path}: {error.format_message()} (see '{path} --help')")
        return error.exit_code
    if isinstance(error, click.ClickException):
        _say(f"{name}: {error.format_message()}")
        return error.exit_code
    text = _text_of_failure(error)
    if text is None:
        raise error
    _say(f"{name}: {text}")
    return 1


def _text_of_failure(error: BaseException) -> str | None:
    from durable_trio.errors import DurableError
    from supervisors.groups import sole

    error = sole(error)
    if isinstance(error, Failed | DurableError | OSError):
        return str(error)
    return None


def _say(text: str) -> None:
    say(" ".join(line.strip() for line in text.splitlines()))


def _reader_has_gone() -> int:
    """The interpreter flushes standard output once more at its end: let that go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return _BROKEN_PIPE


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        write_lines([f"durable-trio {version('durable-trio')}"])
    except PackageNotFoundError:  # it runs from a checkout
        write_lines(["durable-trio, not installed"])
    ctx.exit()


@click.command(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Most commands take --json. Shell completion: see the page 'Command line' of the documentation.",
)
@click.option(
    "--db",
    metavar="FILE|URL",
    envvar="DURABLE_TRIO_DB",
    show_envvar=True,
    type=click.Path(),
    help="The database. May also stand after the command.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def program(db: str | None) -> None:
    """Look at durable_trio's runs, and steer them, from any process."""


def main() -> NoReturn:
    """Run the program ``durable-trio`` and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as daemons do: no file of the database may get its number
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for as long as the program
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = print_traceback
    program.main(prog_name="durable-trio")
