"""`offhost doctor`: what keeps the jobs from working is told with the mend, and nothing is changed."""

import json
import shutil
from typing import Any

import pytest

from offhost.vsphere.changes import READING
from offhost.vsphere.privileges import BACKUP, Feature, ids
from support.site import Site

USER = "offhost@vsphere.local"


def examined(site: Site) -> tuple[int, list[dict[str, Any]]]:
    said = site.offhost("doctor", "--json")
    findings: list[dict[str, Any]] = json.loads(said.out)
    return said.code, findings


def found(findings: list[dict[str, Any]], check: str) -> dict[str, Any]:
    (one,) = [finding for finding in findings if finding["check"] == check and finding["level"] != "ok"]
    return one


def give_role(site: Site, privileges: list[str]) -> None:
    site.vcenter.set_role(USER, "secret", privileges)
    site.secret("password", "secret")
    proxy = site.folder / "proxy.yaml"
    proxy.write_text(proxy.read_text().replace(site.vcenter.user, USER))


@pytest.mark.narrow
def test_an_account_with_the_role_of_the_document_has_all_it_needs_and_no_more(site: Site) -> None:
    give_role(site, ids(BACKUP))
    site.vcenter.calls(reset=True)
    code, findings = examined(site)
    assert (code, {one["level"] for one in findings}) == (0, {"ok"})
    calls = site.vcenter.calls()
    assert set(calls.methods) <= READING
    assert sum(calls.methods.values()) < 30
    assert site.run_job().code == 0


def test_a_privilege_that_a_job_needs_is_named_with_where_and_the_mend(site: Site) -> None:
    give_role(site, [one for one in ids(BACKUP) if "RemoveSnapshot" not in one])
    code, findings = examined(site)
    lacks = found(findings, "privileges: image")
    assert (code, lacks["level"]) == (1, "error")
    assert "VirtualMachine.State.RemoveSnapshot" in lacks["said"]
    assert site.name in lacks["said"]
    assert "VirtualMachine.State.RemoveSnapshot" in lacks["hint"]


def test_of_many_vms_those_are_named_on_which_it_is_lacking(site: Site) -> None:
    other = site.vcenter.create_vm(f"{site.name}-twin", powered_on=False)
    job = site.folder / "jobs.d" / "nightly.yaml"
    job.write_text(job.read_text().replace(site.name, f"{site.name}*"))
    privilege = "VirtualMachine.State.CreateSnapshot"
    give_role(site, [f"{privilege}@{other}", *(one for one in ids(BACKUP) if one != privilege)])
    lacks = found(examined(site)[1], "privileges: image")
    assert lacks["said"].endswith(f"on {site.name}")


def test_what_no_job_uses_is_not_asked_for(site: Site) -> None:
    give_role(site, ids([Feature.IMAGE]))
    job = site.folder / "jobs.d" / "nightly.yaml"
    job.write_text(job.read_text().replace("transports: [datastore, https]", "transports: [datastore]\nmode: full"))
    assert examined(site)[0] == 0


def test_an_administrators_account_is_a_warning(site: Site) -> None:
    code, findings = examined(site)
    assert code == 3
    assert "administrator" in found(findings, "least privilege")["said"]


def test_a_privilege_too_many_is_a_warning(site: Site) -> None:
    give_role(site, [*ids(BACKUP), "VirtualMachine.Interact.Reset"])
    code, findings = examined(site)
    assert (code, "VirtualMachine.Interact.Reset" in found(findings, "least privilege")["said"]) == (3, True)


