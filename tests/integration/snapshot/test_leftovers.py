"""What dead runs left: ours and dead is removed, everything else is not touched."""

import pytest

from offhost.ids import InstallationId, RunId
from offhost.snapshot.leftovers import remove_leftovers
from offhost.vsphere.snapshots import Owner
from support.held_vms import OWNER, HeldVm
from support.vcenter import Rule

pytestmark = pytest.mark.vsim

DEAD = OWNER
ALIVE = Owner(OWNER.installation, RunId("c" * 32))
FOREIGN = Owner(InstallationId("d" * 32), OWNER.run)


def is_dead(run: RunId) -> bool:
    """As a catalog of runs would say."""
    return run == DEAD.run


@pytest.mark.narrow
async def test_a_dead_runs_snapshot_is_removed(web: HeldVm) -> None:
    web.vcenter.create_foreign_snapshot(web.vm.moref, description=DEAD.description())
    (leftover,) = await remove_leftovers(web.vsphere, OWNER.installation, is_dead)
    assert (leftover.vm, leftover.run, leftover.problem) == ("web", DEAD.run, None)
    assert web.snapshots() == []


@pytest.mark.parametrize(
    "description",
    ["", "before the update", ALIVE.description(), FOREIGN.description(), "not " + DEAD.description()],
    ids=["none", "an administrator's", "of a live run", "of another installation", "only quoted"],
)
async def test_everything_else_is_not_touched(web: HeldVm, description: str) -> None:
    web.vcenter.create_foreign_snapshot(web.vm.moref, description=description)
    assert await remove_leftovers(web.vsphere, OWNER.installation, is_dead) == []
    assert len(web.snapshots()) == 1


async def test_a_leftover_between_foreign_snapshots_goes_alone(web: HeldVm) -> None:
    below = web.vcenter.create_foreign_snapshot(web.vm.moref)
    web.vcenter.create_foreign_snapshot(web.vm.moref, description=DEAD.description())
    above = web.vcenter.create_foreign_snapshot(web.vm.moref)
    await remove_leftovers(web.vsphere, OWNER.installation, is_dead)
    assert [one.moref for one in web.vcenter.snapshots(web.vm.moref)] == [below, above]


async def test_one_that_cannot_be_removed_does_not_keep_the_others(web: HeldVm) -> None:
    other = web.vcenter.create_vm("other")
    for moref in (web.vm.moref, other):
        web.vcenter.create_foreign_snapshot(moref, description=DEAD.description())
    busy = {"task": {"type": "Task", "value": "task-1"}}
    rule = Rule("RemoveSnapshot_Task", mode="task", fault="TaskInProgress", fields=busy, object=web.vm.moref)
    web.vcenter.rules([rule])
    found = {one.vm: one.problem for one in await remove_leftovers(web.vsphere, OWNER.installation, is_dead)}
    assert found["other"] is None
    assert "TaskInProgress" in str(found["web"])
    assert not web.vcenter.snapshots(other)
