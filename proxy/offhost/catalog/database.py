"""Writing down what a run does, and looking it up."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, insert, select, update

from offhost.catalog.connection import open_engine, translated
from offhost.catalog.rows import CopiesRow, DiskRow, ExpiredRow, ProblemRow, RunRow, RunState, VmRow
from offhost.catalog.schema import disks, runs, vms
from offhost.errors import NotFound
from offhost.ids import RunId

_LATEST_RUNS = 3
INTERRUPTED = ProblemRow(
    code="interrupted",
    message="the process that executed this run ended without closing it",
    hint="earlier restore points are untouched, and snapshots it left are removed at the next start; run the job again",
)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The history of runs. Thread-safe, and safe between processes; every call blocks, for milliseconds."""

    path: Path
    _engine: Engine

    @classmethod
    def open(cls, path: Path) -> "Catalog":
        """Open the database, made or brought up to date if need be.

        Raises: StateError.
        """
        return cls(path, open_engine(path))

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add_run(self, run_id: RunId, *, job: str, trigger: str, started: str) -> None:
        """Write down that a run has begun."""
        with self._writing() as connection:
            row = {"id": run_id, "job": job, "trigger": trigger, "state": "running", "started": started, "warnings": []}
            connection.execute(insert(runs).values(row))

    def add_vm(self, run_id: RunId, vm: VmRow) -> None:
        """Write down what became of one VM of a run."""
        row = asdict(vm)
        rows = row.pop("disks")
        with self._writing() as connection:
            number = connection.execute(insert(vms).values(run=run_id, **row)).inserted_primary_key
            assert number is not None
            if rows:
                connection.execute(insert(disks), [{"vm": number[0], **disk} for disk in rows])

    def end_run(
        self,
        run_id: RunId,
        *,
        state: RunState,
        ended: str,
        warnings: tuple[str, ...],
        problem: ProblemRow | None,
        expired: tuple[ExpiredRow, ...] = (),
    ) -> None:
        """Write down how a run ended; a record that is closed stays as it is."""
        values = {
            "state": state,
            "ended": ended,
            "warnings": list(warnings),
            "problem": asdict(problem) if problem else None,
            "expired": [asdict(point) for point in expired],
        }
        with self._writing() as connection:
            connection.execute(update(runs).where(runs.c.id == run_id, runs.c.state == "running").values(values))

    def end_interrupted(self, is_dead: Callable[[RunId], bool], *, ended: str) -> list[RunId]:
        """Close the runs that nobody executes any more as failed; returns them."""
        with self._reading() as connection:
            open_runs = connection.execute(select(runs.c.id).where(runs.c.state == "running")).scalars().all()
        dead = [RunId(run_id) for run_id in open_runs if is_dead(RunId(run_id))]
        for run_id in dead:
            self.end_run(run_id, state="failed", ended=ended, warnings=(), problem=INTERRUPTED)
        return dead

    def runs(self, *, limit: int, job: str | None = None) -> list[RunRow]:
        """The runs that began last, of one job or of all, the newest first, without their VMs."""
        query = select(runs).order_by(runs.c.number.desc()).limit(limit)
        if job is not None:
            query = query.where(runs.c.job == job)
        with self._reading() as connection:
            return [_run(row, ()) for row in connection.execute(query).mappings()]

    def last_changes(self, job: str) -> dict[tuple[str, str], int]:
        """How many bytes had changed on each disk, by its VM's id and its key, at the last of a job's latest runs."""
        latest = select(runs.c.id).where(runs.c.job == job).order_by(runs.c.number.desc()).limit(_LATEST_RUNS)
        changes = (
            select(vms.c.vm_id, disks.c.key, disks.c.changed_bytes)
            .join(vms, disks.c.vm == vms.c.number)
            .where(vms.c.run.in_(latest), disks.c.changed_bytes.is_not(None))
            .order_by(vms.c.number)
        )
        with self._reading() as connection:
            return {(vm_id, key): changed for vm_id, key, changed in connection.execute(changes)}

    def run(self, id_or_prefix: str) -> RunRow:
        """One run with all its VMs.

        Raises: NotFound when no run, or more than one, has an id that begins so.
        """
        matching = select(runs).where(runs.c.id.startswith(id_or_prefix, autoescape=True)).limit(2)
        with self._reading() as connection:
            found = connection.execute(matching).mappings().all()
            if len(found) != 1 or not id_or_prefix:
                said = "more than one run has an id that begins with" if found else "there is no run"
                raise NotFound(f"{said} `{id_or_prefix}`", hint="`offhost runs list` shows the ids")
            return _run(found[0], _vms(connection, found[0]["id"]))

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._transaction(reads_only=False)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction(reads_only=True)

    @contextmanager
    def _transaction(self, *, reads_only: bool) -> Iterator[Connection]:
        engine = self._engine.execution_options(reads_only=reads_only)
        with translated(self.path), engine.begin() as connection:
            yield connection


def _vms(connection: Connection, run_id: str) -> tuple[VmRow, ...]:
    query = select(disks).join(vms, disks.c.vm == vms.c.number).where(vms.c.run == run_id).order_by(disks.c.number)
    disks_of: dict[int, list[DiskRow]] = {}
    for row in connection.execute(query).mappings():
        disks_of.setdefault(row["vm"], []).append(_disk(row))
    query = select(vms).where(vms.c.run == run_id).order_by(vms.c.number)
    rows = connection.execute(query).mappings().all()
    return tuple(_vm(row, tuple(disks_of.get(row["number"], ()))) for row in rows)


def _run(row: RowMapping, of: tuple[VmRow, ...]) -> RunRow:
    values = {name: row[name] for name in ("job", "trigger", "state", "started", "ended")}
    return RunRow(
        id=RunId(row["id"]),
        warnings=tuple(row["warnings"]),
        problem=_problem(row["problem"]),
        vms=of,
        expired=tuple(ExpiredRow(**point) for point in row["expired"] or ()),
        **values,
    )


def _vm(row: RowMapping, of: tuple[DiskRow, ...]) -> VmRow:
    values = {name: row[name] for name in ("vm", "vm_id", "point", "consistency", "started", "ended")}
    return VmRow(
        disks=of,
        warnings=tuple(row["warnings"]),
        problem=_problem(row["problem"]),
        copies=tuple(_copies(copies) for copies in row["copies"] or ()),
        **values,
    )


def _copies(value: Mapping[str, Any]) -> CopiesRow:
    return CopiesRow(**{**value, "points": tuple(value["points"])})


def _disk(row: RowMapping) -> DiskRow:
    values = {field.name: row[field.name] for field in fields(DiskRow) if field.name != "refused"}
    return DiskRow(refused=tuple(row["refused"]), **values)


def _problem(value: Mapping[str, Any] | None) -> ProblemRow | None:
    return ProblemRow(**value) if value else None
