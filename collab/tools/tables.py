"""``collab db``: the tables of the database."""

from __future__ import annotations

import sys

import click

from .. import migrating
from ..store import Store
from .common import FAILED, answer, as_json, on_database


@click.group()
def db() -> None:
    """Look after the tables of the database.

    The server brings them up to date when it starts. Who wants to do that at another
    time starts it with --no-migrate, and runs `collab db upgrade` before.
    """


@db.command()
@as_json
@on_database
def upgrade(store: Store, in_json: bool) -> None:
    """Bring the tables up to date. Servers may run meanwhile."""
    before, now = migrating.upgrade(store.database)
    if in_json:
        answer({"before": before, "now": now})
    elif before == now:
        click.echo(f"The tables of {store} are up to date ({now}).")
    else:
        click.echo(f"The tables of {store} are now at {now} (before: {before}).")


@db.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Don't ask.")
@as_json
@on_database
def downgrade(store: Store, revision: str, yes: bool, in_json: bool) -> None:
    """Bring the tables back to REVISION, for an older version.

    -1 is the one before, base takes away all tables, with all documents. Stop the
    servers first, and make a backup.
    """
    if not yes:
        asked = f"Change the tables of {store} back to {revision}?"
        click.confirm(asked, abort=True, err=True)
    before, now = migrating.downgrade(store.database, revision)
    if in_json:
        answer({"before": before, "now": now})
    else:
        click.echo(f"The tables of {store} are now at {now} (before: {before}).")


@db.command()
@as_json
@on_database
def current(store: Store, in_json: bool) -> None:
    """Say which revision the tables are at, and which this version needs."""
    with store.database.reading() as connection:
        found = migrating.current(connection)
    if in_json:
        answer({"current": found, "needed": migrating.REVISION})
    else:
        there = f"at {found}" if found else "not there"
        click.echo(f"The tables of {store} are {there}; needed: {migrating.REVISION}.")


@db.command("check")
@as_json
@on_database
def check_tables(store: Store, in_json: bool) -> None:
    """Compare the tables with what this version needs. Exit code 1 if they differ."""
    found = migrating.differences(store.database)
    if in_json:
        answer({"differences": found})
    else:
        for difference in found:
            click.echo(difference)
        if not found:
            click.echo(f"The tables of {store} are as they should be.")
    if found:
        sys.exit(FAILED)
