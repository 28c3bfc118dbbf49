"""ESX hosts from the command line: backed up by a job and by hand, listed, expired, given back."""

import json
import stat
import tarfile

import pytest

from support.site import Site
from support.vcenter import SimulatedHost, SimulatedVCenter

_JOB = """\
job: hosts
kind: host
vcenter: main
select: { include: [ { name: "127.0.1.*" } ], exclude: [ { name: "127.0.1.3" } ] }
repository: main
retention: { keep_last: 1 }
"""


@pytest.fixture(scope="module")
def served(shared_vcenter: SimulatedVCenter) -> tuple[SimulatedHost, ...]:
    return shared_vcenter.serve_hosts()


def test_a_job_backs_its_hosts_up_and_retention_works_on_them(site: Site, served: tuple[SimulatedHost, ...]) -> None:
    (site.folder / "jobs.d" / "hosts.yaml").write_text(_JOB)
    assert site.offhost("jobs", "run", "hosts").code == 0
    said = site.offhost("jobs", "run", "hosts")
    assert said.code == 0, said
    listed = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    assert sorted((point["vm"], point["kind"], point["disks"]) for point in listed) == [
        (served[0].name, "host", []),
        (served[1].name, "host", []),
    ]


def test_by_hand_and_back(site: Site, served: tuple[SimulatedHost, ...]) -> None:
    host = served[0]
    said = site.offhost("backup", "host", host.name)
    assert said.code == 0, said
    to = site.folder / "config.tgz"
    said = site.offhost("--repo", "main", "restore", "export", f"{host.name}@latest", "--to", to)
    assert said.code == 0, said
    assert host.uuid in said.out
    with tarfile.open(to) as bundle:
        assert set(bundle.getnames()) == {"Manifest.txt", "state.tgz"}
    assert stat.S_IMODE(to.stat().st_mode) == 0o600, "it holds the host's accounts"
    again = site.offhost("--repo", "main", "restore", "export", f"{host.name}@latest", "--to", to)
    assert "exists already" in again.told_once()[0]


@pytest.mark.usefixtures("served")
def test_a_host_that_is_not_there_is_refused_with_those_that_are(site: Site) -> None:
    said = site.offhost("backup", "host", "esx99")
    assert said.code == 1
    assert "'esx99'" in said.out + said.err
    assert "127.0.1.1" in said.out + said.err


@pytest.mark.usefixtures("served")
def test_a_host_that_fails_is_a_failed_run_and_the_others_are_backed_up(
    site: Site, served: tuple[SimulatedHost, ...]
) -> None:
    (site.folder / "jobs.d" / "hosts.yaml").write_text(_JOB)
    site.vcenter.spoil_bundle(served[0].moref, content=b"<html>")
    assert site.offhost("jobs", "run", "hosts").code == 1
    listed = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    assert [point["vm"] for point in listed] == [served[1].name]
