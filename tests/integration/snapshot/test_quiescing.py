"""The quiesce policy: what is asked of the guest, and the level that is recorded, which is what was reached."""

import pytest

from offhost.errors import QuiesceFailed
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import QuiescePolicy, VssOptions
from support.held_vms import HeldVm
from support.sessions import connected, found
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

FAILING = Rule("CreateSnapshot*", mode="task", fault="FilesystemQuiesceFault", quiesced=True)


async def test_a_quiesced_guest_is_consistent_in_its_file_systems(web: HeldVm) -> None:
    async with web.hold(quiesce=QuiescePolicy("require")) as snap:
        assert snap.consistency == "filesystem"
    assert snap.warnings == []


async def test_require_fails_with_the_guest(web: HeldVm) -> None:
    web.vcenter.rules([FAILING])
    with pytest.raises(QuiesceFailed, match="FilesystemQuiesceFault"):
        async with web.hold(quiesce=QuiescePolicy("require")):
            pytest.fail("the scope was entered")
    assert web.snapshots() == []


async def test_try_falls_back_to_crash_consistent_with_a_warning(web: HeldVm) -> None:
    web.vcenter.rules([FAILING])
    async with web.hold(quiesce=QuiescePolicy("try")) as snap:
        assert snap.consistency == "crash"
        assert web.snapshots() == ["offhost backup"]
    (warning,) = snap.warnings
    assert "FilesystemQuiesceFault" in warning


async def test_off_does_not_ask_the_guest(web: HeldVm) -> None:
    web.vcenter.rules([FAILING])
    async with web.hold(quiesce=QuiescePolicy("off")) as snap:
        assert snap.consistency == "crash"
    assert snap.warnings == []


@pytest.fixture
async def without_tools(vcenter: SimulatedVCenter, vsphere: VSphere) -> HeldVm:
    """A running guest without VMware Tools: vSphere takes the snapshot and quiesces nothing."""
    moref = vcenter.create_vm("bare", [DiskSpec(1 << 20)], change_tracking=True)
    return HeldVm(vcenter, vsphere, await found(vsphere, moref))


async def test_the_level_is_what_was_reached_not_what_was_asked(without_tools: HeldVm) -> None:
    async with without_tools.hold(quiesce=QuiescePolicy("try")) as snap:
        assert snap.consistency == "crash"
    assert len(snap.warnings) == 1


async def test_require_does_not_take_silence_for_success(without_tools: HeldVm) -> None:
    with pytest.raises(QuiesceFailed):
        async with without_tools.hold(quiesce=QuiescePolicy("require")):
            pytest.fail("the scope was entered")
    assert without_tools.snapshots() == []


async def test_a_vm_that_is_off_is_offline_and_needs_no_quiescing(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    moref = vcenter.create_vm("cold", [DiskSpec(1 << 20)], powered_on=False)
    cold = HeldVm(vcenter, vsphere, await found(vsphere, moref))
    vcenter.rules([FAILING])
    async with cold.hold(quiesce=QuiescePolicy("require")) as snap:
        assert snap.consistency == "offline"


async def test_a_flag_without_anybody_in_the_guest_is_no_evidence(without_tools: HeldVm) -> None:
    """The host says that it was quiesced; but there is nobody in the guest who could have done it."""
    without_tools.vcenter.claim_quiesced(without_tools.vm.moref)
    async with without_tools.hold(quiesce=QuiescePolicy("try")) as snap:
        assert snap.consistency == "crash"
    (warning,) = snap.warnings
    assert "VMware Tools do not run" in warning
    with pytest.raises(QuiesceFailed, match="VMware Tools do not run"):
        async with without_tools.hold(quiesce=QuiescePolicy("require")):
            pytest.fail("the scope was entered")
    assert without_tools.snapshots() == []


@pytest.fixture
async def windows(vcenter: SimulatedVCenter, vsphere: VSphere) -> HeldVm:
    """A running Windows guest with VMware Tools."""
    disks = [DiskSpec(1 << 20)]
    moref = vcenter.create_vm("sql", disks, change_tracking=True, tools_running=True, guest_id="windows2019srv_64Guest")
    return HeldVm(vcenter, vsphere, await found(vsphere, moref))


async def test_a_windows_guest_is_application_consistent_only_with_its_writers_manifest(windows: HeldVm) -> None:
    async with windows.hold(quiesce=QuiescePolicy("require")) as snap:
        assert snap.consistency == "filesystem"
    windows.vcenter.set_vss_writers(windows.vm.moref, answering=True)
    async with windows.hold(quiesce=QuiescePolicy("require")) as snap:
        assert snap.consistency == "application"
        files = await snap.files()
    assert [name for name in files if "vss_manifests" in name] == ["sql-vss_manifests2.zip"]
    assert snap.warnings == []
    async with windows.hold(quiesce=QuiescePolicy("off")) as snap:
        assert snap.consistency == "crash"


async def test_asking_for_file_shares_only_reaches_the_file_systems(windows: HeldVm) -> None:
    """What was reached is told by the manifest, and there is none without writers."""
    windows.vcenter.set_vss_writers(windows.vm.moref, answering=True)
    policy = QuiescePolicy("require", vss=VssOptions(context="file_share_backup"))
    async with windows.hold(quiesce=policy) as snap:
        assert snap.consistency == "filesystem"


async def test_what_the_job_asks_of_vss_arrives(windows: HeldVm) -> None:
    vss = VssOptions("full", "backup", bootable_system_state=True, partial_file_support=True)
    async with windows.hold(quiesce=QuiescePolicy("require", 30, vss)):
        pass
    assert windows.vcenter.quiescing_asked(windows.vm.moref) == {
        "timeout": 30,
        "backup_type": 1,
        "context": "ctx_backup",
        "bootable_system_state": True,
        "partial_file_support": True,
    }


async def test_another_guest_is_asked_for_nothing_of_windows(web: HeldVm) -> None:
    async with web.hold(quiesce=QuiescePolicy("require", 240)):
        pass
    assert web.vcenter.quiescing_asked(web.vm.moref) == {"timeout": 240}


async def test_an_endpoint_from_before_6_5_is_asked_by_the_older_call(vcenter: SimulatedVCenter) -> None:
    vcenter.set_old_api()
    async with connected(vcenter) as vsphere:
        moref = vcenter.create_vm(
            "old", [DiskSpec(1 << 20)], change_tracking=True, tools_running=True, guest_id="windows8Server64Guest"
        )
        vcenter.set_vss_writers(moref, answering=True)
        old = HeldVm(vcenter, vsphere, await found(vsphere, moref))
        async with old.hold(quiesce=QuiescePolicy("require")) as snap:
            assert snap.consistency == "application"
        assert snap.warnings == []
        assert old.snapshots() == []
    calls = vcenter.calls().methods
    assert calls["CreateSnapshot_Task"] == 1
    assert "CreateSnapshotEx_Task" not in calls
