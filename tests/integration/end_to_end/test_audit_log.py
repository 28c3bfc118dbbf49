"""Every change in vSphere is in the audit log: what the simulator was asked is held against it, call by call."""

import json
from collections import Counter
from typing import Any

import pytest

from support.site import Site
from support.vcenter import Rule

READING = {
    "ContinueRetrievePropertiesEx",
    "CreateCollectorForEvents",
    "CreateContainerView",
    "CurrentTime",
    "DestroyCollector",
    "DestroyView",
    "Login",
    "Logout",
    "QueryChangedDiskAreas",
    "QueryPerf",
    "ReadNextEvents",
    "RetrievePropertiesEx",
    "RetrieveServiceContent",
    "SetCollectorPageSize",
}
"""What a test may leave out of account; anything else that the simulator was asked has to be in the log."""


def logged(site: Site, *arguments: str) -> list[dict[str, Any]]:
    said = site.offhost("audit", "--json", "--limit", "100000", *arguments)
    assert said.code == 0, said
    found: list[dict[str, Any]] = json.loads(said.out)
    return found


def asked(site: Site) -> Counter[tuple[str, str]]:
    return Counter(call for call in site.vcenter.calls().in_order if call[0] not in READING)


def test_what_the_simulator_was_asked_to_change_is_in_the_log(site: Site) -> None:
    site.vcenter.calls(reset=True)
    assert site.run_job().code == 0
    site.vcenter.remove_snapshot(site.moref, site.vcenter.snapshots(site.moref)[0].moref)
    site.vcenter.set_change_tracking(site.moref, on=False)
    assert site.run_job().code == 0
    points = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    assert site.offhost("restore", "vm", points[0]["id"], "--new-name", f"{site.name}-back").code == 0
    accepted = site.offhost("acceptance", "--datastore", "DS1", "--report", str(site.folder / "VERIFIED.md"))
    assert accepted.code == 0, accepted
    lines = logged(site)
    seen = asked(site)
    assert Counter((line["method"], line["object"]) for line in lines if "/" not in line["method"]) == seen
    assert {method for method, _ in seen} >= {
        "CreateSnapshotEx_Task",
        "RemoveSnapshot_Task",
        "ReconfigVM_Task",
        "MakeDirectory",
        "CreateVM_Task",
        "PowerOnVM_Task",
        "Destroy_Task",
    }
    assert {line["outcome"] for line in lines} == {"done"}
    assert {line["purpose"] for line in lines} == {"backup", "restore", "acceptance"}
    assert all(line["run"] for line in lines if line["purpose"] != "restore")
    assert {line["purpose"] for line in lines if "offhost-acceptance" in line["target"]} == {"acceptance"}


@pytest.mark.narrow
def test_a_line_says_who_what_and_to_which_vm(site: Site) -> None:
    assert site.run_job().code == 0
    run = json.loads(site.offhost("runs", "list", "--json").out)[0]["id"]
    lines = logged(site, "--run", run)
    assert [line["method"] for line in lines] == ["CreateSnapshotEx_Task", "RemoveSnapshot_Task"]
    installation = (site.folder / "state" / "installation").read_text().strip()
    for line in lines:
        told = {key: line[key] for key in ("installation", "purpose", "run", "job", "target", "account", "vcenter")}
        assert told == {
            "installation": installation,
            "purpose": "backup",
            "run": run,
            "job": "nightly",
            "target": site.name,
            "account": site.vcenter.user,
            "vcenter": site.vcenter.host,
        }
        assert line["vm_id"].count("/") == 1
    assert (lines[0]["object"], lines[0]["what"]) == (site.moref, f"taking a snapshot of {site.name}")
    shown = site.offhost("audit", "--vm", site.name)
    assert f"taking a snapshot of {site.name}" in shown.out


def test_what_failed_is_in_the_log_with_why(site: Site) -> None:
    lacks = {"privilegeId": "VirtualMachine.State.CreateSnapshot"}
    for rule, words in (
        (Rule("CreateSnapshot*", mode="task", fault="InsufficientResourcesFault"), "InsufficientResourcesFault"),
        (Rule("CreateSnapshot*", fault="NoPermission", fields=lacks), "lacks VirtualMachine.State.CreateSnapshot"),
    ):
        site.vcenter.rules([rule])
        assert site.run_job().code == 1
        last = logged(site)[-1]
        assert (last["outcome"], words in last["problem"]) == ("failed", True)


def test_a_call_whose_answer_was_lost_has_an_unknown_outcome(site: Site) -> None:
    site.vcenter.rules([Rule("RemoveSnapshot_Task", mode="drop", count=1)])
    assert site.run_job().code in (0, 3)
    removals = [line for line in logged(site) if line["method"] == "RemoveSnapshot_Task"]
    assert [line["outcome"] for line in removals] == ["unknown", "done"]


def test_a_killed_run_leaves_what_it_asked_for(site: Site) -> None:
    site.vcenter.rules([Rule("CreateSnapshot*", mode="task", delay_ms=1500)])
    running = site.start("jobs", "run", "nightly")
    try:
        for _ in range(600):
            if [line for line in logged(site) if line["outcome"] == "asked"]:
                break
        running.kill()
    finally:
        running.communicate()
    (left,) = logged(site)
    assert (left["method"], left["outcome"], left["ended"]) == ("CreateSnapshotEx_Task", "asked", None)
