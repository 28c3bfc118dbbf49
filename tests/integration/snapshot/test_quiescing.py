"""The quiesce policy: what is asked of the guest, and the level that is recorded, which is what was reached."""

import pytest

from offhost.errors import QuiesceFailed
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import QuiescePolicy
from support.held_vms import HeldVm
from support.sessions import found
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
