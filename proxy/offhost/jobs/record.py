"""From what the engine reports to what the catalog keeps."""

from dataclasses import asdict

from offhost.backup.report import Problem, VmCopies, VmReport
from offhost.catalog import CopiesRow, DiskRow, ExpiredRow, ProblemRow, VmRow
from offhost.clock import rfc3339
from offhost.errors import OffhostError
from offhost.repository.lifetime.expiry import Judgement


def vm_row(report: VmReport) -> VmRow:
    """A VM's report as the catalog's row."""
    return VmRow(
        vm=report.vm,
        vm_id=report.vm_id,
        point=report.point,
        consistency=report.consistency,
        disks=tuple(DiskRow(**asdict(disk)) for disk in report.disks),
        warnings=report.warnings,
        problem=problem_row(report.problem),
        started=report.started,
        ended=report.ended,
        copies=tuple(map(copies_row, report.copies)),
    )


def expired_row(point: Judgement) -> ExpiredRow:
    """A point that retention forgot as the catalog's row."""
    return ExpiredRow(
        point=point.id,
        vm=point.vm_name,
        vm_id=point.vm_id or "",
        time=rfc3339(point.time) if point.time else "",
        reason="; ".join(point.reasons),
    )


def copies_row(copies: VmCopies) -> CopiesRow:
    """A VM's copies in one repository as the catalog's row."""
    made = [point for point in copies.points if point.state == "copied"]
    return CopiesRow(
        repository=copies.repository,
        points=tuple(point.copy or "" for point in made),
        read_bytes=sum(point.read_bytes for point in made),
        new_bytes=sum(point.new_bytes for point in made),
        stored_bytes=sum(point.stored_bytes for point in made),
        newest=rfc3339(copies.newest) if copies.newest else None,
    )


def problem_row(problem: Problem | None) -> ProblemRow | None:
    """A problem as the catalog's row."""
    return ProblemRow(problem.code, problem.message, problem.hint) if problem else None


def problem_of(error: Exception) -> Problem:
    """An error as a value. One that is not ours is a fault of offhost, and says so."""
    if isinstance(error, OffhostError):
        return Problem(error.code, str(error), error.hint)
    return Problem("internal", f"offhost failed: {type(error).__name__}: {error}", "the log has the details; report it")
