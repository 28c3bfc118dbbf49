"""The backup of an ESX host's configuration: what sets a new installation up as the old one was.

Owns: what a point of a host says. Does not own: how a bundle comes here (vsphere.hosts).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from offhost.aio import in_thread
from offhost.backup.copy import settle
from offhost.backup.destination import Destination
from offhost.backup.report import Problem, VmPlan, VmReport
from offhost.clock import Clock
from offhost.repository.points.manifest import Manifest
from offhost.vsphere.hosts import NOT_CONNECTED, EsxHost, configuration_bundle
from offhost.vsphere.session import VSphere

KIND = "host"


def host_plan(host: EsxHost) -> VmPlan:
    """What a backup would do: nothing that could be told by the disk."""
    return VmPlan(host.name, host.id, (), None if host.connected else Problem("vsphere", NOT_CONNECTED, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBackup:
    """One run's way of backing hosts up."""

    vsphere: VSphere
    destination: Destination
    clock: Clock
    made_by: Mapping[str, Any]
    """The job, the installation and the run: retention goes by them."""
    tags: tuple[str, ...] = ()

    async def run(self, host: EsxHost) -> VmReport:
        """Back up a host's configuration, which the caller has claimed.

        Raises: as `configuration_bundle` does; RepositoryError, BackendError. No point exists then.
        """
        started = self.clock.now().isoformat()
        bundle = await configuration_bundle(self.vsphere, host)
        point = await in_thread(self._stored, host, bundle)
        return VmReport(
            vm=host.name,
            vm_id=host.id,
            point=point.id,
            consistency="application",
            disks=(),
            warnings=(),
            problem=None,
            started=started,
            ended=self.clock.now().isoformat(),
        )

    def _stored(self, host: EsxHost, bundle: bytes) -> Manifest:
        """As one point without disks. The host wrote the bundle itself: it is consistent as an application makes it."""
        repository = self.destination.repository
        files = {f"configBundle-{host.name}.tgz": bundle}
        with repository.session(host.id, self.destination.write_check) as (session, base):
            stored = self.destination.store_files(session, files)
            settle(session, [partial(self.destination.store_files, session, files)], Event())
            return session.commit(
                Manifest(
                    id=session.id,
                    vm_id=session.vm,
                    vm_name=host.name,
                    sequence=base.manifest.sequence + 1 if base else 1,
                    predecessor=repository.points.predecessor(base.manifest) if base else None,
                    time=self.clock.now(),
                    kind=KIND,
                    consistency="application",
                    disks=(),
                    files=stored,
                    origin=self._origin(host),
                )
            )

    def _origin(self, host: EsxHost) -> dict[str, Any]:
        """What must match when the bundle is given to a host: its build, and its hardware."""
        esx = {
            "uuid": host.uuid,
            "product": host.product,
            "version": host.version,
            "build": host.build,
            "vendor": host.vendor,
            "model": host.model,
            "vcenter": self.vsphere.about.instance_uuid,
        }
        return {"kind": KIND, **self.made_by, "host": esx} | ({"tags": list(self.tags)} if self.tags else {})
