"""Runs the migrations: for the package, or for a developer's ``alembic`` command."""

import functools
import os
from collections.abc import Callable
from logging.config import fileConfig
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from collab.databases import open_database
from collab.schema import metadata


def migrate(connection: Connection, transactional_ddl: bool) -> None:
    """Migrate within the transaction that the connection is in."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transactional_ddl=transactional_ddl,
        compare_type=True,
        compare_server_default=True,
    )
    if not transactional_ddl:
        resume()
    with context.begin_transaction():
        context.run_migrations()


DONE = {1050, 1051, 1060, 1061, 1091}
"""What MySQL says of a table, a column or an index that is there already, or gone."""


def resume() -> None:
    """Let a migration that was interrupted go on where it was.

    MySQL commits each of its steps; whoever migrates compares the tables afterwards.
    """
    impl = context.get_context().impl

    def forgiving(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def take(*arguments: Any, **options: Any) -> None:
            try:
                step(*arguments, **options)
            except DBAPIError as exc:
                if exc.orig is None or exc.orig.args[0] not in DONE:
                    raise

        return take

    for what in ("table", "column", "index"):
        for verb in ("create", "add", "drop"):
            step = getattr(impl, f"{verb}_{what}", None)
            if step is not None:
                setattr(impl, f"{verb}_{what}", forgiving(step))


def migrate_by_hand() -> None:
    """Migrate the database that the command line or the environment names."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    url = url or os.environ.get("COLLAB_DATABASE")
    if not url:
        raise CommandError("name a database with -x url=... or in COLLAB_DATABASE")
    if context.config.config_file_name:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    database = open_database(url)
    try:
        with (
            database.writing() as connection,
            database.tables_locked(connection),
        ):
            migrate(connection, database.transactional_ddl)
    finally:
        database.close()


attributes = context.config.attributes
if connection := attributes.get("connection"):
    migrate(connection, attributes["transactional_ddl"])
else:
    migrate_by_hand()
