"""What the audit log says, and that it stands in nobody's way."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from offhost.clock import SystemClock
from offhost.daemon.auditing import Wanted, change_log, changes
from offhost.ids import InstallationId
from offhost.state import AuditLog
from offhost.vsphere.changes import Actor, Change

HERE = InstallationId("a" * 32)
ASKED = Change(
    id="1" * 32,
    vcenter="vc.example.org",
    account="offhost",
    actor=Actor("backup", "b" * 32, "nightly"),
    target="web01",
    vm_id="vc/web01",
    method="CreateSnapshotEx_Task",
    object="vm-7",
    what="taking a snapshot of web01",
    outcome="asked",
)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit.log")


def write(log: AuditLog, *told: Change) -> None:
    for change in told:
        change_log(log, HERE, SystemClock())(change)


def test_both_lines_of_a_change_are_one_with_its_outcome(log: AuditLog) -> None:
    write(log, ASKED, replace(ASKED, outcome="failed", problem="no room"))
    (change,) = changes(log, Wanted(), limit=10)
    assert (change["outcome"], change["problem"], change["installation"]) == ("failed", "no room", HERE)
    assert change["ended"] >= change["time"]


def test_one_whose_end_was_never_told_stays_asked(log: AuditLog) -> None:
    write(log, ASKED)
    (change,) = changes(log, Wanted(), limit=10)
    assert (change["outcome"], change["ended"]) == ("asked", None)


def test_they_are_chosen_by_run_vm_and_job(log: AuditLog) -> None:
    write(log, ASKED, replace(ASKED, id="2" * 32, target="web02", vm_id="vc/web02", actor=None))
    for wanted in (Wanted(run="bbbb"), Wanted(target="web01"), Wanted(target="vc/web01"), Wanted(job="nightly")):
        assert [change["id"] for change in changes(log, wanted, limit=10)] == [ASKED.id]
    assert changes(log, Wanted(target="web"), limit=10) == []


def test_the_latest_are_shown_when_there_are_more(log: AuditLog) -> None:
    write(log, *(replace(ASKED, id=str(number), outcome=end) for number in range(50) for end in ("asked", "done")))
    assert [change["id"] for change in changes(log, Wanted(), limit=3)] == ["47", "48", "49"]


def test_a_line_that_was_cut_short_does_not_hide_the_others(log: AuditLog) -> None:
    log.append('{"time": "2026-01-')
    log.append("[]")
    write(log, ASKED)
    assert len(changes(log, Wanted(), limit=10)) == 1


def test_what_cannot_be_written_is_a_warning_that_says_it_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        write(AuditLog(tmp_path / "not" / "there" / "audit.log"), ASKED)
    assert ASKED.what in caplog.text
    assert json.loads(caplog.records[0].args[1])["object"] == "vm-7"  # type: ignore[index,arg-type]  # a tuple of these
