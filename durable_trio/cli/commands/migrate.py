"""``migrate``: brings a database to this version's schema, and tells what another role needs to use it."""

from __future__ import annotations

import click

from durable_trio.cli.options import database_option
from durable_trio.cli.output import say, write_lines


@click.command("migrate")
@database_option
@click.option("--grants", "role", metavar="ROLE", help="Only print the SQL that lets ROLE use the tables.")
def command(database: str, role: str | None) -> None:
    """Create the tables of a PostgreSQL database, or bring those of a database to this version's schema.

    Whoever opens a database does that by itself, if he may. On a server the tables often belong to a role of their own:
    it runs this command before a new version is rolled out, and others only use the tables.

    \b
    Examples:
      durable-trio migrate --db postgresql://owner@host/app
      durable-trio migrate --db postgresql://owner@host/app --grants app | psql postgresql://owner@host/app
    """
    from durable_trio.cli.client import check_database
    from durable_trio.cli.faults import Failed
    from durable_trio.stores.kinds import grants, migrate

    try:
        if role is not None:
            write_lines(grants(database, role).splitlines())
            return
        check_database(database)
        before, now = migrate(database)
    except (ValueError, ImportError) as error:
        raise Failed(str(error)) from error
    if before == now:
        say(f"the schema is of version {now} already")
    else:
        say(f"the schema is of version {now} now" + (f"; it was of version {before}" if before else ""))
