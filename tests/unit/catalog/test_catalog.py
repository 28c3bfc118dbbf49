"""The history of runs: what was written down is found again, whatever ended the process."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import URL, create_engine

from offhost.catalog import Catalog, DiskRow, ExpiredRow, ProblemRow, VmRow
from offhost.catalog.schema import VERSION, metadata
from offhost.errors import NotFound, StateError
from offhost.ids import RunId

RUN, OTHER = RunId("1" * 32), RunId("12" * 16)
DISK = DiskRow(
    key="scsi0:0",
    label="Hard disk 1",
    capacity_bytes=2**41,
    mode="full",
    reason="first backup of this disk",
    transport="datastore",
    refused=("https: the VM is running",),
    changed_bytes=None,
    read_bytes=10,
    new_bytes=8,
    stored_bytes=4,
    host_bytes=0,
    audited_bytes=2**40,
    unreported_bytes=65536,
)
VM = VmRow(
    vm="web01",
    vm_id="vc/web01",
    point="a" * 32,
    consistency="crash",
    disks=(DISK, DISK),
    warnings=("quiescing failed",),
    problem=None,
    started="2026-01-01T22:00:00Z",
    ended="2026-01-01T22:10:00Z",
)
EXPIRED = ExpiredRow("e" * 32, "web01", "vc/web01", "2025-12-01T22:00:00Z", "beyond daily 7")
PROBLEM = ProblemRow("vsphere_login", "the account is locked", None)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


def begin(catalog: Catalog, run_id: RunId = RUN, *, job: str = "nightly", started: str = "2026-01-01") -> None:
    catalog.add_run(run_id, job=job, trigger="cli", started=started)


def test_a_run_is_found_with_everything_that_was_written_down(catalog: Catalog) -> None:
    begin(catalog)
    failed = VmRow("db01", "vc/db01", None, None, (), (), PROBLEM, "a", "b")
    catalog.add_vm(RUN, VM)
    catalog.add_vm(RUN, failed)
    catalog.end_run(RUN, state="failed", ended="2026-01-02", warnings=("late",), problem=None, expired=(EXPIRED,))
    run = catalog.run(RUN)
    assert (run.job, run.state, run.started, run.ended) == ("nightly", "failed", "2026-01-01", "2026-01-02")
    assert run.warnings == ("late",)
    assert run.vms == (VM, failed)
    assert run.expired == (EXPIRED,)


def test_runs_are_listed_the_newest_first_even_within_one_second(catalog: Catalog) -> None:
    begin(catalog, RUN)
    begin(catalog, OTHER, job="weekly")
    assert [run.id for run in catalog.runs(limit=10)] == [OTHER, RUN]
    assert [run.id for run in catalog.runs(limit=1)] == [OTHER]
    assert [run.id for run in catalog.runs(limit=10, job="nightly")] == [RUN]


def test_an_id_is_completed_where_only_one_run_is_meant(catalog: Catalog) -> None:
    begin(catalog, RUN)
    begin(catalog, OTHER)
    assert catalog.run("11").id == RUN
    for unclear in ("1", "3", "", "%"):
        with pytest.raises(NotFound):
            catalog.run(unclear)


def test_a_dead_process_s_runs_are_closed_and_a_living_one_s_are_not(catalog: Catalog) -> None:
    begin(catalog, RUN)
    begin(catalog, OTHER)
    assert catalog.end_interrupted(lambda run_id: run_id == RUN, ended="2026-01-02") == [RUN]
    interrupted = catalog.run(RUN)
    assert interrupted.state == "failed"
    assert interrupted.problem is not None
    assert interrupted.problem.code == "interrupted"
    assert catalog.run(OTHER).state == "running"


def test_a_run_that_ends_while_it_is_looked_for_is_not_called_interrupted(catalog: Catalog) -> None:
    begin(catalog)

    def ends_now(run_id: RunId) -> bool:
        catalog.end_run(run_id, state="success", ended="2026-01-02", warnings=(), problem=None)
        return True

    catalog.end_interrupted(ends_now, ended="2026-01-03")
    assert catalog.run(RUN).state == "success"


def test_what_was_written_is_there_after_opening_again(catalog: Catalog) -> None:
    begin(catalog)
    catalog.close()
    again = Catalog.open(catalog.path)
    assert again.run(RUN).state == "running"
    again.close()


def test_writers_in_several_connections_wait_for_each_other(catalog: Catalog) -> None:
    other = Catalog.open(catalog.path)
    begin(catalog)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: (catalog, other)[number % 2].add_vm(RUN, VM), range(40)))
    assert len(catalog.run(RUN).vms) == 40
    other.close()


def test_processes_that_open_a_new_catalog_at_once_make_it_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        for opened in threads.map(Catalog.open, [tmp_path / "catalog.sqlite"] * 4):
            opened.close()


def test_nobody_else_may_read_the_catalog(catalog: Catalog) -> None:
    begin(catalog)
    for path in catalog.path.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_file_that_is_no_catalog_is_refused_with_what_it_would_cost_to_lose_it(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_text("not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(StateError, match="cannot be used") as caught:
        Catalog.open(tmp_path / "catalog.sqlite")
    assert caught.value.hint is not None
    assert "no backups" in caught.value.hint


def test_a_catalog_from_a_newer_offhost_is_left_alone(catalog: Catalog) -> None:
    catalog.close()
    with sqlite3.connect(catalog.path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StateError, match="newer offhost"):
        Catalog.open(catalog.path)


def test_a_catalog_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    config = Config()
    config.set_main_option("script_location", "offhost.catalog:migrations")
    config.set_main_option("path_separator", "os")
    engine = create_engine(URL.create("sqlite", database=str(path)))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        values = (RUN, "nightly", "cli", "success", "2026-01-01", "[]")
        connection.exec_driver_sql(
            'INSERT INTO runs (id, job, "trigger", state, started, warnings) VALUES (?, ?, ?, ?, ?, ?)', values
        )
    engine.dispose()
    opened = Catalog.open(path)
    assert [(run.id, run.expired) for run in opened.runs(limit=10)] == [(RUN, ())]
    opened.close()


def test_the_migrations_make_the_schema_that_the_code_expects(catalog: Catalog) -> None:
    with catalog._engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == VERSION
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_had_changed_is_told_of_the_latest_run_that_knows_it(catalog: Catalog) -> None:
    def backed_up(run: RunId, key: str, changed_bytes: int | None) -> None:
        catalog.add_vm(run, replace(VM, disks=(replace(DISK, key=key, changed_bytes=changed_bytes),)))

    runs = [RunId(digit * 32) for digit in "12345"]
    for run in runs:
        begin(catalog, run, job="weekly" if run == runs[-1] else "nightly")
    backed_up(runs[0], "long ago", 1)
    backed_up(runs[1], "a", 2)
    backed_up(runs[2], "a", 3)
    backed_up(runs[3], "a", None)
    backed_up(runs[4], "a", 5)
    assert catalog.last_changes("nightly") == {("vc/web01", "a"): 3}
