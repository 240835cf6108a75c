"""Let rows stand for several positions, be discarded, and be kept in quarantine."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BLOB = sa.LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    for name, kind, default in (
        ("base", sa.BigInteger, "0"),
        ("tidied_at", sa.BigInteger, "0"),
        ("attempts", sa.Integer, "0"),
    ):
        column = sa.Column(name, kind, nullable=False, server_default=sa.text(default))
        op.add_column("documents", column)
    op.add_column("documents", sa.Column("purged_at", sa.BigInteger))
    op.add_column(
        "updates",
        sa.Column("span", sa.BigInteger, nullable=False, server_default=sa.text("1")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", ID, primary_key=True),
        sa.Column("document_id", ID, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("data", BLOB),
        sa.Column("gate", BLOB),
        sa.Column("author", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("crc", sa.BigInteger),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_quarantine"),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name="fk_quarantine_document_id",
            ondelete="CASCADE",
        ),
        **OPTIONS,
    )
    op.create_index("ix_quarantine_document_id", "quarantine", ["document_id"])
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        **OPTIONS,
    )


def downgrade() -> None:
    # Rows that stand for several positions, or were discarded, are behind a snapshot:
    # who knows nothing of them doesn't read them. But a document that is purged would
    # be an empty one, and its name free.
    columns = sa.inspect(op.get_bind()).get_columns("documents")
    if any(column["name"] == "purged_at" for column in columns):  # Not yet taken away.
        op.execute("DELETE FROM documents WHERE purged_at IS NOT NULL")
    op.drop_table("runs")
    op.drop_table("quarantine")
    op.drop_column("updates", "span")
    for name in ("purged_at", "attempts", "tidied_at", "base"):
        op.drop_column("documents", name)
