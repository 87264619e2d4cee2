"""Commands that take one run, some by their ids, or all that options choose: ``cancel``, ``resume``, ``abandon``,
``delete``.

Ids say what is meant. Options may choose more than somebody thought, so people are asked first, with the number of
runs, and programs say ``--yes``. What was counted is what is taken: a run that only matches since then is left alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from durable_trio.cli.completion import complete_run, doubt_of_workflow
from durable_trio.cli.faults import Interrupted
from durable_trio.cli.options import (
    database_option,
    json_option,
    queue_option,
    tags_of,
    tags_option,
    when,
    workflow_option,
)
from durable_trio.cli.output import ProgressLine, say, write_json
from durable_trio.cli.text import first_line, plural, visible

if TYPE_CHECKING:
    from durable_trio import Engine
    from durable_trio.engine.bulk import Bulk

__all__ = ["Choice", "Unchanged", "Verb", "chosen", "do_to_each", "many_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_TOLD_MAX: Final = 3


@attrs.frozen(kw_only=True)
class Verb:
    """What is done to runs, in the words of questions and answers."""

    command: str  # "cancel"
    name: str  # "ask to cancel": for "ask to cancel 5 runs?"
    done: str  # "cancelled": for "cancelled 3 runs of 5"
    warning: str = ""  # what the question says besides: ", and undo nothing"


class Unchanged(Exception):
    """Nothing had to be done to a run; the text says why."""


@attrs.frozen(kw_only=True)
class Choice:
    """What the options of a command have chosen runs by."""

    run_ids: tuple[str, ...]
    which: dict[str, Any]  # as ``engine.list_runs`` takes it
    words: str  # the same for people

    @property
    def is_empty(self) -> bool:
        """Whether no run was named or chosen."""
        return not self.run_ids and not self.which


def many_options(*statuses: str) -> Callable[[Command], Command]:
    """Add RUN…, and the options that choose runs; ``statuses``: those that can be asked for."""
    parts = (
        database_option,
        click.argument("run_ids", metavar="[RUN]...", nargs=-1, shell_complete=complete_run),
        click.option("--parked", is_flag=True, help="All that are parked, if they match the other options."),
        click.option(
            "--status",
            "statuses",
            type=click.Choice(statuses),
            multiple=True,
            help="All in this status, if they match the other options; may be repeated.",
        ),
        workflow_option,
        tags_option("Only runs with this tag; may be repeated, then all must match."),
        queue_option,
        click.option("--created-after", metavar="WHEN", type=when, help="Only those created after WHEN."),
        click.option("--created-before", metavar="WHEN", type=when, help="Only those created before WHEN."),
        click.option("--yes", is_flag=True, help="Do not ask before runs are taken that no id has named."),
        json_option,
    )

    def add(command: Command) -> Command:
        for part in reversed(parts):
            command = part(command)
        return command

    return add


def chosen(
    *,
    run_ids: tuple[str, ...],
    parked: bool,
    statuses: tuple[str, ...],
    workflow: str | None,
    tags: tuple[tuple[str, str], ...],
    queue: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> Choice:
    """Return what was chosen by the options of ``many_options``.

    Raises:
        UsageError: ids and options, of which one would be for nothing.
    """
    given = tags_of(tags)
    which = {
        "parked": parked,
        "status": list(statuses),
        "workflow": workflow,
        "tags": given,
        "queue": queue,
        "created_after": created_after,
        "created_before": created_before,
    }
    which = {name: value for name, value in which.items() if value}
    if run_ids and which:
        raise click.UsageError("name runs by their ids, or choose them by options, not both")
    words = [
        "parked" if parked else "",
        " or ".join(statuses),
        f"of workflow {visible(workflow)!r}" if workflow else "",
        *(f"tagged {visible(key)}={visible(value)}" for key, value in given.items()),
        f"in queue {visible(queue)!r}" if queue else "",
        f"created after {created_after.astimezone():%Y-%m-%d %H:%M:%S}" if created_after else "",
        f"created before {created_before.astimezone():%Y-%m-%d %H:%M:%S}" if created_before else "",
    ]
    return Choice(run_ids=tuple(dict.fromkeys(run_ids)), which=which, words=", ".join(filter(None, words)))


def do_to_each(
    database: str,
    verb: Verb,
    choice: Choice,
    *,
    one: Callable[[Engine, str], Awaitable[str]],
    many: Callable[[Engine], Bulk],
    yes: bool,
    as_json: bool,
) -> int:
    """Do it to each run, say what has come of it, and return the exit code: 1 if some were left as they are.

    Args:
        one: does it to a run that is named; returns the line that says so, or raises ``Unchanged``.
        many: the call of the engine for all that the options choose.
    """
    from durable_trio.cli.client import ask

    # The command says itself what it has done; without a handler, Python would write each record to standard error.
    logging.getLogger("durable_trio.runs").addHandler(logging.NullHandler())
    work = _Work(verb, as_json=as_json)
    try:
        if choice.run_ids:
            work.named(database, choice.run_ids, one)
        else:
            run_ids = ask(database, lambda client: many(client).find())
            if run_ids and not yes and not _is_confirmed(verb, len(run_ids), choice.words):
                say("nothing was changed")
                return 1
            if not run_ids and not as_json:
                doubt = ask(database, lambda client: doubt_of_workflow(client, choice.which.get("workflow")))
                say(f"no run is {choice.words}{doubt}")
                return 0
            work.chosen(database, run_ids, many)
    except KeyboardInterrupt:  # when no client is there any more, or not yet
        raise Interrupted(work.so_far()) from None
    finally:
        work.line.clear()
    return work.tell()


def _is_confirmed(verb: Verb, count: int, words: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{plural(count, 'run')} {words}: confirm by --yes")
    are = "is" if count == 1 else "are"
    return click.confirm(f"{verb.name} {plural(count, 'run')} that {are} {words}{verb.warning}?", err=True)


class _Work:
    """What is done to runs, and how much of it so far."""

    def __init__(self, verb: Verb, *, as_json: bool) -> None:
        self._verb = verb
        self._as_json = as_json
        self._total = 0
        self._done_count = 0
        self._left: list[tuple[str, str]] = []
        self._is_named = False
        self._bulk: Bulk | None = None
        self.line = ProgressLine()

    def named(self, database: str, run_ids: Sequence[str], one: Callable[[Engine, str], Awaitable[str]]) -> None:
        """Do it to runs by their ids. One that it cannot be done to keeps it from no other."""
        from durable_trio.cli.client import ask
        from durable_trio.errors import RunConflict, RunFinished, RunNotFound

        self._is_named, self._total = True, len(run_ids)

        async def go_over(client: Engine) -> None:
            for run_id in run_ids:
                try:
                    said = await one(client, run_id)
                    self._done_count += 1
                except Unchanged as reason:
                    said = str(reason)
                except (RunConflict, RunFinished, RunNotFound) as error:
                    if len(run_ids) == 1 and not self._as_json:
                        raise
                    self._left.append((run_id, str(error)))
                    continue
                if not self._as_json:
                    say(said)

        ask(database, go_over, so_far=self.so_far if len(run_ids) > 1 else str)

    def chosen(self, database: str, run_ids: Sequence[str], many: Callable[[Engine], Bulk]) -> None:
        """Do it to those that were counted, and show how far it is if that takes its time."""
        from durable_trio.cli.client import ask

        self._total = len(run_ids)

        async def go_over(client: Engine) -> None:
            self._bulk = many(client).only(run_ids)
            async for progress in self._bulk:
                if progress.refusal is not None:
                    self._left.append((progress.run_id, progress.refusal))
                self.line.show(f"{self._verb.done} {progress.done_count:,} of {self._total:,} runs so far")

        ask(database, go_over, so_far=self.so_far)

    def so_far(self) -> str:
        """Return what is done."""
        self.line.clear()
        return f"{self._verb.done} {plural(self._done, 'run')} of {self._total:,}"

    @property
    def _done(self) -> int:
        """How many are done: also those that Ctrl-C has kept from being told."""
        return self._done_count if self._bulk is None else self._bulk.done_count

    def tell(self) -> int:
        """Say what has come of it, and return the exit code."""
        if self._as_json:
            from durable_trio.views.documents import LeftDocument, ManyDocument

            left = tuple(LeftDocument(id=run_id, reason=reason) for run_id, reason in self._left)
            command, done_count = self._verb.command, self._done
            write_json(ManyDocument(command=command, total=self._total, done_count=done_count, left=left))
            return int(bool(left))
        shown = self._left if self._is_named else self._left[:_TOLD_MAX]
        for run_id, reason in shown:
            say(f"{run_id!r} was left as it is: {first_line(reason)}")
        if len(self._left) > len(shown):
            say(f"and {len(self._left) - len(shown):,} more were left as they are; --json names all")
        if not self._is_named:
            say(self.so_far())
        return int(bool(self._left))
