"""Keep what was revoked."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import VARBINARY

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAME = (
    sa.String(255)
    .with_variant(sa.String(255, collation="C"), "postgresql")
    .with_variant(VARBINARY(255), "mysql", "mariadb")
)
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("id", ID, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("account", sa.Text),
        sa.Column("token", sa.Text),
        sa.Column("document", NAME),
        sa.Column("issued_before", sa.BigInteger),
        sa.Column("until", sa.BigInteger),
        sa.Column("undoes", sa.BigInteger),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revocations"),
        **OPTIONS,
    )


def downgrade() -> None:
    op.drop_table("revocations")
