"""What a rehearsal has found, for people: what does not go on first, each cause with one run as an example."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Final

import click

from durable_trio.cli.run_view import ends_with_difference
from durable_trio.cli.screen import Screen
from durable_trio.cli.text import plural, visible
from durable_trio.rehearsal.records import Verdict
from durable_trio.rehearsal.words import verdict_text
from durable_trio.views.rehearsal import RehearsalGroupDocument, RehearseDocument
from durable_trio.workflows import version_text

__all__ = ["rehearsal_lines"]

_INDENT: Final = "    "
# Of what goes on, the causes that most runs have; the others are counted.
_GOING_ON_MAX: Final = 10


def rehearsal_lines(document: RehearseDocument, screen: Screen) -> Iterator[str]:
    """Yield the lines."""
    refused = [group for group in document.groups if group.verdict is not Verdict.GOES_ON]
    going_on = [group for group in document.groups if group.verdict is Verdict.GOES_ON]
    for group in refused:
        yield from _group_lines(group, screen, color="red")
        yield from (f"{_INDENT}{line}" for line in group.example.splitlines())
        if group.verdict is Verdict.DIVERGES and ends_with_difference(group.example):
            yield f"{_INDENT}keep the old way for such runs: ctx.patched(ID)"
        yield ""
    for group in going_on[:_GOING_ON_MAX]:
        yield from _group_lines(group, screen, color="green")
    if len(going_on) > _GOING_ON_MAX:
        rest = going_on[_GOING_ON_MAX:]
        yield f"{_INDENT}… and {plural(sum(group.count for group in rest), 'run')} in {len(rest)} other places"
    yield _summary(document)


def _group_lines(group: RehearsalGroupDocument, screen: Screen, *, color: str) -> Iterator[str]:
    head = f"{plural(group.count, 'run')} of {visible(version_text(group.workflow, group.version))}"
    text = f" {visible(group.cause)}" if group.verdict is not Verdict.UNKNOWN else f" {group.cause}"
    yield f"{click.style(verdict_text(group.verdict), fg=color, bold=True)}  {click.style(head, bold=True)}:{text}"
    told = f"{', '.join(map(visible, group.run_ids))}{', …' if group.count > len(group.run_ids) else ''}"
    if group.executing:
        told += f"; {group.executing:,} executing, judged by what they had recorded"
    if group.count_before is not None and group.verdict is not Verdict.GOES_ON:
        told += f"; {group.count_before:,} before"
    yield from (_INDENT + line for line in wrap(told, screen.room - len(_INDENT), break_on_hyphens=False))


def _summary(document: RehearseDocument) -> str:
    counts = document.counts
    parts = [
        f"{counts[verdict.value]:,} {verdict_text(verdict, counts[verdict.value])}"
        for verdict in Verdict
        if counts[verdict.value]
    ]
    return f"{plural(document.count, 'unfinished run')}" + (f": {', '.join(parts)}" if parts else "")
