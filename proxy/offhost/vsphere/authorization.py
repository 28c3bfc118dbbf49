"""What the account may do, as the endpoint itself says.

Owns: the questions, in few calls however many objects there are. Does not own: what is needed (`privileges`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pyVmomi import vim, vmodl

from offhost.errors import VSphereError
from offhost.vsphere.privileges import Place
from offhost.vsphere.properties import moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live

_BATCH = 500
_KINDS: Mapping[Place, type] = {
    Place.VM: vim.VirtualMachine,
    Place.DATASTORE: vim.Datastore,
    Place.HOST: vim.HostSystem,
}


@dataclass(frozen=True, slots=True)
class Entity:
    """An object whose privileges are asked for."""

    place: Place
    moref: str
    name: str


async def lacking(vsphere: VSphere, entities: Sequence[Entity], wanted: Collection[str]) -> dict[str, list[Entity]]:
    """The objects, all of one kind, on which each of the wanted privileges is lacking; what is held is left out.

    The account asks for itself, which takes no privilege beyond System.View. Raises: VSphereError.
    """
    missing: dict[str, list[Entity]] = {}
    for at in range(0, len(entities), _BATCH):
        batch = {entity.moref: entity for entity in entities[at : at + _BATCH]}
        for one, privileges in (await _missing(vsphere, batch, sorted(wanted))).items():
            for privilege in privileges:
                missing.setdefault(privilege, []).append(batch[one])
    return missing


async def _missing(vsphere: VSphere, batch: Mapping[str, Entity], wanted: list[str]) -> dict[str, list[str]]:
    def call(live: Live) -> dict[str, list[str]]:
        objects: list[vim.ManagedEntity] = [live.object(_KINDS[one.place], one.moref) for one in batch.values()]
        told = _manager(live).HasPrivilegeOnEntities(objects, _session(live).key, wanted)
        return {
            moref(one.entity): [str(held.privId) for held in one.privAvailability if not held.isGranted] for one in told
        }

    return await vsphere.read(call, "asking for the account's privileges")


async def held(vsphere: VSphere, entities: Sequence[Entity]) -> frozenset[str]:
    """Every privilege that the account holds on the root folder or any of these objects.

    Raises: VSphereError, also where the endpoint does not tell (before vSphere 6.5).
    """

    def call(live: Live) -> frozenset[str]:
        objects = [live.content.rootFolder, *(live.object(_KINDS[one.place], one.moref) for one in entities)]
        try:
            told = _manager(live).FetchUserPrivilegeOnEntities(objects, _session(live).userName)
        except (vmodl.fault.MethodNotFound, vmodl.fault.NotSupported) as fault:
            raise VSphereError("the endpoint does not tell which privileges an account has") from fault
        return frozenset(str(privilege) for one in told for privilege in one.privileges)

    return await vsphere.read(call, "asking for all of the account's privileges")


def _manager(live: Live) -> vim.AuthorizationManager:
    assert live.content.authorizationManager is not None, "every vSphere endpoint has an authorization manager"
    return live.content.authorizationManager


def _session(live: Live) -> vim.UserSession:
    manager = live.content.sessionManager
    assert manager is not None, "every vSphere endpoint has a session manager"
    row = properties(live, vim.SessionManager, [manager], ["currentSession"])[moref(manager)]
    session: vim.UserSession = row["currentSession"]
    return session
