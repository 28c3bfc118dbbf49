"""The datastores that jobs read from: mounted here or not, readable, and the right ones."""

from collections.abc import AsyncIterator, Mapping, Sequence

from offhost.aio import in_thread
from offhost.config import Configuration
from offhost.config.proxy import Datastore
from offhost.daemon.doctor.findings import Finding, counted, failed, some
from offhost.daemon.doctor.vcenters import Patient
from offhost.errors import NotFound, OffhostError
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.vsphere.power import vmx_paths
from offhost.vsphere.values import Vm

_LOOKED_AT = 20
"""How many VMs of a datastore are looked for on its mount."""
_VMX_BYTES = 4 << 20


async def datastore_findings(configuration: Configuration, patient: Patient, vcenter: str) -> AsyncIterator[Finding]:
    """One for each datastore that VMs of jobs of kind image lie on, and for each that is mounted for nothing."""
    mounted = {one.name: one for one in configuration.datastores if one.vcenter == vcenter}
    by_store: dict[str, list[Vm]] = {name: [] for name in mounted}
    for job, chosen in patient.selected.items():
        for vm in chosen:
            if job.kind == "image" and isinstance(vm, Vm):
                for name in vm.datastores:
                    by_store.setdefault(name, []).append(vm)
    try:
        places = await vmx_paths(patient.session)
    except OffhostError as error:
        yield failed(patient.subject, "datastores", error)
        return
    for name, vms in sorted(by_store.items()):
        if name in mounted:
            yield await in_thread(_of_mount, patient.subject, mounted[name], vms, places)
        else:
            yield _not_mounted(patient.subject, name, vms)


def _not_mounted(subject: str, name: str, vms: Sequence[Vm]) -> Finding:
    """Over https, what runs cannot be read."""
    running = sorted({vm.name for vm in vms if vm.power != "off" and not vm.template})
    hint = "mount it here, read-only, and name it under `datastores` in proxy.yaml"
    if running:
        said = f"is not mounted on this proxy, and VMs that run cannot be read over https: {some(running)}"
        return Finding(subject, f"datastore {name}", "error", said, hint)
    said = f"is not mounted on this proxy: {counted(len(vms), 'VM')} there can be read over https only, through a host"
    return Finding(subject, f"datastore {name}", "warning", said, hint)


def _of_mount(subject: str, described: Datastore, vms: Sequence[Vm], places: Mapping[str, str]) -> Finding:
    """Whether the VMs that vCenter shows on the datastore are there, and this user may read them."""
    check = f"datastore {described.name}"
    transport = DatastoreTransport({described.name: Mount(described.path, direct_io=described.direct_io)})
    if not described.path.is_dir():
        hint = "mount it, or correct `datastores` in proxy.yaml"
        return Finding(subject, check, "error", f"{described.path} is not there", hint)
    here = [vm for vm in vms if places.get(vm.moref, "").startswith(f"[{described.name}] ")][:_LOOKED_AT]
    absent, unreadable = list[str](), list[str]()
    for vm in here:
        try:
            transport.fetch(places[vm.moref], _VMX_BYTES)
        except NotFound:
            absent.append(vm.name)
        except OffhostError as error:
            unreadable.append(f"{vm.name} ({error.message})")
    if absent and len(absent) == len(here):
        hint = f"is {described.name} what is mounted there, and not a copy or an old state of it?"
        return Finding(subject, check, "error", f"{described.path} has none of its VMs, not {some(absent)}", hint)
    if unreadable:
        hint = "NFS: export with no_root_squash or to the right user; CAP_DAC_READ_SEARCH for the service's user"
        return Finding(subject, check, "error", f"{described.path}: cannot be read: {some(unreadable)}", hint)
    if absent:
        said = f"{described.path} lacks VMs that vCenter shows there: {some(absent)}"
        return Finding(subject, check, "warning", said, "does the mount lag behind, or were they moved just now?")
    if not here:
        return Finding(
            subject, check, "ok", f"is mounted at {described.path}; none of the jobs' VMs has its home there"
        )
    looked_at = counted(len(here), "VM")
    return Finding(subject, check, "ok", f"is mounted at {described.path}; {looked_at} looked at there, all readable")
