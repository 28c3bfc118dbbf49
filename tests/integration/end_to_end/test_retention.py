"""A job's retention: what its runs forget, what a deleted VM leaves, what is nobody's."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from offhost.clock import SystemClock
from support.site import Site
from support.vcenter import DiskSpec


def retain(site: Site, rules: str) -> None:
    file = site.folder / "jobs.d" / "nightly.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("retention:")]
    file.write_text("\n".join([*lines, f"retention: {{ {rules} }}", ""]))


def listed(site: Site) -> list[str]:
    return [point["id"] for point in json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)]


def last_run(site: Site) -> dict[str, Any]:
    (latest, *_) = json.loads(site.offhost("runs", "list", "--json").out)
    found: dict[str, Any] = json.loads(site.offhost("runs", "show", latest["id"], "--json").out)
    return found


@contextmanager
def days_later(days: int) -> Iterator[None]:
    with mock.patch.object(SystemClock, "now", return_value=datetime.now(UTC) + timedelta(days=days)):
        yield


def test_a_run_forgets_what_its_job_keeps_no_longer(site: Site) -> None:
    for _ in range(2):
        assert site.run_job().code == 0
    first, second = listed(site)
    assert last_run(site)["expired"] == []
    retain(site, "keep_last: 2")
    said = site.run_job()
    assert said.code == 0, said.err
    assert f"forgotten: {first[:12]} of {site.name}" in said.out
    assert listed(site)[:1] == [second]
    (expired,) = last_run(site)["expired"]
    assert (expired["point"], expired["vm"], expired["reason"]) == (first, site.name, "beyond the last 2")
    assert site.restored(second)


def test_what_was_backed_up_by_hand_is_no_job_s(site: Site) -> None:
    retain(site, "keep_last: 1")
    assert site.offhost("backup", "vm", site.name).code == 0
    for _ in range(2):
        assert site.run_job().code == 0
    by_hand, nightly = listed(site)
    told = {each["id"]: each["reasons"] for each in json.loads(site.offhost("retention", "explain", "--json").out)}
    assert told[by_hand] == [f"made by `backup vm {site.name}`, which is not a job with this repository: kept"]
    assert told[nightly] == ["last 1 of 1"]


def test_points_of_a_deleted_vm_go_when_their_time_has_come(site: Site) -> None:
    other = site.vcenter.create_vm(f"{site.name}-other", [DiskSpec(1 << 20)], powered_on=False)
    retain(site, "after_vm_deleted: 90d")
    assert site.run_job().code == 0
    with days_later(100):
        assert site.offhost("retention", "apply").out == "", "the VM is there"
    site.vcenter.power(site.moref, on=False)
    site.vcenter.destroy_vm(site.moref)
    with days_later(80):
        assert site.offhost("retention", "apply").out == ""
    with days_later(100):
        said = site.offhost("retention", "apply", "--dry-run")
        assert "its VM is deleted, and has no point of the last 90d" in said.out
        assert len(listed(site)) == 1
        said = site.run_job()
    assert said.warnings == [f"`include` names no VM with name: {site.name}", "the job selects no VM"]
    assert "its VM is deleted" in said.out
    assert listed(site) == []
    site.vcenter.destroy_vm(other)


def test_retention_that_cannot_be_applied_is_a_warning(site: Site) -> None:
    assert site.run_job().code == 0
    (point,) = listed(site)
    assert site.offhost("--repo", "main", "points", "pin", point).code == 0
    (pin,) = (site.repository / "marks").iterdir()
    pin.chmod(0o600)
    pin.write_bytes(b"not a pin")
    retain(site, "keep_last: 1")
    said = site.run_job()
    assert said.code == 3
    (warning,) = [line for line in said.warnings if line.startswith("retention was not applied: ")]
    assert pin.name in warning
    assert len(listed(site)) == 2
