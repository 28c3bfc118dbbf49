"""What was copied of a VM to other repositories after its backup."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; earlier runs copied nothing."""
    op.add_column("vms", sa.Column("copies", sa.JSON))
