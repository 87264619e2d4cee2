"""``watch``: follows runs as they change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from durable_trio.cli.commands.list_runs import OVERDUE_SECONDS, PARKED
from durable_trio.cli.completion import complete_run
from durable_trio.cli.options import (
    database_option,
    json_option,
    queue_option,
    status_option,
    tags_of,
    tags_option,
    when,
    workflow_option,
)
from durable_trio.cli.output import say, write_json_line, write_lines

if TYPE_CHECKING:
    from durable_trio import Engine, RunRecord
    from durable_trio.cli.runs_table import ChangeLines
    from durable_trio.engine.watching import Changes


# What the end of the one run that is watched means to a shell. Completed: 0.
EXIT_CODES: Final = {"failed": 3, "cancelled": 4}
# Of so many present states it is asked what they wait for; later ones come one by one.
_ASKED_MAX: Final = 200
_MAY_BE_PARKED: Final = ("suspended", "compensating")


@click.command("watch")
@database_option
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=complete_run)
@lambda command: status_option(command, PARKED)
@workflow_option
@tags_option("Only runs with this tag; may be repeated, then all must match.")
@queue_option
@click.option("--retrying", is_flag=True, help="Only states with a step that has failed and is tried again.")
@click.option(
    "--overdue",
    is_flag=True,
    help=f"Instead of changes, runs that were due {OVERDUE_SECONDS} s ago and nobody has taken, as they become so.",
)
@click.option("--created-after", metavar="WHEN", type=when, help="Only runs created after WHEN.")
@click.option("--created-before", metavar="WHEN", type=when, help="Only runs created before WHEN.")
@click.option(
    "--since",
    metavar="CURSOR",
    help="Only what has changed after the line with this cursor, or from 'now' on; 'beginning': everything.",
)
@json_option
def command(
    database: str,
    run_id: str | None,
    statuses: tuple[str, ...],
    retrying: bool,
    since: str | None,
    as_json: bool,
    tags: tuple[tuple[str, str], ...],
    **others: Any,
) -> int:
    """Follow one run to its end, or all runs until Ctrl-C: the present state of each first, then each change.

    Of a run that is named, the exit code tells the end: 0 if it has completed, 3 if it has failed, 4 if it was
    cancelled. A line has the time when the run came into that state; of what was so before the watch that is known
    only of new runs, and of those that have ended. With --json, or --since, each line carries its cursor. Who goes on
    after the cursor of the last line that was taken is given the end of each run once, also if the watcher was killed
    meanwhile; with --overdue, each run that nobody takes once.

    \b
    Examples:
      durable-trio watch order-7 && echo it has completed
      durable-trio watch --json --status failed --since now
      durable-trio watch --overdue
      durable-trio watch --json --since "$(tail -1 seen.jsonl | jq -r .cursor)" >> seen.jsonl
    """
    given = {"status": statuses, "tags": tags_of(tags), **others}
    if run_id is not None and (any(given.values()) or retrying or since is not None):
        raise click.UsageError("a run that is named needs no --status, --workflow, --tag, --since or other choice")
    from durable_trio.cli.client import ask, while_read

    asked = {name: value for name, value in given.items() if value}
    watch = _Watch(run_id=run_id, asked=asked, retrying=retrying, since=since, as_json=as_json)
    end = ask(database, lambda client: while_read(lambda: watch.follow(client)))
    return 0 if run_id is None or end is None else EXIT_CODES.get(end.status.value, 0)


@attrs.define(kw_only=True)
class _Watch:
    """What is watched, and how it is shown."""

    run_id: str | None
    asked: dict[str, Any]
    retrying: bool
    since: str | None
    as_json: bool
    _count: int = 0

    async def follow(self, client: Engine) -> RunRecord | None:
        """Show states as they come; return the last one."""
        from durable_trio.cli.runs_table import ChangeLines, status_word
        from durable_trio.cli.screen import find_screen

        statuses = self.asked.pop("status", ())
        stored = {each for status in statuses for each in (_MAY_BE_PARKED if status == PARKED else (status,))} or None
        lines = ChangeLines(find_screen())
        knows_servers = self.as_json
        record: RunRecord | None = None
        async with client.watch(run_id=self.run_id, since=self.since, status=stored, **self.asked) as changes:
            async for record in changes:
                if statuses and not {status_word(record), record.status.value} & set(statuses):
                    continue  # it is not parked
                record = await self._asked_more(client, record, is_present=changes.is_present)
                if self.retrying and not any(one.kind == "retry" for one in record.waits_for):
                    continue
                if not knows_servers and not (self.run_id is not None and record.status.is_final):
                    knows_servers = True
                    if not any(executor.is_alive for executor in (await client.status()).executors):
                        say("nobody serves this database now; runs go on when somebody does")
                await self._show(client, record, changes, lines)
        return record

    async def _asked_more(self, client: Engine, record: RunRecord, *, is_present: bool) -> RunRecord:
        """Return a state with what the run waits for, where that is shown: a watch does not tell it."""
        self._count += 1
        is_shown = not (self.as_json or (is_present and self._count > _ASKED_MAX))
        knows = bool(record.waits_for)  # a watch of overdue runs tells it
        return await _with_waits(client, record) if not knows and (self.retrying or is_shown) else record

    async def _show(self, client: Engine, record: RunRecord, changes: Changes, lines: ChangeLines) -> None:
        from durable_trio.cli.cancelling import asked_to_cancel
        from durable_trio.views.documents import run_document

        if self.as_json:
            write_json_line(run_document(record, cursor=changes.cursor))
            return
        line = lines.line(
            record,
            datetime.now(UTC),
            is_present=changes.is_present,
            # One that comes back as parked has not lost the request.
            is_to_cancel=record.problem is not None and bool(await asked_to_cancel(client, [record])),
            cursor=None if self.since is None else changes.cursor,
        )
        write_lines([line])


async def _with_waits(client: Engine, record: RunRecord) -> RunRecord:
    """Return a state with what the run waits for, if it is in that state still."""
    if record.status.is_final or record.problem is not None:
        return record
    from durable_trio.errors import RunNotFound

    try:
        now = await client.get(record.id).record()
    except RunNotFound:
        return record
    is_same = (now.status, now.generation, now.wake_at) == (record.status, record.generation, record.wake_at)
    return attrs.evolve(record, waits_for=now.waits_for) if is_same else record
