"""Which VMs exist, by identity: for whoever must know that one does not exist any more.

Owns: being sure of that. Does not own: what follows from it (retention).
"""

from dataclasses import dataclass

from pyVmomi import vim

from offhost.ids import VmId, vm_id
from offhost.vsphere.properties import all_of
from offhost.vsphere.session import VSphere

_INSTANCE_UUID = "config.instanceUuid"


@dataclass(frozen=True, slots=True)
class Roster:
    """Every VM and template of an endpoint that the account may see.

    `nameless` counts those whose identity vSphere cannot tell just now: orphaned, inaccessible, being created.
    """

    endpoint_uuid: str
    ids: frozenset[VmId]
    nameless: int

    def lacks(self, vm: VmId) -> bool:
        """Whether a VM was of this endpoint and is gone.

        Never while there are nameless ones, of which it may be one, nor of an empty inventory: that is what an account
        sees whose rights were taken away.
        """
        of_endpoint = vm.startswith(f"{self.endpoint_uuid.lower()}/")
        return of_endpoint and bool(self.ids) and not self.nameless and vm not in self.ids


async def roster(vsphere: VSphere) -> Roster:
    """Who is there, in one pass over the inventory."""
    rows = await vsphere.read(
        lambda live: all_of(live, {vim.VirtualMachine: [_INSTANCE_UUID]}), "listing the VMs' identities"
    )
    endpoint = vsphere.about.instance_uuid
    known = [str(row[_INSTANCE_UUID]) for row in rows.values() if _INSTANCE_UUID in row]
    return Roster(endpoint, frozenset(vm_id(endpoint, uuid) for uuid in known), len(rows) - len(known))
