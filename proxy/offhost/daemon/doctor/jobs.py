"""A job's VMs: whether each could be backed up, disk by disk, as `jobs plan` has it."""

from collections import Counter

from offhost.daemon.doctor.findings import Finding, counted, failed, some
from offhost.daemon.doctor.vcenters import Patient
from offhost.daemon.engine import Engine
from offhost.errors import OffhostError
from offhost.jobs.spec import JobSpec


async def reading_finding(engine: Engine, patient: Patient, job: JobSpec) -> Finding:
    """Over which transports the disks would be read, and which VMs cannot be backed up."""
    subject, check = patient.subject, f"job {job.name}"
    try:
        plans = await engine.plan(job, patient.selected[job])
    except OffhostError as error:
        return failed(subject, check, error)
    stuck = [(plan.vm, plan.problem.message.removeprefix(f"{plan.vm}: ")) for plan in plans if plan.problem]
    if stuck:
        names, (first, why) = some([name for name, _ in stuck]), stuck[0]
        said = f"{len(stuck)} of {counted(len(plans), 'VM')} cannot be backed up: {names}; {first}: {why}"
        return Finding(subject, check, "error", said, f"`offhost jobs plan {job.name}` says why, disk by disk")
    over = Counter(disk.transport for plan in plans for disk in plan.disks if disk.transport)
    ways = ", ".join(f"{counted(number, 'disk')} over {transport}" for transport, number in sorted(over.items()))
    return Finding(subject, check, "ok", f"{counted(len(plans), 'VM')} can be backed up{f': {ways}' if ways else ''}")
