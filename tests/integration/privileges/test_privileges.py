"""Each privilege of the table is necessary, and a feature's are sufficient, as the simulated vCenter checks them."""

from typing import Any

import pytest
from pyVmomi import vim

from offhost.vsphere.privileges import NEEDS, Feature, ids

pytestmark = [pytest.mark.vsim, pytest.mark.slow]

_ELSEWHERE = {one.id for feature in NEEDS if feature is not Feature.ACCEPTANCE for one in NEEDS[feature]}
SINGLE = [
    (feature, privilege.id)
    for feature, privileges in NEEDS.items()
    for privilege in privileges
    if feature is not Feature.ACCEPTANCE or privilege.id not in _ELSEWHERE
]


@pytest.mark.parametrize("feature", list(Feature))
async def test_a_features_privileges_are_enough_for_it(deeds_of: Any, feature: Feature) -> None:
    also = (Feature.IMAGE,) if feature in _NEED_A_SNAPSHOT else ()
    async with deeds_of(ids([feature, *also])) as deeds:
        assert await deeds.do(feature) == []


_NEED_A_SNAPSHOT = (Feature.CHANGE_TRACKING, Feature.QUIESCING, Feature.FOLDER_READING, Feature.LATENCY)
"""What is of no use without the snapshot of kind image."""


@pytest.mark.parametrize(("feature", "privilege"), SINGLE)
async def test_without_one_of_its_privileges_a_feature_fails_and_names_it(
    deeds_of: Any, feature: Feature, privilege: str
) -> None:
    every = set(ids(Feature))
    async with deeds_of(every - {privilege}) as deeds:
        said = await deeds.do(feature)
    assert any(privilege in line for line in said), said


async def test_one_role_does_everything(deeds_of: Any) -> None:
    async with deeds_of(ids(Feature)) as deeds:
        for feature in Feature:
            assert await deeds.do(feature) == [], feature


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
