"""What audits of change tracking compared and found."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; earlier runs audited nothing."""
    op.add_column("disks", sa.Column("audited_bytes", sa.BigInteger))
    op.add_column("disks", sa.Column("unreported_bytes", sa.BigInteger, nullable=False, server_default="0"))
