"""Nothing is changed in vSphere without a record of it, whatever the way."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pyVmomi import vim

from offhost.aio import in_own_thread, in_thread
from offhost.errors import VSphereError
from offhost.vsphere.changes import READING, Actor, Change, acting
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.power import switch_off
from offhost.vsphere.registration import make_directory
from offhost.vsphere.session import VSphere
from offhost.vsphere.tags import attach_tags, tags_of
from support.sessions import endpoint, found
from support.tagging import tag
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim


async def test_a_method_that_changes_something_does_not_go_out_unannounced(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(1 << 20)])
    with pytest.raises(RuntimeError, match="PowerOffVM_Task"):
        await vsphere.read(lambda live: live.vm(moref).PowerOff(), "looking")
    assert "PowerOffVM_Task" not in vcenter.calls().methods
    assert vcenter.power_state(moref) == "poweredOn"


async def test_nor_does_a_request_to_rest(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    with pytest.raises(RuntimeError, match="POST /rest"), vsphere.rest.session() as ask:
        ask("POST", "/com/vmware/cis/tagging/category", {"create_spec": {"name": "backup"}})
    assert [call for call in vcenter.calls().rest if "category" in call] == []


async def test_a_change_is_told_before_it_goes_out_and_when_it_is_over(vcenter: SimulatedVCenter) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(1 << 20)])
    told: list[tuple[Change, str]] = []
    session = await VSphere.connect(endpoint(vcenter), lambda one: told.append((one, vcenter.power_state(moref))))
    try:
        vm = await found(session, moref)
        with acting(Actor("backup", "r" * 32, "nightly")):
            await switch_off(session, vm)
    finally:
        await session.close()
    (begun, before), (ended, after) = told
    assert (begun.outcome, before, ended.outcome, after) == ("asked", "poweredOn", "done", "poweredOff")
    assert (begun.id, begun.vm_id, begun.target, begun.object) == (ended.id, vm.id, "web", moref)
    assert begun.actor == Actor("backup", "r" * 32, "nightly")


@pytest.mark.parametrize(
    ("rule", "outcomes"),
    [
        (Rule("MakeDirectory", fault="NotAuthenticated", count=1), ["failed", "done"]),
        (Rule("MakeDirectory", fault="NoPermission"), ["failed"]),
        (Rule("MakeDirectory", mode="drop"), ["unknown"]),
        (Rule("MakeDirectory", mode="http503"), ["unknown"]),
    ],
)
async def test_each_call_has_an_outcome(vcenter: SimulatedVCenter, rule: Rule, outcomes: list[str]) -> None:
    told: list[Change] = []
    session = await VSphere.connect(endpoint(vcenter), told.append)
    vcenter.rules([rule])
    try:
        await make_directory(session, "[DS1] web")
    except VSphereError:
        assert outcomes[-1] != "done"
    finally:
        await session.close()
    assert [change.outcome for change in told if change.outcome != "asked"] == outcomes
    assert len({change.id for change in told}) == len(outcomes)


@pytest.mark.parametrize("way", [in_thread, in_own_thread])
async def test_files_written_over_folder_are_told_with_who_has_a_thread_do_it(
    vcenter: SimulatedVCenter, way: Callable[..., Awaitable[None]]
) -> None:
    told: list[Change] = []
    session = await VSphere.connect(endpoint(vcenter), told.append)
    try:
        await make_directory(session, "[DS1] web")
        folder = FolderAccess(session)
        with acting(Actor("restore")):
            await way(folder.upload, "[DS1] web/web.nvram", 3, iter([b"abc"]))
        folder.close()
    finally:
        await session.close()
    last = [(change.method, change.target, change.outcome, change.actor) for change in told][-2:]
    assert last == [("PUT /folder", "[DS1] web/web.nvram", end, Actor("restore")) for end in ("asked", "done")]


async def test_tags_that_are_attached_are_told(vcenter: SimulatedVCenter) -> None:
    told: list[Change] = []
    bearer, other = vcenter.create_vm("web"), vcenter.create_vm("other")
    tag(vcenter, bearer, "backup:gold")
    session = await VSphere.connect(endpoint(vcenter), told.append)
    try:
        gold = await tags_of(session, await found(session, bearer))
        assert told == []
        assert await attach_tags(session, await found(session, other), gold) == []
    finally:
        await session.close()
    assert [(change.method, change.target, change.outcome) for change in told] == [
        ("POST /rest", "other", "asked"),
        ("POST /rest", "other", "done"),
    ]
    assert "~action=attach" in told[0].object


def test_of_the_methods_that_need_a_privilege_only_one_is_taken_for_reading() -> None:
    every: list[Any] = [vim.VirtualMachine, vim.vm.Snapshot, vim.Folder, vim.Datastore, vim.HostSystem]
    methods = [getattr(getattr(kind, name, None), "info", None) for kind in every for name in dir(kind)]
    needing = {one.wsdlName for one in methods if one and one.privId and not one.privId.startswith("System.")}
    assert len(needing) > 30
    assert needing & READING == {"QueryChangedDiskAreas"}