def test_the_hosts_and_the_vm_that_is_shut_down_are_asked_about_too(site: Site) -> None:
    folder = site.vcenter.datastores["DS1"] / site.name
    (site.folder / "jobs.d" / "hosts.yaml").write_text(
        'job: hosts\nkind: host\nvcenter: main\nselect: { include: [ { name: "*" } ] }\nrepository: main\n'
    )
    (site.folder / "jobs.d" / "folder.yaml").write_text(
        "job: folder\nkind: directory\nvcenter: main\nrepository: main\n"
        f"directory: {{ path: {folder}, consistency: power_off }}\n"
    )
    give_role(site, ids(BACKUP))
    code, findings = examined(site)
    assert code == 1
    assert "Host.Config.Firmware" in found(findings, "privileges: host")["said"]
    lacking = {one["said"].split(",")[0] for one in findings if one["check"] == "privileges: power_off"}
    assert lacking == {
        "the account lacks VirtualMachine.Interact.PowerOff",
        "the account lacks VirtualMachine.Interact.PowerOn",
    }
    give_role(site, ids([*BACKUP, Feature.HOST, Feature.POWER_OFF]))
    assert examined(site)[0] == 0


def test_a_wrong_password_and_a_wrong_passphrase_are_told_together(site: Site) -> None:
    site.secret("password", "wrong")
    site.secret("passphrase", "wrong")
    said = site.offhost("doctor")
    assert said.code == 1
    assert "user and password are not accepted" in said.out
    assert "the passphrase does not open it" in said.out
    assert "Traceback" not in said.out + said.err


def test_another_certificate_than_the_pinned_one_is_told(site: Site) -> None:
    proxy = site.folder / "proxy.yaml"
    proxy.write_text(proxy.read_text().replace(site.vcenter.thumbprint, "AB:" * 31 + "AB"))
    code, findings = examined(site)
    assert (code, "not the pinned one" in found(findings, "connection")["said"]) == (1, True)


def test_a_mount_that_is_not_there_or_not_the_datastore_is_told(site: Site) -> None:
    give_role(site, ids(BACKUP))
    proxy = site.folder / "proxy.yaml"
    empty = site.folder / "empty"
    proxy.write_text(proxy.read_text().replace(f"path: {site.vcenter.datastores['DS1']} ", f"path: {empty} "))
    code, findings = examined(site)
    assert (code, "is not there" in found(findings, "datastore DS1")["said"]) == (1, True)
    empty.mkdir()
    code, findings = examined(site)
    assert (code, "has none of its VMs" in found(findings, "datastore DS1")["said"]) == (1, True)
    assert "cannot be backed up" in found(findings, "job nightly")["said"]


def test_a_copy_of_a_datastore_that_shows_another_moment_is_told(site: Site) -> None:
    give_role(site, ids(BACKUP))
    proxy, copy = site.folder / "proxy.yaml", site.folder / "copy"
    shutil.copytree(site.vcenter.datastores["DS1"] / site.name, copy / site.name)
    proxy.write_text(proxy.read_text().replace(f"path: {site.vcenter.datastores['DS1']} ", f"path: {copy} "))
    assert examined(site)[0] == 0
    with (copy / site.name / f"{site.name}.vmx").open("a") as vmx:
        vmx.write("old = TRUE\n")
    code, findings = examined(site)
    assert (code, "another moment" in found(findings, "datastore DS1")["said"]) == (1, True)


def test_a_running_vm_on_a_datastore_that_is_not_mounted_cannot_be_read(site: Site) -> None:
    proxy = site.folder / "proxy.yaml"
    lines = [line for line in proxy.read_text().splitlines() if "name: DS1" not in line]
    proxy.write_text("\n".join(lines) + "\n")
    code, findings = examined(site)
    assert (code, "cannot be read over https" in found(findings, "datastore DS1")["said"]) == (1, True)


def test_a_repository_that_is_gone_is_told(site: Site) -> None:
    shutil.rmtree(site.repository)
    code, findings = examined(site)
    (gone,) = [one for one in findings if one["subject"] == "repository main"]
    assert (code, gone["level"]) == (1, "error")


def test_a_job_that_selects_nothing_is_a_warning(site: Site) -> None:
    give_role(site, ids(BACKUP))
    job = site.folder / "jobs.d" / "nightly.yaml"
    job.write_text(job.read_text().replace(site.name, "nobody"))
    code, findings = examined(site)
    assert (code, found(findings, "job nightly")["said"]) == (3, "selects nothing")
