"""``copy``: how one moves from a file to a server, for good.

Whoever has moved must not go on with the file by mistake: it is sealed, and stays so. To take that back is safe until
all is copied; after that each run would live twice, so people are asked, and programs say so.
"""

from __future__ import annotations

import sys
from shlex import quote
from typing import TYPE_CHECKING

import click

from durable_trio.cli.faults import Failed, Interrupted
from durable_trio.cli.options import json_option
from durable_trio.cli.output import ProgressLine, say, write_json, write_lines
from durable_trio.cli.text import plural

if TYPE_CHECKING:
    from durable_trio.stores.copying import Copied


@click.command("copy")
@click.argument("file", type=click.Path())
@click.argument("url", metavar="[URL]", required=False)
@click.option("--dry-run", is_flag=True, help="Only count what would be copied; change nothing.")
@click.option("--unseal", is_flag=True, help="Take the seal of FILE back, and what was copied so far.")
@click.option("--yes", is_flag=True, help="With --unseal: also if all was copied, so that runs live twice; do not ask.")
@json_option
def command(file: str, url: str | None, dry_run: bool, unseal: bool, yes: bool, as_json: bool) -> int:
    """Move all runs of FILE, with all that belongs to them, to the PostgreSQL database at URL.

    Nobody may have FILE open. It is sealed first: no version of this library serves it any more. Nothing is seen at URL
    until all is there. Whatever ends the command, do it again: it goes on where it ended.

    \b
    Examples:
      durable-trio copy app.db postgresql://app@host/app --dry-run
      durable-trio copy app.db postgresql://app@host/app
      durable-trio copy app.db postgresql://app@host/app --unseal
    """
    from durable_trio.cli.client import check_database

    if unseal and (dry_run or as_json):
        raise click.UsageError("--unseal goes with neither --dry-run nor --json")
    if yes and not unseal:
        raise click.UsageError("--yes goes with --unseal only")
    if url is None and not unseal:
        raise click.UsageError("name the URL of the database that the runs are copied to")
    check_database(file)
    try:
        if unseal:
            return _unseal(file, url, is_sure=yes)
        assert url is not None
        copied = _Copying(file, url, is_dry_run=dry_run).run()
    except (ValueError, ImportError) as error:
        raise Failed(str(error)) from error
    _tell(copied, file, is_dry_run=dry_run, as_json=as_json)
    return 0


class _Copying:
    """Copies runs, and knows at each moment how many are done."""

    def __init__(self, file: str, url: str, *, is_dry_run: bool) -> None:
        self._file = file
        self._url = url
        self._is_dry_run = is_dry_run
        self._done = self._total = 0
        self._line = ProgressLine()

    def run(self) -> Copied:
        """Copy them, and show how far it is if that takes its time."""
        from durable_trio.stores.moving import count_copy, move

        try:
            if self._is_dry_run:
                return count_copy(self._file, self._url, self._show)
            return move(self._file, self._url, self._show)
        except KeyboardInterrupt:
            self._line.clear()
            raise Interrupted(self._so_far()) from None
        finally:
            self._line.clear()

    def _show(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        verb = "looked at" if self._is_dry_run else "copied"
        rest = "; they are made visible now" if done == total and not self._is_dry_run else ""
        self._line.show(f"{verb} {done:,} of {total:,} runs so far{rest}")

    def _so_far(self) -> str:
        if self._is_dry_run:
            return ""
        from durable_trio.stores.moving import sealed

        if sealed(self._file) is None:
            return "nothing was changed"
        done = f"copied {self._done:,} of {plural(self._total, 'run')}; " if self._total else ""
        return (
            f"{done}{quote(self._file)} stays sealed, and nothing is seen at the other database before all is there; "
            "the same command goes on, and --unseal takes it back"
        )


def _tell(copied: Copied, file: str, *, is_dry_run: bool, as_json: bool) -> None:
    if as_json:
        from durable_trio.views.documents import CopyDocument

        write_json(
            CopyDocument(
                total=copied.total,
                copied_count=copied.copied_count,
                there_count=copied.there_count,
                row_count=copied.row_count,
                is_repeated=copied.is_repeated,
                is_dry_run=is_dry_run,
            )
        )
        return
    if copied.is_repeated:
        write_lines([f"{plural(copied.total, 'run')} of {file} were copied before"])
        return
    there = f"; {copied.there_count:,} were there already" if copied.there_count else ""
    verb = "would copy" if is_dry_run else "copied"
    write_lines([f"{verb} {plural(copied.copied_count, 'run')} of {copied.total:,}{there}"])


def _unseal(file: str, url: str | None, *, is_sure: bool) -> int:
    from durable_trio.stores.moving import sealed, take_back

    found = sealed(file)
    if found is None:
        say(f"{file!r} is not sealed")
        return 0
    asks = not is_sure and sys.stdin.isatty() and sys.stderr.isatty()
    if asks and found.is_copied:
        what = f"all runs of {file!r} were copied to {found.target}, and would live in both"
        if not click.confirm(f"{what}; unseal it all the same?", err=True):
            say("nothing was changed")
            return 1
        is_sure = True
    take_back(file, url, is_sure=is_sure)
    say(f"{file!r} is not sealed any more")
    return 0
