"""Create the log: documents, their updates, snapshots and versions."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BLOB = sa.LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")
NAME = (
    sa.String(255)
    .with_variant(sa.String(255, collation="C"), "postgresql")
    .with_variant(sa.VARBINARY(255), "mysql", "mariadb")
)
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("metadata", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_documents"),
        sa.UniqueConstraint("name", name="uq_documents_name"),
        sqlite_autoincrement=True,
        **OPTIONS,
    )
    create_table_of_positions(
        "updates",
        sa.Column("data", BLOB, nullable=False),
        sa.Column("author", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("crc", sa.BigInteger, nullable=False),
    )
    create_table_of_positions(
        "snapshots",
        sa.Column("state", BLOB, nullable=False),
        sa.Column("gate", BLOB, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("crc", sa.BigInteger, nullable=False),
    )
    create_table_of_positions(
        "versions",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("author", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("versions", "snapshots", "updates", "documents"):
        op.drop_table(table)


def create_table_of_positions(name: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column("document_id", ID, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("document_id", "position", name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name=f"fk_{name}_document_id",
            ondelete="CASCADE",
        ),
        **OPTIONS,
    )
