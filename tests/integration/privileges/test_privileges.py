"""Each privilege of the table is necessary, and a feature's are sufficient, as the simulated vCenter checks them."""

from typing import Any

import pytest
from pyVmomi import vim

from offhost.errors import PermissionDenied
from offhost.vsphere.privileges import NEEDS, Feature, Place, ids

pytestmark = [pytest.mark.vsim, pytest.mark.slow]

_ELSEWHERE = {one.id for feature in NEEDS if feature is not Feature.ACCEPTANCE for one in NEEDS[feature]}
SINGLE = [
    (feature, privilege.id)
    for feature, privileges in NEEDS.items()
    for privilege in privileges
    if feature is not Feature.ACCEPTANCE or privilege.id not in _ELSEWHERE
]


_NEED_A_SNAPSHOT = (Feature.CHANGE_TRACKING, Feature.QUIESCING, Feature.FOLDER_READING, Feature.LATENCY)
"""What is of no use without the snapshot of kind image."""


KINDS = {
    Place.VM: "VirtualMachine",
    Place.DATASTORE: "Datastore",
    Place.FOLDER: "Folder",
    Place.POOL: "ResourcePool",
    Place.NETWORK: "Network",
    Place.HOST: "HostSystem",
    Place.ROOT: "RootFolder",
}


@pytest.mark.parametrize("feature", list(Feature))
async def test_a_features_privileges_are_enough_for_it_on_the_objects_that_the_table_names(
    deeds_of: Any, feature: Feature
) -> None:
    features = {feature, Feature.IMAGE} if feature in _NEED_A_SNAPSHOT else {feature}
    grants = {f"{one.id}@{KINDS[one.on]}" for needed in features for one in NEEDS[needed]}
    async with deeds_of(grants) as deeds:
        assert await deeds.do(feature) == []


@pytest.mark.parametrize(("feature", "privilege"), SINGLE)
async def test_without_one_of_them_there_though_it_is_held_on_all_else_the_feature_fails_and_names_it(
    deeds_of: Any, feature: Feature, privilege: str
) -> None:
    (place,) = {one.on for one in NEEDS[feature] if one.id == privilege}
    held = {one for one in ids(Feature) if one != privilege}
    reached = {KINDS[place]} | (
        {"VirtualMachine"} if place is Place.FOLDER else {"Folder"} if place is Place.VM else set()
    )
    elsewhere = {f"{privilege}@{kind}" for kind in KINDS.values() if kind not in reached}
    async with deeds_of(held | elsewhere) as deeds:
        assert any(privilege in line for line in await deeds.do(feature))


async def test_one_role_does_everything(deeds_of: Any) -> None:
    async with deeds_of(ids(Feature)) as deeds:
        for feature in Feature:
            assert await deeds.do(feature) == [], feature


async def test_a_method_that_the_simulator_has_no_privilege_for_is_refused_to_every_role(deeds_of: Any) -> None:
    async with deeds_of(ids(Feature)) as deeds:
        vsphere, moref = deeds.web.vsphere, deeds.web.moref
        with pytest.raises(PermissionDenied, match="Rename_Task"):
            await vsphere.change(lambda live: live.vm(moref).Rename("other"), "renaming", "web")
        spec = vim.vm.ConfigSpec(memoryMB=2048)
        with pytest.raises(PermissionDenied, match="other changes of a configuration"):
            await vsphere.change(lambda live: live.vm(moref).Reconfigure(spec), "reconfiguring", "web")


def test_what_vmware_says_of_the_methods_is_in_the_table() -> None:
    """pyVmomi brings the privilege of each method whose privilege does not depend on its arguments."""
    called: dict[Feature, list[Any]] = {
        Feature.IMAGE: [vim.VirtualMachine.CreateSnapshot, vim.VirtualMachine.CreateSnapshotEx, vim.vm.Snapshot.Remove],
        Feature.CHANGE_TRACKING: [vim.VirtualMachine.QueryChangedDiskAreas],
        Feature.CONSOLIDATION: [vim.VirtualMachine.ConsolidateVMDisks_Task],
        Feature.POWER_OFF: [vim.VirtualMachine.ShutdownGuest, vim.VirtualMachine.PowerOff, vim.VirtualMachine.PowerOn],
        Feature.HOST: [vim.host.FirmwareSystem.BackupFirmwareConfiguration],
        Feature.RESTORE: [vim.Folder.CreateVm, vim.VirtualMachine.Unregister],
    }
    for feature, methods in called.items():
        assert {method.info.privId for method in methods} <= set(ids([feature])), feature
