"""The tables as the code sees them; `migrations` makes them so."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table

VERSION = "0004"
"""The migration that makes these tables."""

LOST = "the catalog holds the history of runs only, no backups: move the file away and offhost begins a new one"
"""What to tell whoever cannot use the file any more."""

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String, unique=True, nullable=False),
    Column("job", String, nullable=False),
    Column("trigger", String, nullable=False),
    Column("state", String, nullable=False),
    Column("started", String, nullable=False),
    Column("ended", String),
    Column("warnings", JSON, nullable=False),
    Column("problem", JSON(none_as_null=True)),
    Column("expired", JSON),
    Index("runs_of_job", "job", "number"),
)

vms = Table(
    "vms",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("run", String, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("vm", String, nullable=False),
    Column("vm_id", String, nullable=False),
    Column("point", String),
    Column("consistency", String),
    Column("warnings", JSON, nullable=False),
    Column("problem", JSON(none_as_null=True)),
    Column("started", String, nullable=False),
    Column("ended", String, nullable=False),
    Column("copies", JSON),
    Index("vms_of_run", "run"),
    Index("vms_by_id", "vm_id", "started"),
)

disks = Table(
    "disks",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("vm", Integer, ForeignKey("vms.number", ondelete="CASCADE"), nullable=False),
    Column("key", String, nullable=False),
    Column("label", String, nullable=False),
    Column("capacity_bytes", BigInteger, nullable=False),
    Column("mode", String, nullable=False),
    Column("reason", String),
    Column("transport", String, nullable=False),
    Column("refused", JSON, nullable=False),
    Column("changed_bytes", BigInteger),
    Column("read_bytes", BigInteger, nullable=False),
    Column("new_bytes", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("host_bytes", BigInteger, nullable=False),
    Column("audited_bytes", BigInteger),
    Column("unreported_bytes", BigInteger, nullable=False, server_default="0"),
    Index("disks_of_vm", "vm"),
)
