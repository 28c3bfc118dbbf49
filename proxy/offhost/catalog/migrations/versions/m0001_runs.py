"""Runs, their VMs, and the VMs' disks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String, unique=True, nullable=False),
        sa.Column("job", sa.String, nullable=False),
        sa.Column("trigger", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("started", sa.String, nullable=False),
        sa.Column("ended", sa.String),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("problem", sa.JSON),
    )
    op.create_index("runs_of_job", "runs", ["job", "number"])
    op.create_table(
        "vms",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("run", sa.String, sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("vm", sa.String, nullable=False),
        sa.Column("vm_id", sa.String, nullable=False),
        sa.Column("point", sa.String),
        sa.Column("consistency", sa.String),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.Column("problem", sa.JSON),
        sa.Column("started", sa.String, nullable=False),
        sa.Column("ended", sa.String, nullable=False),
    )
    op.create_index("vms_of_run", "vms", ["run"])
    op.create_index("vms_by_id", "vms", ["vm_id", "started"])
    op.create_table(
        "disks",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("vm", sa.Integer, sa.ForeignKey("vms.number", ondelete="CASCADE"), nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("capacity_bytes", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("transport", sa.String, nullable=False),
        sa.Column("refused", sa.JSON, nullable=False),
        sa.Column("changed_bytes", sa.BigInteger),
        sa.Column("read_bytes", sa.BigInteger, nullable=False),
        sa.Column("new_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("host_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("disks_of_vm", "disks", ["vm"])
