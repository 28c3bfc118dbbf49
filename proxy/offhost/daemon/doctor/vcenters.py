"""One vCenter: the connection, the account, and whether it may do what the jobs want done, and no more."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from offhost.backup.directory import VmFolder
from offhost.backup.powered_off import vm_of
from offhost.config import Configuration
from offhost.config.proxy import VCenter
from offhost.daemon.doctor.findings import Finding, failed, some
from offhost.daemon.engine import Engine
from offhost.errors import OffhostError
from offhost.jobs.features import features_of
from offhost.jobs.spec import JobSpec
from offhost.vsphere.authorization import Entity, held, lacking
from offhost.vsphere.hosts import EsxHost
from offhost.vsphere.inventory import datastores
from offhost.vsphere.privileges import NEEDS, SYSTEM, Feature, Place, Privilege, ids
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_NEWEST_OLD_API = (6, 5)
_ADMINISTRATOR = "Authorization.ModifyPermissions"
_PLACES = (Place.VM, Place.DATASTORE, Place.HOST)
"""Where jobs need privileges; the others are for restores."""

_MILD = {
    "Datastore.Browse": "what is on no mounted datastore cannot be read",
    "Datastore.FileManagement": "what is on no mounted datastore cannot be read",
    "VirtualMachine.Config.ChangeTracking": "VMs whose change tracking is off are read in full every time",
}
"""What the lack of a privilege means where it does not make the job fail."""


@dataclass(frozen=True, slots=True)
class Patient:
    """A vCenter that can be asked, and what its jobs select there."""

    subject: str
    session: VSphere
    selected: dict[JobSpec, Sequence[Vm | EsxHost]]

    @property
    def vms(self) -> list[Vm]:
        """The VMs of all jobs, each once."""
        every = (one for chosen in self.selected.values() for one in chosen if isinstance(one, Vm))
        return list({vm.moref: vm for vm in every}.values())


async def selected_by(configuration: Configuration, engine: Engine, job: JobSpec) -> Sequence[Vm | EsxHost]:
    """What a job works on in its vCenter: for a folder, the VM that is shut down meanwhile.

    Raises: as the job's own selection does.
    """
    mounts = {one.name: one.path.resolve() for one in configuration.datastores if one.vcenter == job.vcenter}
    found: list[Vm | EsxHost] = []
    for one in (await engine.select(job)).chosen:
        match one:
            case VmFolder():
                found.append(await vm_of(await engine.resources.session(job.vcenter), one, mounts))
            case Vm() | EsxHost():
                found.append(one)
    return found


def connection_findings(subject: str, session: VSphere, described: VCenter) -> Iterator[Finding]:
    """What is known as soon as a session stands."""
    about = session.about
    trusted = "is the pinned one" if described.thumbprint else f"is vouched for by {described.ca_file}"
    yield Finding(subject, "connection", "ok", f"{about.name} at {session.endpoint.address}; its certificate {trusted}")
    yield Finding(subject, "log-in", "ok", f"as {session.endpoint.user}")
    numbers = tuple(int(part) for part in about.version.split(".")[:2] if part.isdigit())
    if numbers < _NEWEST_OLD_API:
        hint = "upgrade it: guests are quiesced as it likes there, and Windows' shadow copies cannot be asked for"
        yield Finding(subject, "version", "warning", f"{about.version} is older than 6.5", hint)
    else:
        yield Finding(subject, "version", "ok", about.version)


async def privilege_findings(patient: Patient) -> AsyncIterator[Finding]:
    """What each feature in use lacks, and what the account has too much."""
    try:
        missing = await _missing(patient)
        for finding in _by_feature(patient, missing):
            yield finding
    except OffhostError as error:
        yield failed(patient.subject, "privileges", error)
    try:
        each = [entities[0] for place in _PLACES if (entities := await _entities(patient, place))]
        yield _excess(patient, await held(patient.session, each), [entity.name for entity in each])
    except OffhostError as error:
        yield Finding(patient.subject, "least privilege", "warning", f"cannot be told: {error}", error.hint)


async def _missing(patient: Patient) -> dict[tuple[Place, str], dict[str, Entity]]:
    """By kind of object and privilege, the objects on which a job that works with them lacks it, by moref.

    Each kind of object is asked for once, for all privileges that any job needs there.
    """
    on = {place: await _entities(patient, place) for place in _PLACES}
    wanted: dict[Place, set[str]] = defaultdict(set)
    for job in patient.selected:
        for privilege in _needed(job):
            wanted[privilege.on].add(privilege.id)
    return {
        (place, privilege): {entity.moref: entity for entity in entities}
        for place, names in wanted.items()
        for privilege, entities in (await lacking(patient.session, on[place], names)).items()
    }


def _needed(job: JobSpec) -> Iterator[Privilege]:
    return (privilege for feature in features_of(job) for privilege in NEEDS[feature])


async def _entities(patient: Patient, place: Place) -> list[Entity]:
    if place is Place.VM:
        return [Entity(place, vm.moref, vm.name) for vm in patient.vms]
    if place is Place.HOST:
        every = [one for chosen in patient.selected.values() for one in chosen if isinstance(one, EsxHost)]
        return list({host.moref: Entity(place, host.moref, host.name) for host in every}.values())
    names = {name for vm in patient.vms for name in vm.datastores}
    return [Entity(place, one.moref, one.name) for one in await datastores(patient.session) if one.name in names]


def _by_feature(patient: Patient, missing: dict[tuple[Place, str], dict[str, Entity]]) -> Iterator[Finding]:
    jobs: dict[Feature, list[JobSpec]] = defaultdict(list)
    for job in patient.selected:
        for feature in features_of(job):
            jobs[feature].append(job)
    for feature, users in jobs.items():
        check, lacks = f"privileges: {feature}", False
        for privilege in NEEDS[feature]:
            without = missing.get((privilege.on, privilege.id), {}).values()
            concerned = _concerned(users, patient)
            on = [one.name for one in without if {one.moref, (one.place, one.name)} & concerned]
            if on:
                lacks = True
                yield _lacks(patient.subject, feature, privilege, on)
        if not lacks:
            yield Finding(patient.subject, check, "ok", f"all that is needed by {some([job.name for job in users])}")


def _concerned(jobs: Sequence[JobSpec], patient: Patient) -> set[str | tuple[Place, str]]:
    """What these jobs work with: VMs and hosts by their morefs, datastores by their names."""
    chosen = [one for job in jobs for one in patient.selected[job]]
    stores = {(Place.DATASTORE, name) for one in chosen for name in one.datastores}
    return {one.moref for one in chosen} | stores


def _lacks(subject: str, feature: Feature, privilege: Privilege, on: list[str]) -> Finding:
    means = _MILD.get(privilege.id)
    return Finding(
        subject,
        f"privileges: {feature}",
        "warning" if means else "error",
        f"the account lacks {privilege.id}, {privilege.why}, on {some(on)}{f': {means}' if means else ''}",
        f"add {privilege.id} to its role there, or on what contains them with propagation (deploy/PRIVILEGES.md)",
    )


def _excess(patient: Patient, held_there: frozenset[str], looked_at: Sequence[str]) -> Finding:
    check, known = "least privilege", {*SYSTEM, *ids(Feature)}
    excess = sorted(held_there - known)
    if _ADMINISTRATOR in held_there:
        return Finding(
            patient.subject,
            check,
            "warning",
            f"the account is an administrator's: it has {len(excess)} privileges that offhost never uses, and may give "
            "itself any other",
            "make an account with a role of its own (deploy/PRIVILEGES.md): whoever breaks into this proxy has what "
            "its account has",
        )
    if excess:
        hint = "take them out of its role"
        said = f"the account has privileges that offhost never uses: {some(excess)}"
        return Finding(patient.subject, check, "warning", said, hint)
    where = some(["the root folder", *looked_at])
    return Finding(patient.subject, check, "ok", f"the account has nothing that offhost never uses, on {where}")
