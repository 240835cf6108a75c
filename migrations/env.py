"""Runs the migrations: for ``Store.open``, or for a developer's ``alembic`` command."""

import os
from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from collab.schema import metadata
from collab.store import Store


def migrate(connection: Connection) -> None:
    """Migrate within the transaction that the connection is in."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_by_hand() -> None:
    """Migrate the database that the command line or the environment names."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    url = url or os.environ.get("COLLAB_DATABASE")
    if not url:
        raise CommandError("name a database with -x url=... or in COLLAB_DATABASE")
    if context.config.config_file_name:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    store = Store(url)
    try:
        with store.exclusively() as connection:
            migrate(connection)
    finally:
        store.close()


if connection := context.config.attributes.get("connection"):
    migrate(connection)
else:
    migrate_by_hand()
