"""What a run's retention forgot."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; earlier runs forgot nothing."""
    op.add_column("runs", sa.Column("expired", sa.JSON))
