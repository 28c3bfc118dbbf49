"""An engine without vSphere: VMs that a test names, whose backups end as the test says."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from offhost.backup.report import DiskPlan, DiskReport, Problem, VmCopies, VmPlan, VmReport
from offhost.ids import DiskKey, RunId, VmId
from offhost.jobs.selection import Selection, selected
from offhost.jobs.spec import JobSpec, Rule
from offhost.jobs.subject import Subject
from offhost.repository.lifetime.expiry import Judgement
from offhost.vsphere.inventory import Listing
from offhost.vsphere.values import Vm


def vm(name: str, *, folder: str = "/DC0/vm", datastores: tuple[str, ...] = ("ds1",)) -> Vm:
    return Vm(
        id=VmId(f"vc/{name}"),
        moref=f"vm-{name}",
        name=name,
        folder=folder,
        power="on",
        template=False,
        host="esx1",
        datastores=datastores,
        change_tracking=True,
        consolidation_needed=False,
    )


def job(name: str = "nightly", **values: object) -> JobSpec:
    base: dict[str, object] = {"vcenter": "main", "repository": "main", "include": (Rule(name="*"),)}
    return JobSpec(name=name, **{**base, **values})  # type: ignore[arg-type]  # tests name fields by keyword


def report(of: Subject, *, problem: Problem | None = None, warnings: tuple[str, ...] = ()) -> VmReport:
    disk = DiskReport(
        key=DiskKey("scsi0:0"),
        label="Hard disk 1",
        capacity_bytes=1024,
        mode="incremental",
        reason=None,
        transport="datastore",
        refused=(),
        changed_bytes=512,
        read_bytes=512,
        new_bytes=256,
        stored_bytes=128,
        host_bytes=0,
    )
    return VmReport(
        vm=of.name,
        vm_id=of.id,
        point=None if problem else "f" * 32,
        consistency=None if problem else "crash",
        disks=() if problem else (disk,),
        warnings=warnings,
        problem=problem,
        started="2026-01-01T00:00:00Z",
        ended="2026-01-01T00:00:01Z",
    )


@dataclass
class SmallEngine:
    """Backs up nothing, and notes what it was asked."""

    vms: list[Vm] = field(default_factory=lambda: [vm("web01"), vm("web02")])
    endings: dict[str, Callable[[Subject], VmReport]] = field(default_factory=dict)
    """What becomes of a VM, by its name; it is backed up where nothing is said."""
    last_words: dict[str, VmReport] = field(default_factory=dict)
    """What a VM reports when its backup is cancelled, by its name; nothing where nothing is said."""
    copies: dict[str, Callable[[VmReport], VmCopies]] = field(default_factory=dict)
    """What becomes of a VM's copies, by the repository's name."""
    copying: set[str] = field(default_factory=set)
    """The VMs whose copies were begun."""
    copy_gate: asyncio.Event | None = None
    """When set, every copy waits for it."""
    gate: asyncio.Event | None = None
    """When set, every backup waits for it."""
    under_way: set[str] = field(default_factory=set)
    most_at_once: int = 0
    cleaned_up: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    refuses: Exception | None = None
    retained: list[tuple[str, frozenset[VmId]]] = field(default_factory=list)
    """What retention was applied to: the job, and its VMs."""
    expires: list[Judgement] = field(default_factory=list)
    expiry_gate: asyncio.Event | None = None
    """When set, retention waits for it."""
    keeps: Exception | None = None
    """What retention fails with."""

    async def select(self, job: JobSpec) -> Selection:
        if self.refuses is not None:
            raise self.refuses
        return selected(job, Listing(self.vms, []), {}, None)

    async def back_up(
        self, job: JobSpec, subject: Subject, run_id: RunId, *, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        self.under_way.add(subject.name)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            return self.endings.get(subject.name, report)(subject)
        except asyncio.CancelledError:
            if subject.name in self.last_words:
                on_cancelled(self.last_words[subject.name])
            raise
        finally:
            await asyncio.sleep(0)
            self.under_way.discard(subject.name)
            self.cleaned_up.append(subject.name)

    async def expire(self, job: JobSpec, vms: Collection[VmId]) -> list[Judgement]:
        self.retained.append((job.name, frozenset(vms)))
        if self.expiry_gate is not None:
            await self.expiry_gate.wait()
        if self.keeps is not None:
            raise self.keeps
        return self.expires

    async def copy(self, job: JobSpec, report: VmReport, repository: str, run_id: RunId) -> VmCopies:
        self.copying.add(report.vm)
        await (self.copy_gate.wait() if self.copy_gate else asyncio.sleep(0))
        return self.copies[repository](report)

    async def plan(self, job: JobSpec, subjects: Sequence[Subject]) -> list[VmPlan]:
        disk = DiskPlan(DiskKey("scsi0:0"), "Hard disk 1", 1024, "full", "no earlier point", "datastore", ())
        return [VmPlan(subject.name, subject.id, (disk,), None) for subject in subjects]

    async def remove_leftovers(self) -> list[str]:
        removed, self.leftovers = self.leftovers, []
        return removed
