"""The configuration of ESX hosts: fetched from the host that vCenter vouches for, whole or not at all."""

import gzip
import io
import tarfile
from dataclasses import replace

import pytest

from offhost.backup.destination import Destination
from offhost.backup.host import HostBackup
from offhost.clock import SystemClock
from offhost.errors import ConnectFailed, PermissionDenied, ReadFailed, VSphereError
from offhost.vsphere import hosts as module
from offhost.vsphere.hosts import EsxHost, hosts
from offhost.vsphere.session import VSphere
from offhost.vsphere.trust import Endpoint
from support.vcenter import Rule, SimulatedHost, SimulatedVCenter


@pytest.fixture
def served(vcenter: SimulatedVCenter) -> tuple[SimulatedHost, ...]:
    return vcenter.serve_hosts()


@pytest.fixture
async def esx(served: tuple[SimulatedHost, ...], vsphere: VSphere) -> EsxHost:
    """The first host."""
    return (await hosts(vsphere))[0]


@pytest.fixture
def backup(vsphere: VSphere, destination: Destination) -> HostBackup:
    return HostBackup(vsphere=vsphere, destination=destination, clock=SystemClock(), made_by={"job": "hosts"})


async def test_a_host_is_backed_up_as_a_point_of_its_own_and_the_bundle_comes_back(
    backup: HostBackup, esx: EsxHost, destination: Destination
) -> None:
    report = await backup.run(esx)
    (point,) = destination.repository.points.of(esx.id)
    assert (point.id, point.kind, point.consistency, point.disks) == (report.point, "host", "application", ())
    assert point.vm_id == f"host/{esx.uuid}"
    told = point.origin["host"]
    assert (told["uuid"], told["build"], told["version"]) == (esx.uuid, esx.build, esx.version)
    (file,) = point.files
    content = destination.repository.restore_point(point).file(file)
    with tarfile.open(fileobj=io.BytesIO(content)) as bundle:
        assert f"build={esx.build}" in bundle.extractfile("Manifest.txt").read().decode()  # type: ignore[union-attr]  # it is a file


async def test_the_points_of_a_host_follow_one_another(backup: HostBackup, esx: EsxHost) -> None:
    first, second = await backup.run(esx), await backup.run(esx)
    points = backup.destination.repository.points.of(esx.id)
    assert [point.id for point in sorted(points, key=lambda point: point.order)] == [first.point, second.point]


async def test_a_host_whose_certificate_is_not_the_one_that_vcenter_knows_is_not_believed(
    backup: HostBackup, esx: EsxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody else answered at the host's address: vCenter knows another certificate."""
    real = module._endpoint

    async def known_otherwise(vsphere: VSphere, host: EsxHost) -> Endpoint:
        other = await real(vsphere, (await hosts(vsphere))[1])
        return replace(await real(vsphere, host), thumbprint=other.thumbprint)

    monkeypatch.setattr(module, "_endpoint", known_otherwise)
    with pytest.raises(ConnectFailed, match="not the pinned one"):
        await backup.run(esx)
    assert not backup.destination.repository.points.of(esx.id)


@pytest.mark.parametrize(
    "address",
    [
        "https://attacker.example.org/downloads/x.tgz",
        "https://user@*/downloads/x.tgz",
        "file:///etc/shadow",
        "https://*:99999/x",
        "https://*/down loads",
        "nonsense",
    ],
)
async def test_an_address_elsewhere_is_not_followed(
    backup: HostBackup, esx: EsxHost, vcenter: SimulatedVCenter, address: str
) -> None:
    vcenter.spoil_bundle(esx.moref, address=address)
    with pytest.raises(ReadFailed, match="not on itself"):
        await backup.run(esx)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>busy</html>",
        b"\x1f\x8b",
        gzip.compress(b"configuration" * 100)[:-1],
        gzip.compress(b"configuration" * 100)[:-9] + b"123456789",
    ],
)
async def test_what_is_not_a_whole_bundle_is_not_kept(
    backup: HostBackup, esx: EsxHost, vcenter: SimulatedVCenter, content: bytes
) -> None:
    vcenter.spoil_bundle(esx.moref, content=content)
    with pytest.raises(ReadFailed, match="not a whole gzip file"):
        await backup.run(esx)
    assert not backup.destination.repository.points.of(esx.id)


async def test_a_bundle_without_end_is_cut_off(
    backup: HostBackup, esx: EsxHost, vcenter: SimulatedVCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUNDLE_LIMIT_BYTES", 1 << 20)
    vcenter.spoil_bundle(esx.moref, content=bytes((1 << 20) + 1))
    with pytest.raises(ReadFailed, match="more than 1048576 bytes"):
        await backup.run(esx)


async def test_a_bundle_that_unpacks_to_more_than_any_host_has_is_refused(
    backup: HostBackup, esx: EsxHost, vcenter: SimulatedVCenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PLAIN_LIMIT_BYTES", 1 << 20)
    vcenter.spoil_bundle(esx.moref, content=gzip.compress(bytes(8 << 20)))
    with pytest.raises(ReadFailed, match="not a whole gzip file"):
        await backup.run(esx)


async def test_the_privilege_that_is_lacking_is_named(
    backup: HostBackup, esx: EsxHost, vcenter: SimulatedVCenter
) -> None:
    lacks = {"privilegeId": "Host.Config.Firmware"}
    vcenter.rules([Rule("BackupFirmwareConfiguration", fault="NoPermission", fields=lacks)])
    with pytest.raises(PermissionDenied, match=r"Host\.Config\.Firmware"):
        await backup.run(esx)


async def test_two_hosts_of_one_hardware_uuid_are_refused_by_name(
    served: tuple[SimulatedHost, ...], vsphere: VSphere, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = lambda ref, row: EsxHost(ref, str(row["name"]), "same", True, "", "", "", "", "")  # noqa: E731 - one field differs
    monkeypatch.setattr(module, "_host", same)
    with pytest.raises(VSphereError, match=rf"{served[0].name} and {served[1].name}"):
        await hosts(vsphere)


async def test_hosts_that_vcenter_has_never_reached_keep_no_other_from_its_backup(
    served: tuple[SimulatedHost, ...], vsphere: VSphere, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = lambda ref, row: EsxHost(ref, str(row["name"]), "", False, "", "", "", "", "")  # noqa: E731 - all alike
    monkeypatch.setattr(module, "_host", lost)
    assert len(await hosts(vsphere)) == len(served) > 1
