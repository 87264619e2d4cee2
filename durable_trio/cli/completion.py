"""What the shell is offered to complete: ids, workflows, tags, keys. It reads the database quickly, and never fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from difflib import get_close_matches
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import click

from durable_trio.unseen import visible

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from durable_trio import Engine

__all__ = ["complete_key", "complete_run", "complete_tag", "complete_workflow", "doubt_of_workflow"]

# Whoever pressed the key waits.
_SECONDS_MAX: Final = 1.5
_RUNS_MAX: Final = 200


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer ids of the newest runs, with workflow and status."""

    async def look(client: Engine) -> list[tuple[str, str]]:
        page = await client.list_runs(limit=_RUNS_MAX)
        return [(record.id, f"{record.workflow}, {record.status.value}") for record in page.runs]

    return _offered(ctx, incomplete, look)


def complete_workflow(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the workflows that are served, of the newest runs, and of all unfinished ones."""

    async def look(client: Engine) -> list[tuple[str, str]]:
        return [(name, "") for name in await workflow_names(client)]

    return _offered(ctx, incomplete, look)


def complete_tag(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the tags of the newest runs."""

    async def look(client: Engine) -> list[tuple[str, str]]:
        page = await client.list_runs(limit=_RUNS_MAX)
        return [(f"{key}={value}", "") for record in page.runs for key, value in record.tags.items()]

    return _offered(ctx, incomplete, look)


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the keys of the history of the run that is named before."""

    async def look(client: Engine) -> list[tuple[str, str]]:
        # Where an option still lacks its value, click has not told arguments from each other yet.
        steps = await client.get(ctx.params.get("run_id") or ctx.args[0]).steps()
        return [(step.key, f"{step.kind.value}, {step.status.value}") for step in steps]

    return _offered(ctx, incomplete, look)


async def workflow_names(client: Engine) -> list[str]:
    """Return the names of the workflows that are served, of the newest runs, and of all unfinished ones."""
    names = set((await client.status()).unknown_workflows)
    names |= {record.workflow for record in (await client.list_runs(limit=_RUNS_MAX)).runs}
    names |= {name for process in await client.processes() for name in process.workflows}
    return sorted(names)


async def doubt_of_workflow(client: Engine, workflow: str | None) -> str:
    """Return, of a name that no run and nobody who serves has, which was perhaps meant; else nothing."""
    if workflow is None:
        return ""
    names = {stats.workflow for stats in await client.stats()}
    names |= {name for process in await client.processes() for name in process.workflows}
    if workflow in names:
        return ""
    near = get_close_matches(workflow, sorted(names), n=2)
    hint = f"did you mean {' or '.join(map(quote, near))}?" if near else "'durable-trio stats' has the names there are"
    return f"; there is no workflow {workflow!r}: {hint}"


def _offered(
    ctx: click.Context, incomplete: str, look: Callable[[Engine], Awaitable[Iterable[tuple[str, str]]]]
) -> list[CompletionItem]:
    database: Any = ctx.params.get("database") or ctx.find_root().params.get("db")
    if not database:
        return []
    # Opening may wait for a process that holds the file; the wait cannot be broken off, this process can.
    watchdog = threading.Timer(_SECONDS_MAX, os._exit, [0])
    watchdog.daemon = True
    watchdog.start()
    try:
        from click.shell_completion import CompletionItem

        from durable_trio.cli.client import ask

        found = dict(ask(os.path.expanduser(database), look))
        return [
            CompletionItem(text, help=visible(help) or None)
            for text, help in found.items()
            if text.startswith(incomplete) and visible(text) == text  # the shell would write it as it is
        ]
    except Exception:  # a shell's line is no place for errors
        return []
    finally:
        watchdog.cancel()
