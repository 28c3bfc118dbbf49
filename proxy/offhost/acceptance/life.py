"""The life of a throw-away VM: made, backed up, changed by its guest, backed up again, restored, removed.

Owns: the order, what each step must have shown, and that both VMs are gone afterwards whatever happens. Everything is
done by what backs up and restores other VMs, too. Does not own: what is written about it (verdict).
"""

import asyncio
import logging
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offhost.acceptance import guest
from offhost.acceptance.verdict import Step, Verdict
from offhost.aio import in_own_thread, in_thread, shielded, threaded
from offhost.backup.copy import DiskCopy, settle
from offhost.backup.destination import Destination
from offhost.backup.reading import ReadPolicy
from offhost.backup.report import VmReport
from offhost.backup.vm import VmBackup, VmSettings
from offhost.blockio import FileReadAt, read_bytes
from offhost.clock import Clock
from offhost.errors import OffhostError, RestoreFailed, VSphereError
from offhost.ids import DiskKey, VmId, image_id
from offhost.printable import size
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.repository import Repository, create
from offhost.restore.vm import VmRestore
from offhost.snapshot.growth import SnapshotLimits
from offhost.transport.contract import Transport
from offhost.vsphere.changes import Actor, acting
from offhost.vsphere.inventory import as_it_is_now
from offhost.vsphere.marker import annotation
from offhost.vsphere.power import switch_off, switch_on
from offhost.vsphere.registration import destroy_vm
from offhost.vsphere.saved import FORMAT
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, snapshots
from offhost.vsphere.values import QuiescePolicy, Vm

_log = logging.getLogger(__name__)
_DISK = DiskKey("scsi0:0")
_GUEST_S = 120.0
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an acceptance needs: a session, the ways in and out, and a place for a repository of a few MiB."""

    vsphere: VSphere
    restore: VmRestore
    transports: Sequence[Transport]
    owner: Owner
    clock: Clock
    room: Path
    told: Callable[[Step], object] = lambda _: None
    """Hears of each step when it is done."""

    async def run(self, datastore: str, folder: str | None = None) -> Verdict:
        """Live through it. A step that fails is the last one, and stands in the verdict."""
        with acting(Actor("acceptance", self.owner.run)):
            return await self._run(datastore, folder)

    async def _run(self, datastore: str, folder: str | None) -> Verdict:
        life = _Life(self, datastore, folder)
        problem: OffhostError | None = None
        try:
            async with _repository(self.room, self.restore) as destination:
                await life.live(destination)
        except OffhostError as error:
            problem = error
        finally:
            left = await shielded(life.bury())
        about = self.vsphere.about
        return Verdict(about, self.clock.now(), datastore, tuple(life.steps), tuple(left), problem)


@asynccontextmanager
async def _repository(room: Path, restore: VmRestore) -> AsyncIterator[Destination]:
    """A repository that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=room, prefix="acceptance-") as directory:
        unlock = Passphrase(secrets.token_hex(16))
        await in_thread(create, Path(directory) / "repository", unlock)
        opened = await in_thread(Repository.open, Path(directory) / "repository", unlock)
        async with threaded(opened) as repository:
            yield Destination(repository, restore.workers)


