"""The tables of the log.

Nothing else knows what they are in each database; ``migrations/`` makes them, and a
test holds the two to each other.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, text

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)
ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BLOB = sa.LargeBinary(2**32 - 1)
# Names are compared byte by byte. In MySQL even the binary collations of text take
# "a" and "a " for the same name; bytes don't.
NAME = (
    sa.String(255)
    .with_variant(sa.String(255, collation="C"), "postgresql")
    .with_variant(sa.VARBINARY(255), "mysql", "mariadb")
)
# All databases store, compare and return it alike, which cannot be said of their times.
MILLISECONDS = sa.BigInteger()


def _positions(table: str, *columns: Column[object]) -> sa.Table:
    """A table of what is at positions of documents."""
    document = sa.ForeignKey("documents.id", ondelete="CASCADE")
    return sa.Table(
        table,
        metadata,
        Column("document_id", ID, document, primary_key=True, autoincrement=False),
        Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        *columns,
    )


documents = sa.Table(
    "documents",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("head", sa.BigInteger, nullable=False, server_default=text("0")),
    Column("epoch", sa.String(32), nullable=False),
    Column("created_at", MILLISECONDS, nullable=False),
    Column("updated_at", MILLISECONDS, nullable=False),
    Column("deleted_at", MILLISECONDS),
    Column("metadata", sa.JSON),
    # Else SQLite gives the id of a deleted document to the next one.
    sqlite_autoincrement=True,
)
# `data` and `gate` are what Python calls `update` and `index`: as names of columns both
# would have to be quoted, in each database differently.
updates = _positions(
    "updates",
    Column("data", BLOB, nullable=False),
    Column("author", sa.Text),
    Column("at", MILLISECONDS, nullable=False),
    Column("crc", sa.BigInteger, nullable=False),
)
snapshots = _positions(
    "snapshots",
    Column("state", BLOB, nullable=False),
    Column("gate", BLOB, nullable=False),
    Column("at", MILLISECONDS, nullable=False),
    Column("crc", sa.BigInteger, nullable=False),
)
versions = _positions(
    "versions",
    Column("name", sa.String(255), nullable=False),
    Column("author", sa.Text),
    Column("at", MILLISECONDS, nullable=False),
)
