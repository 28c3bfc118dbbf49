"""Restore points without disks, of any time and origin: for what looks at points and not into them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from offhost.ids import VmId
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository

FIRST = datetime(2026, 1, 1, 22, tzinfo=UTC)


def put_point(
    repository: Repository, name: str = "web01", *, at: datetime | None = None, origin: dict[str, Any] | None = None
) -> Manifest:
    """The next point of a VM, a day after the one before unless it says when."""
    with repository.session(VmId(f"vc/{name}")) as (session, base):
        before = repository.points.predecessor(base.manifest) if base else None
        after = base.manifest.time + timedelta(days=1) if base else FIRST
        point = Manifest(
            id=session.id,
            vm_id=session.vm,
            vm_name=name,
            sequence=base.manifest.sequence + 1 if base else 1,
            predecessor=before,
            time=at or after,
            kind="full",
            consistency="crash",
            disks=(),
            origin=origin or {},
        )
        return session.commit(point)


def by_job(job: str, installation: str = "a" * 32) -> dict[str, Any]:
    """The origin of a point that a job of an installation made."""
    return {"kind": "vm", "job": job, "installation": installation, "run": "b" * 32}
