"""What can be done with an account in vSphere, feature by feature, and what it complains about."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from offhost.backup.host import HostBackup
from offhost.backup.latency import LatencyLimit
from offhost.backup.powered_off import Away, ShuttingDown, switched_off
from offhost.backup.report import VmReport
from offhost.chunking.workers import SpanWorkers
from offhost.clock import SystemClock
from offhost.errors import OffhostError
from offhost.restore.vm import VmRestore
from offhost.transport.https import HttpsTransport
from offhost.vsphere.configuration import configuration
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.hosts import hosts
from offhost.vsphere.inventory import listing
from offhost.vsphere.latency import LatencyMeter
from offhost.vsphere.privileges import Feature
from offhost.vsphere.registration import delete_path, destroy_vm, unregister_vm
from offhost.vsphere.snapshots import consolidate_disks
from offhost.vsphere.tags import tagged, tags_of
from offhost.vsphere.values import QuiescePolicy
from support.backed_up_vms import BackedUpVm
from support.sessions import found

_NIC = {
    "type": "VirtualVmxnet3",
    "label": "Network adapter 1",
    "network": {"id": None, "name": "VM Network"},
    "mac": "",
    "mac_type": "generated",
    "start_connected": True,
}


class _Promise:
    """Kept nowhere."""

    def given(self) -> bool:
        return False

    def give(self) -> None:
        pass

    def take_back(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Deeds:
    """One VM, an account's session, and each feature done once. What fails or is warned of comes back as text."""

    web: BackedUpVm
    administered: BackedUpVm
    """The same VM, as the administrator's session has it: to prepare what the account is to do."""
    name: str

    async def do(self, feature: Feature) -> list[str]:
        """Do what a feature is about, all of it; what was complained about, errors with code and hint."""
        deed: Callable[[], Awaitable[list[str]]] = {
            Feature.INVENTORY: self._inventory,
            Feature.IMAGE: self._image,
            Feature.CHANGE_TRACKING: self._incremental,
            Feature.QUIESCING: self._quiesced,
            Feature.CONSOLIDATION: self._consolidated,
            Feature.FOLDER_READING: self._over_folder,
            Feature.LATENCY: self._latency,
            Feature.TAGS: self._tags,
            Feature.POWER_OFF: self._switched_off,
            Feature.HOST: self._host,
            Feature.RESTORE: self._restored,
            Feature.ACCEPTANCE: self._destroyed,
        }[feature]
        try:
            return await deed()
        except OffhostError as error:
            return [f"{error.code}: {error} {error.hint}"]

    async def _inventory(self) -> list[str]:
        assert self.name in {vm.name for vm in (await listing(self.web.vsphere)).vms}
        await configuration(self.web.vsphere, await found(self.web.vsphere, self.web.moref))
        return []

    async def _image(self) -> list[str]:
        return _said(await self.web.run(mode="full"))

    async def _incremental(self) -> list[str]:
        first = await self.web.run()
        self.web.write(0, b"changed")
        second = await self.web.run()
        incremental = [disk.mode for disk in second.disks] == ["incremental"]
        return _said(first) + _said(second) + ([] if incremental else ["not incremental"])

    async def _quiesced(self) -> list[str]:
        self._power(on=True)
        return _said(await self.web.run(mode="full", quiesce=QuiescePolicy("require")))

    async def _consolidated(self) -> list[str]:
        await consolidate_disks(self.web.vsphere, await found(self.web.vsphere, self.web.moref))
        return []

    async def _over_folder(self) -> list[str]:
        self._power(on=False)
        async with self._over_https() as (folder, _):
            return _said(await self.web.run(mode="full", transports=[HttpsTransport(folder)]))

    async def _latency(self) -> list[str]:
        self.web.vcenter.set_latency("DS1", 1)
        return _said(await self.web.run(mode="full", latency=LatencyLimit(LatencyMeter(self.web.vsphere), 30)))

    async def _tags(self) -> list[str]:
        vm = await found(self.web.vsphere, self.web.moref)
        assert [tag["name"] for tag in await tags_of(self.web.vsphere, vm)] == ["gold"]
        assert self.web.moref in (await tagged(self.web.vsphere, ["backup:*"]))["backup:*"]
        return []

    async def _switched_off(self) -> list[str]:
        self._power(on=True)
        away = Away(await found(self.web.vsphere, self.web.moref))
        terms = ShuttingDown(5.0, False, look_again_s=0.02, start_attempts=1)
        async with switched_off(self.web.vsphere, away, terms, _Promise()):
            pass
        return away.warnings

    async def _host(self) -> list[str]:
        backup = HostBackup(vsphere=self.web.vsphere, destination=self.web.destination, clock=SystemClock(), made_by={})
        return _said(await backup.run((await hosts(self.web.vsphere))[0]))

    async def _restored(self) -> list[str]:
        """Restore a VM with a network card, a tag and an attribute over /folder, and take it back as an undo does."""
        manifest = self.web.point(await self.administered.run(mode="full"))
        tags = await tags_of(self.administered.vsphere, await found(self.administered.vsphere, self.web.moref))
        extra = {"nics": [_NIC], "custom_attributes": {"owner": "finance"}, "tags": tags}
        saved: dict[str, Any] = {**(manifest.vm_config or {}), **extra}
        with self.web.destination.repository.reading(replace(manifest, vm_config=saved)) as point:
            async with self._over_https() as (folder, workers):
                restore = VmRestore(self.web.vsphere, folder, {}, workers, lambda *_: None)
                restored = await restore.run(point, new_name=f"{self.name}-back")
        await unregister_vm(self.web.vsphere, restored.vm)
        await delete_path(self.web.vsphere, f"[DS1] {self.name}-back")
        return list(restored.warnings)

    async def _destroyed(self) -> list[str]:
        """What the acceptance does beyond a backup and a restore."""
        self._power(on=False)
        await destroy_vm(self.web.vsphere, await found(self.web.vsphere, self.web.moref))
        return []

    def _power(self, *, on: bool) -> None:
        state = "poweredOn" if on else "poweredOff"
        if self.web.vcenter.power_state(self.web.moref) != state:
            self.web.vcenter.power(self.web.moref, on=on)

    @asynccontextmanager
    async def _over_https(self) -> AsyncIterator[tuple[FolderAccess, SpanWorkers]]:
        folder = FolderAccess(self.web.vsphere)
        try:
            with SpanWorkers(2) as workers:
                yield folder, workers
        finally:
            await asyncio.to_thread(folder.close)


def _said(report: VmReport) -> list[str]:
    problem = report.problem
    return [*report.warnings, *([f"{problem.code}: {problem.message} {problem.hint}"] if problem else [])]
