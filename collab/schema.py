"""The tables of the log.

Nothing else knows what they are in each database; ``migrations/`` makes them, and a
test holds the two to each other.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, text
from sqlalchemy.dialects.mysql import LONGBLOB

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)
OPTIONS: dict[str, Any] = {
    # MySQL's defaults depend on the server: an engine without transactions, a character
    # set without emoji.
    f"{name}_{option}": value
    for name in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"))
}
ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BLOB = sa.LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")
# All databases store, compare and return it alike, which cannot be said of their times.
MILLISECONDS = sa.BigInteger()


class Name(sa.types.TypeDecorator[str]):
    """The name of a document: at most 255 bytes, compared byte by byte.

    In MySQL even the binary collations of text take "a" and "a " for the same name;
    bytes don't.
    """

    impl = sa.String(255)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """What it is in a database."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.String(255, collation="C"))
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(sa.VARBINARY(255))
        return dialect.type_descriptor(sa.String(255))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Turn it into what the database takes."""
        if value is None or dialect.name not in ("mysql", "mariadb"):
            return value
        return value.encode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:
        """Turn what the database gives into a name."""
        return value.decode() if isinstance(value, bytes) else value


def _positions(table: str, *columns: Column[Any]) -> sa.Table:
    """A table of what is at positions of documents."""
    document = sa.ForeignKey("documents.id", ondelete="CASCADE")
    return sa.Table(
        table,
        metadata,
        Column("document_id", ID, document, primary_key=True, autoincrement=False),
        Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        *columns,
        **OPTIONS,
    )


documents = sa.Table(
    "documents",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("head", sa.BigInteger, nullable=False, server_default=text("0")),
    Column("epoch", sa.String(32), nullable=False),
    Column("created_at", MILLISECONDS, nullable=False),
    Column("updated_at", MILLISECONDS, nullable=False),
    Column("deleted_at", MILLISECONDS),
    Column("metadata", sa.JSON),
    # The rows up to here are discarded; a snapshot stands for them.
    Column("base", sa.BigInteger, nullable=False, server_default=text("0")),
    # When old rows were last merged or discarded.
    Column("tidied_at", MILLISECONDS, nullable=False, server_default=text("0")),
    # How often a process began to open it and was not heard of again.
    Column("attempts", sa.Integer, nullable=False, server_default=text("0")),
    # A document that was deleted for good leaves its name.
    Column("purged_at", MILLISECONDS),
    # Else SQLite gives the id of a deleted document to the next one.
    sqlite_autoincrement=True,
    **OPTIONS,
)
# `data` and `gate` are what Python calls `update` and `index`: as names of columns both
# would have to be quoted, in each database differently.
updates = _positions(
    "updates",
    Column("data", BLOB, nullable=False),
    Column("author", sa.Text),
    Column("at", MILLISECONDS, nullable=False),
    Column("crc", sa.BigInteger, nullable=False),
    # How many positions it stands for, of which its own is the last.
    Column("span", sa.BigInteger, nullable=False, server_default=text("1")),
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
# What was damaged, as it was found. `data` is null where nothing was.
quarantine = sa.Table(
    "quarantine",
    metadata,
    Column("id", ID, primary_key=True),
    Column(
        "document_id",
        ID,
        sa.ForeignKey("documents.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("what", sa.String(16), nullable=False),
    Column("first", sa.BigInteger, nullable=False),
    Column("last", sa.BigInteger, nullable=False),
    Column("data", BLOB),
    Column("gate", BLOB),
    Column("author", sa.Text),
    Column("at", MILLISECONDS, nullable=False),
    Column("crc", sa.BigInteger),
    Column("cause", sa.Text, nullable=False),
    Column("found_at", MILLISECONDS, nullable=False),
    **OPTIONS,
)
# Whose access was revoked, who was kicked, and what of that was undone. The newest row
# is never deleted: see `revocations.py`.
revocations = sa.Table(
    "revocations",
    metadata,
    Column("id", ID, primary_key=True, autoincrement=False),
    Column("kind", sa.String(16), nullable=False),
    Column("account", sa.Text),
    Column("token", sa.Text),
    Column("document", Name),
    Column("issued_before", MILLISECONDS),
    Column("until", MILLISECONDS),
    Column("undoes", sa.BigInteger),
    Column("at", MILLISECONDS, nullable=False),
    **OPTIONS,
)
# A process that serves documents has a row here, and takes it away when it ends.
runs = sa.Table(
    "runs",
    metadata,
    Column("id", sa.String(32), primary_key=True),
    Column("host", sa.String(255), nullable=False),
    Column("pid", sa.BigInteger, nullable=False),
    Column("started_at", MILLISECONDS, nullable=False),
    **OPTIONS,
)