@dataclass(slots=True)
class _Life:
    """One throw-away VM, and the one that is restored from it."""

    scope: Acceptance
    datastore: str
    folder: str | None
    steps: list[Step] = field(default_factory=list)
    _vms: list[Vm] = field(default_factory=list)

    async def live(self, destination: Destination) -> None:
        """All of it. Raises: why a step failed."""
        name = f"offhost-acceptance-{secrets.token_hex(4)}"
        before = guest.content(seed=secrets.randbits(32))
        after = guest.written(before)
        first = await in_own_thread(self._first_point, destination, name, before)
        async with self._step("made, its disk written and read back") as seen:
            vm = await self._made(destination, first, name, seen)
        async with self._step("backed up in full") as seen:
            await self._backed_up(destination, vm, before, seen)
        async with self._step("changed by its guest, which switches it off") as seen:
            await self._lived(vm, seen)
        async with self._step("backed up by its changes") as seen:
            report = await self._backed_up(destination, vm, after, seen)
            _check_changes(report, seen)
        async with self._step("restored as another VM, its disk written and read back") as seen:
            point = await in_thread(destination.repository.points.find, str(report.point))
            await self._made(destination, point, f"{name}-restored", seen)

    async def bury(self) -> list[str]:
        """Remove the VMs; returns what could not be removed, and why."""
        left: list[str] = []
        begun = self.scope.clock.monotonic()
        for vm in reversed(self._vms):
            try:
                await self._removed(vm)
            except OffhostError as error:
                _log.error("%s stays: %s", vm.name, error)
                left.append(f"{vm.name}: {error}")
        if self._vms:
            gone = f"{len(self._vms) - len(left)} of {len(self._vms)} VMs"
            self._tell(Step("removed with all their files", self._since(begun), (gone, *left), failed=bool(left)))
        return left

    @asynccontextmanager
    async def _step(self, what: str) -> AsyncIterator[list[str]]:
        """A step of the life, which adds what was seen."""
        seen: list[str] = []
        begun = self.scope.clock.monotonic()
        try:
            yield seen
        except OffhostError as error:
            self._tell(Step(what, self._since(begun), (*seen, str(error)), failed=True))
            raise
        self._tell(Step(what, self._since(begun), tuple(seen)))

    def _tell(self, step: Step) -> None:
        self.steps.append(step)
        self.scope.told(step)

    def _since(self, begun: float) -> float:
        return self.scope.clock.monotonic() - begun

    def _first_point(self, destination: Destination, name: str, content: bytes) -> Manifest:
        """The disk as a restore point, from which the VM is made as any other is restored."""
        stop = threading.Event()
        with (
            tempfile.TemporaryDirectory(dir=self.scope.room, prefix="acceptance-") as directory,
            destination.repository.session(image_id(name)) as (session, _),
        ):
            file = Path(directory) / "disk.raw"
            file.write_bytes(content)
            with closing(FileReadAt.open(file)) as source:
                copy = DiskCopy(source, session, destination.chunking, destination.workers)
                copy.run(stop)
                disk = PointDisk(_DISK, "Hard disk 1", copy.finish())
                settle(session, [lambda: copy.run(stop)], stop)
            return session.commit(
                Manifest(
                    id=session.id,
                    vm_id=VmId(image_id(name)),
                    vm_name=name,
                    sequence=1,
                    predecessor=None,
                    time=self.scope.clock.now(),
                    kind="full",
                    consistency="offline",
                    disks=(disk,),
                    vm_config=_hardware(name, self.scope.owner),
                    origin={"kind": "image"},
                )
            )

    async def _made(self, destination: Destination, point: Manifest, name: str, seen: list[str]) -> Vm:
        opened = await in_thread(destination.repository.restore_point, point)
        restored = await self.scope.restore.run(opened, new_name=name, datastore=self.datastore, folder=self.folder)
        self._vms.append(restored.vm)
        seen.append(f"{size(restored.size_bytes)} over {restored.transport}")
        return restored.vm

    async def _backed_up(self, destination: Destination, vm: Vm, expected: bytes, seen: list[str]) -> VmReport:
        scope = self.scope
        settings = VmSettings(
            transports=scope.transports,
            quiesce=QuiescePolicy("off"),
            reads=ReadPolicy("incremental"),
            snapshot=SnapshotLimits(min_free=0.0),
        )
        backup = VmBackup(
            vsphere=scope.vsphere,
            destination=destination,
            owner=scope.owner,
            settings=settings,
            clock=scope.clock,
            progress=lambda *_: None,
            is_dead=lambda _: False,
        )
        report = await backup.run(vm)
        seen += report.warnings
        if report.problem is not None:
            raise VSphereError(report.problem.message, hint=report.problem.hint)
        (disk,) = report.disks
        seen.append(f"{disk.mode} over {disk.transport}, {size(disk.read_bytes)} read")
        point = await in_thread(destination.repository.points.find, str(report.point))
        if await in_own_thread(_content, destination.repository, point) != expected:
            raise RestoreFailed(f"{vm.name}: its restore point is not what its disk held")
        seen.append("the restore point is the disk")
        if await snapshots(scope.vsphere, vm):
            raise VSphereError(f"{vm.name}: a snapshot stayed behind")
        seen.append("no snapshot is left")
        return report

    async def _lived(self, vm: Vm, seen: list[str]) -> None:
        """Let the guest run until it switches the VM off; one that does not is switched off."""
        vsphere, clock = self.scope.vsphere, self.scope.clock
        await switch_on(vsphere, vm)
        begun = clock.monotonic()
        while (await as_it_is_now(vsphere, vm)).power == "on":
            if self._since(begun) > _GUEST_S:
                await switch_off(vsphere, vm)
                seen.append(f"it did not switch itself off within {_GUEST_S:.0f} s and was switched off")
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        seen.append("it switched itself off")

    async def _removed(self, vm: Vm) -> None:
        present = await as_it_is_now(self.scope.vsphere, vm)
        if present.power == "on":
            await switch_off(self.scope.vsphere, vm)
        await destroy_vm(self.scope.vsphere, vm)


def _check_changes(report: VmReport, seen: list[str]) -> None:
    """Raise unless change tracking told what the guest wrote, and little more."""
    (disk,) = report.disks
    if disk.mode != "incremental" or disk.changed_bytes is None:
        raise VSphereError(f"{report.vm}: it was not backed up by its changes: {disk.reason}")
    if not guest.WRITES.total_bytes <= disk.changed_bytes <= guest.SIZE_BYTES // 4:
        raise VSphereError(
            f"{report.vm}: its guest wrote {guest.WRITES.total_bytes} bytes, and change tracking tells of "
            f"{disk.changed_bytes}"
        )
    seen.append(f"{size(disk.changed_bytes)} changed, where the guest wrote {size(guest.WRITES.total_bytes)}")


def _content(repository: Repository, point: Manifest) -> bytes:
    source = repository.restore_point(point).disk(None)
    return read_bytes(source, 0, source.size_bytes)


def _hardware(name: str, owner: Owner) -> dict[str, Any]:
    """A small VM with a BIOS, one disk and no network."""
    return {
        "format": FORMAT,
        "name": name,
        "hardware_version": "vmx-13",
        "guest_id": "otherGuest",
        "firmware": "bios",
        "annotation": annotation("acceptance", owner.installation, owner.run),
        "memory_mib": 64,
        "cpus": 1,
        "cores_per_socket": 1,
        "memory_hot_add": False,
        "cpu_hot_add": False,
        "nested_virtualisation": False,
        "controllers": [
            {"type": "VirtualLsiLogicController", "label": "SCSI controller 0", "bus": "scsi", "bus_number": 0}
        ],
        "disks": [
            {
                "key": _DISK,
                "label": "Hard disk 1",
                "unit": "scsi0:0",
                "capacity_bytes": guest.SIZE_BYTES,
                "mode": "persistent",
                "thin": True,
            }
        ],
    }
