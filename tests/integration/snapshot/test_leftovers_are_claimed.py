"""Leftovers go under their VM's claim: never under a run that works on the VM."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from offhost.errors import Conflict
from offhost.ids import RunId, VmId
from offhost.snapshot.leftovers import remove_leftovers
from offhost.state import State
from support.held_vms import OWNER, HeldVm

pytestmark = pytest.mark.vsim

OTHER = RunId("e" * 32)


async def test_the_vm_is_claimed_while_its_leftover_goes(web: HeldVm, tmp_path: Path) -> None:
    state = State.open(tmp_path)
    left_at_claim: list[int] = []

    def claim(vm_id: VmId) -> AbstractContextManager[object]:
        left_at_claim.append(len(web.snapshots()))
        return state.claim_vm(vm_id, None)

    web.vcenter.create_foreign_snapshot(web.vm.moref, description=OWNER.description())
    (removed,) = await remove_leftovers(web.vsphere, OWNER.installation, state.is_dead, claim=claim)
    assert (left_at_claim, removed.problem, web.snapshots()) == ([1], None, [])
    state.claim_vm(web.vm.id, OTHER).release()


@pytest.mark.narrow
async def test_a_vm_that_a_run_works_on_is_left_to_it(web: HeldVm, tmp_path: Path) -> None:
    state = State.open(tmp_path)

    def claim(vm_id: VmId) -> AbstractContextManager[object] | None:
        with pytest.raises(Conflict, match=OTHER):
            state.claim_vm(vm_id, None)
        return None

    web.vcenter.create_foreign_snapshot(web.vm.moref, description=OWNER.description())
    with state.claim_vm(web.vm.id, OTHER):
        assert await remove_leftovers(web.vsphere, OWNER.installation, state.is_dead, claim=claim) == []
    assert len(web.snapshots()) == 1
