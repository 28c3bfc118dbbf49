"""The order of an examination: configuration, state, vCenters with their jobs, datastores, repositories.

Owns: that one thing that is wrong does not keep the others from being looked at. Does not own: the looking.
"""

from collections.abc import AsyncIterator

from offhost.aio import in_thread
from offhost.clock import SystemClock
from offhost.config import Configuration
from offhost.daemon.doctor.datastores import datastore_findings
from offhost.daemon.doctor.findings import Finding, counted, failed, some
from offhost.daemon.doctor.jobs import reading_finding
from offhost.daemon.doctor.repositories import repository_finding
from offhost.daemon.doctor.vcenters import Patient, connection_findings, privilege_findings, selected_by
from offhost.daemon.engine import Engine, vm_engine
from offhost.daemon.local import open_state
from offhost.daemon.specs import job_spec
from offhost.errors import OffhostError
from offhost.events import Events
from offhost.jobs.spec import JobSpec


async def examined(configuration: Configuration) -> AsyncIterator[Finding]:
    """Every finding, as soon as it is made. Nothing is changed in vSphere, and nothing is written to a repository."""
    jobs = [job_spec(job) for job in configuration.jobs]
    yield Finding("configuration", "files", "ok", f"{configuration.file}, {counted(len(jobs), 'job')}")
    try:
        state = await in_thread(open_state, configuration)
    except OffhostError as error:
        yield failed("configuration", "state", error)
        return
    async with vm_engine(configuration, state, Events(), SystemClock()) as engine:
        for name in configuration.vcenters:
            async for finding in _of_vcenter(configuration, engine, name, [job for job in jobs if job.vcenter == name]):
                yield finding
        for job in jobs:
            if job.folder is not None:
                yield await _of_folder(engine, job)
        for name in configuration.repositories:
            yield await repository_finding(configuration, engine, name)


async def _of_vcenter(
    configuration: Configuration, engine: Engine, name: str, jobs: list[JobSpec]
) -> AsyncIterator[Finding]:
    subject = f"vCenter {name}"
    try:
        session = await engine.resources.session(name)
    except OffhostError as error:
        yield failed(subject, "connection", error)
        return
    for finding in connection_findings(subject, session, configuration.vcenters[name]):
        yield finding
    patient = Patient(subject, session, {})
    for job in jobs:
        try:
            patient.selected[job] = await selected_by(configuration, engine, job)
        except OffhostError as error:
            yield failed(subject, f"job {job.name}", error)
            continue
        if not patient.selected[job]:
            hint = "`offhost jobs plan` says what its rules name, and what is left out"
            yield Finding(subject, f"job {job.name}", "warning", "selects nothing", hint)
        elif job.kind == "image":
            yield await reading_finding(engine, patient, job)
        else:
            yield Finding(
                subject, f"job {job.name}", "ok", f"works on {some([one.name for one in patient.selected[job]])}"
            )
    for check in (privilege_findings(patient), datastore_findings(configuration, patient, name)):
        async for finding in check:
            yield finding


async def _of_folder(engine: Engine, job: JobSpec) -> Finding:
    try:
        await engine.select(job)
    except OffhostError as error:
        return failed(f"job {job.name}", "folder", error)
    assert job.folder is not None, "only of jobs of kind directory"
    return Finding(f"job {job.name}", "folder", "ok", f"{job.folder.path} can be read")
