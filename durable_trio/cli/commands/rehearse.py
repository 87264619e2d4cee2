"""``rehearse``: what the unfinished runs of a database would do under code that is not deployed yet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from durable_trio.cli.options import duration, json_option, workflow_option
from durable_trio.cli.output import ProgressLine, say, write_json, write_lines

if TYPE_CHECKING:
    from durable_trio.views.rehearsal import Baseline


@click.command("rehearse")
@click.argument("app", metavar="APP")
@click.option(
    "--db", "database", metavar="FILE|URL", type=click.Path(), help="The database. Default: the one of APP's engine."
)
@workflow_option
@click.option("--sample", metavar="N", type=click.IntRange(1), help="Rehearse N runs only, with a share of each kind.")
@click.option(
    "--baseline",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="What an earlier rehearsal has printed with --json: only what is worse than there counts.",
)
@click.option(
    "--patience",
    "patience_seconds",
    metavar="DURATION",
    type=duration,
    default="5s",
    help="How long code may keep the event loop for itself. Default: 5s.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    app: str,
    database: str | None,
    workflow: str | None,
    sample: int | None,
    baseline: Any,
    patience_seconds: float,
    as_json: bool,
) -> int:
    """Replay the unfinished runs of a database with the code of APP, module:engine or FILE.py:engine, and tell which of
    them it would refuse. Exit code 0 only if all go on.

    Nothing is executed and nothing is written; others may serve the database meanwhile. What bodies do outside of
    durable calls they do here too, as at every replay.

    \b
    Examples:
      durable-trio rehearse app:engine --db /srv/app.db
      durable-trio rehearse app:engine --json > before.json
      durable-trio rehearse app:engine --baseline before.json
    """
    from durable_trio.cli.app import importable
    from durable_trio.cli.faults import Interrupted
    from durable_trio.cli.rehearsing import rehearse
    from durable_trio.views.rehearsal import rehearse_document

    root = ctx.find_root()
    if not database and root.get_parameter_source("db") is ParameterSource.COMMANDLINE:
        database = root.params["db"]
    before = None if baseline is None else _read(baseline)
    line, done = ProgressLine(), [0, 0]

    def progress(count: int, total: int) -> None:
        done[:] = count, total
        line.show(_bar(count, total))

    try:
        path, found = rehearse(
            importable(app),
            database or "",
            workflow=workflow,
            sample=sample,
            patience_seconds=patience_seconds,
            progress=progress,
        )
    except KeyboardInterrupt:
        line.clear()
        raise Interrupted(f"rehearsed {done[0]:,} of {done[1]:,} runs; nothing was changed") from None
    finally:
        line.clear()
    document = rehearse_document(app, path, found, before)
    if as_json:
        write_json(document)
    else:
        from durable_trio.cli.rehearsal_view import rehearsal_lines
        from durable_trio.cli.screen import find_screen

        write_lines(rehearsal_lines(document, find_screen()))
    if workflow is not None and not document.count:  # as where its name is mistyped: nothing was tried
        say(f"no unfinished run is of workflow {workflow!r}: nothing was rehearsed")
    return 0 if document.is_clean else 1


def _read(file: Any) -> Baseline:
    from durable_trio.cli.faults import Failed
    from durable_trio.views.rehearsal import baseline_of

    try:
        return baseline_of(json.load(file))
    except ValueError as error:
        raise Failed(f"{file.name!r} is nothing that rehearse --json has printed: {error}") from error


def _bar(count: int, total: int) -> str:
    width = 20
    full = width * count // max(1, total)
    return f"rehearsing [{'#' * full}{'.' * (width - full)}] {count:,} of {total:,} runs"
