"""The datastores that jobs read from: mounted here or not, readable, the right ones, and as they are now."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from offhost.aio import in_thread
from offhost.config import Configuration
from offhost.config.proxy import Datastore
from offhost.daemon.doctor.findings import Finding, Level, counted, failed, some
from offhost.daemon.doctor.vcenters import Patient
from offhost.errors import NotFound, OffhostError
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.power import vmx_paths
from offhost.vsphere.values import Vm

_LOOKED_AT = 20
"""How many VMs of a datastore are looked for on its mount."""
_VMX_BYTES = 4 << 20
_COMPARISONS = 2
"""A .vmx may be written between the two looks at it; hardly twice."""


async def datastore_findings(configuration: Configuration, patient: Patient, vcenter: str) -> AsyncIterator[Finding]:
    """One for each datastore that VMs of jobs of kind image lie on, and for each that is mounted for nothing."""
    mounted = {one.name: one for one in configuration.datastores if one.vcenter == vcenter}
    by_store: dict[str, dict[str, Vm]] = {name: {} for name in mounted}
    for job, chosen in patient.selected.items():
        for vm in chosen:
            if job.kind == "image" and isinstance(vm, Vm):
                for name in vm.datastores:
                    by_store.setdefault(name, {})[vm.moref] = vm
    try:
        places = await vmx_paths(patient.session)
    except OffhostError as error:
        yield failed(patient.subject, "datastores", error)
        return
    for name, vms in sorted(by_store.items()):
        if name in mounted:
            yield await in_thread(_Mounted(patient, mounted[name]).finding, list(vms.values()), places)
        else:
            yield _not_mounted(patient.subject, name, list(vms.values()))


def _not_mounted(subject: str, name: str, vms: Sequence[Vm]) -> Finding:
    """Over https, what runs cannot be read."""
    running = sorted(vm.name for vm in vms if vm.power != "off" and not vm.template)
    hint = "mount it here, read-only, and name it under `datastores` in proxy.yaml"
    if running:
        said = f"is not mounted on this proxy, and VMs that run cannot be read over https: {some(running)}"
        return Finding(subject, f"datastore {name}", "error", said, hint)
    said = f"is not mounted on this proxy: {counted(len(vms), 'VM')} there can be read over https only, through a host"
    return Finding(subject, f"datastore {name}", "warning", said, hint)


@dataclass(frozen=True, slots=True)
class _Mounted:
    """A datastore that this proxy has mounted. Its calls block."""

    patient: Patient
    described: Datastore

    def finding(self, vms: Sequence[Vm], places: Mapping[str, str]) -> Finding:
        """Whether the VMs that vCenter shows on the datastore are there, as they are now, and may be read."""
        path, name = self.described.path, self.described.name
        if not path.is_dir():
            return self._found("error", f"{path} is not there", "mount it, or correct `datastores` in proxy.yaml")
        homes = [(vm, places[vm.moref]) for vm in vms if places.get(vm.moref, "").startswith(f"[{name}] ")]
        read, absent, unreadable = self._look(homes[:_LOOKED_AT])
        if absent and not read:
            hint = f"is {name} what is mounted there, and not a copy or an old state of it?"
            return self._found("error", f"{path} has none of its VMs, such as {some(absent)}", hint)
        if unreadable:
            hint = "NFS: export with no_root_squash or to the right user; CAP_DAC_READ_SEARCH for the service's user"
            return self._found("error", f"{path}: cannot be read: {some(unreadable)}", hint)
        if absent:
            hint = "does the mount lag behind, or were they moved just now?"
            return self._found("warning", f"{path} lacks VMs that vCenter shows there: {some(absent)}", hint)
        if not read:
            return self._found("ok", f"is mounted at {path}; none of the jobs' VMs has its home there")
        looked_at = f"is mounted at {path}; {counted(len(read), 'VM')} looked at there, all readable"
        return self._as_of_now(*read[0], looked_at)

    def _look(self, homes: Sequence[tuple[Vm, str]]) -> tuple[list[tuple[Vm, str]], list[str], list[str]]:
        """The VMs whose .vmx can be read, the names of those that are absent, and of those that cannot be read."""
        read, absent, unreadable = list[tuple[Vm, str]](), list[str](), list[str]()
        for vm, vmx in homes:
            try:
                self._transport.fetch(vmx, _VMX_BYTES)
            except NotFound:
                absent.append(vm.name)
            except OffhostError as error:
                unreadable.append(f"{vm.name} ({error.message})")
            else:
                read.append((vm, vmx))
        return read, absent, unreadable

    def _as_of_now(self, vm: Vm, vmx: str, looked_at: str) -> Finding:
        """Compare one small file with what a host sees: a replica, or a state that the storage kept, has an old one."""
        access = FolderAccess(self.patient.session)
        try:
            for _ in range(_COMPARISONS):
                if access.download(vmx, _VMX_BYTES) == self._transport.fetch(vmx, _VMX_BYTES):
                    return self._found("ok", f"{looked_at}; {vm.name}'s .vmx is as its host sees it")
        except OffhostError:  # over /folder: not every account may, and not every datastore can
            return self._found("ok", looked_at)
        finally:
            access.close()
        said = f"{self.described.path} shows another moment of it: the .vmx of {vm.name} is not as its host sees it"
        return self._found("error", said, f"is {self.described.name} itself mounted there, and not a replica of it?")

    @property
    def _transport(self) -> DatastoreTransport:
        mount = Mount(self.described.path, direct_io=self.described.direct_io)
        return DatastoreTransport({self.described.name: mount})

    def _found(self, level: Level, said: str, hint: str | None = None) -> Finding:
        return Finding(self.patient.subject, f"datastore {self.described.name}", level, said, hint)
