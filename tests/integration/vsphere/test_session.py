"""What the session promises: trust before the first byte, one log-in, renewal, repetition of what is safe to repeat."""

import asyncio
import re

import pytest

from offhost.errors import ConnectFailed, LoginFailed, PermissionDenied, SessionLost, UsageError, VmGone
from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import find, vms
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import create, snapshots
from support.sessions import connected, endpoint
from support.vcenter import Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

LISTING = "RetrievePropertiesEx"


async def test_it_says_what_the_endpoint_is(vsphere: VSphere) -> None:
    assert vsphere.about.is_vcenter
    assert re.fullmatch(r"[0-9a-f-]{36}", vsphere.about.instance_uuid)
    assert vsphere.about.version


async def test_a_wrong_thumbprint_ends_before_the_password_is_sent(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(ConnectFailed, match="not the pinned one") as raised:
        await VSphere.connect(endpoint(vcenter, thumbprint="AB:" * 31 + "AB"))
    assert vcenter.thumbprint.replace(":", "").lower() in (raised.value.hint or "").replace(":", "").lower()
    assert not vcenter.calls().methods


async def test_without_a_thumbprint_an_unknown_authority_is_refused(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(ConnectFailed, match="cannot be trusted"):
        await VSphere.connect(endpoint(vcenter, thumbprint=None))
    assert not vcenter.calls().methods


async def test_a_sha1_thumbprint_is_refused(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(UsageError, match="SHA-256"):
        endpoint(vcenter, thumbprint="AB:" * 19 + "AB")


async def test_nobody_listening_is_a_connect_error_with_the_address(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1: no connection"):
        await VSphere.connect(endpoint(vcenter, port=1))


async def test_a_wrong_password_is_tried_once(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(LoginFailed, match="not accepted"):
        await VSphere.connect(endpoint(vcenter, password=lambda: "wrong"))
    assert vcenter.calls().methods["Login"] == 1


async def test_a_password_that_is_changed_meanwhile_is_refused_once(vcenter: SimulatedVCenter) -> None:
    passwords = iter([vcenter.password])
    async with connected(vcenter, password=lambda: next(passwords, "wrong")) as vsphere:
        vcenter.drop_sessions()
        for _ in range(3):
            with pytest.raises(LoginFailed):
                await vms(vsphere)
    assert vcenter.calls().methods["Login"] == 2


async def test_another_password_is_tried_at_once(vcenter: SimulatedVCenter) -> None:
    """As when the file with it is behind the account for a moment: the session lives on without a restart."""
    passwords = ["wrong", vcenter.password]
    async with connected(vcenter, password=lambda: passwords[-1]) as vsphere:
        passwords.append("wrong")
        vcenter.drop_sessions()
        with pytest.raises(LoginFailed):
            await vms(vsphere)
        passwords.append(vcenter.password)
        await vms(vsphere)


async def test_the_same_password_is_tried_again_after_a_while(vcenter: SimulatedVCenter) -> None:
    """The account may have been locked, or its directory out of reach."""
    async with connected(vcenter, relogin_s=0.3) as vsphere:
        vcenter.rules([Rule("Login", fault="InvalidLogin")])
        vcenter.drop_sessions()
        for _ in range(3):
            with pytest.raises(LoginFailed):
                await vms(vsphere)
        assert vcenter.calls().methods["Login"] == 2
        vcenter.rules([])
        await asyncio.sleep(0.4)
        await vms(vsphere)


async def test_a_session_is_kept_alive_again_after_its_password_was_refused(vcenter: SimulatedVCenter) -> None:
    passwords = [vcenter.password]
    async with connected(vcenter, password=lambda: passwords[-1], keep_alive_s=0.05):
        passwords.append("wrong")
        vcenter.drop_sessions()
        await asyncio.sleep(0.3)
        passwords.append(vcenter.password)
        await asyncio.sleep(0.3)
        assert vcenter.calls().methods["Login"] == 3


async def test_a_log_in_that_is_replaced_is_logged_out(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    soap = vsphere.soap
    await asyncio.to_thread(lambda: soap.renewed(soap.live()))
    assert vcenter.calls().methods["Logout"] == 1


async def test_a_password_never_shows_in_the_endpoint(vcenter: SimulatedVCenter) -> None:
    assert vcenter.password not in repr(endpoint(vcenter))


async def test_a_dropped_session_is_renewed_and_the_read_repeated(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = vcenter.create_vm("web")
    vcenter.drop_sessions()
    assert [one.moref for one in await vms(vsphere)] == [vm]


async def test_many_calls_at_once_renew_a_dropped_session_only_once(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    vcenter.drop_sessions()
    await asyncio.gather(*(vms(vsphere) for _ in range(8)))
    assert vcenter.calls().methods["Login"] == 2


async def test_a_task_is_started_anew_when_it_was_refused_for_want_of_a_login(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    vm = await find(vsphere, vcenter.create_vm("web"))
    vcenter.drop_sessions()
    await create(vsphere, vm, "", quiesce_minutes=None)
    assert len(vcenter.snapshots(vm.moref)) == 1


@pytest.mark.parametrize("mode", ["drop", "http503"])
async def test_a_read_survives_a_broken_connection(vcenter: SimulatedVCenter, vsphere: VSphere, mode: str) -> None:
    vm = vcenter.create_vm("web")
    vcenter.rules([Rule(LISTING, mode=mode, count=2)])
    assert [one.moref for one in await vms(vsphere)] == [vm]


async def test_a_read_gives_up_in_the_end(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.rules([Rule(LISTING, mode="drop")])
    with pytest.raises(SessionLost, match="listing the inventory"):
        await vms(vsphere)


async def test_a_task_whose_start_was_lost_is_not_started_again(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = await find(vsphere, vcenter.create_vm("web"))
    vcenter.rules([Rule("CreateSnapshot*", mode="drop", count=1)])
    with pytest.raises(SessionLost):
        await create(vsphere, vm, "", quiesce_minutes=None)
    assert sum(count for name, count in vcenter.calls().methods.items() if name.startswith("CreateSnapshot")) == 1


async def test_a_missing_privilege_is_named_with_its_object(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = await find(vsphere, vcenter.create_vm("web"))
    privilege = "VirtualMachine.State.CreateSnapshot"
    lacking = {"object": {"type": "VirtualMachine", "value": vm.moref}, "privilegeId": privilege}
    vcenter.rules([Rule("CreateSnapshot*", fault="NoPermission", fields=lacking)])
    with pytest.raises(PermissionDenied, match=re.escape(privilege)) as raised:
        await create(vsphere, vm, "", quiesce_minutes=None)
    assert vm.moref in raised.value.message


async def test_a_vm_that_vanished_is_said_to_be_gone(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = await find(vsphere, vcenter.create_vm("web", powered_on=False))
    vcenter.destroy_vm(vm.moref)
    for call in (snapshots(vsphere, vm), configuration(vsphere, vm)):
        with pytest.raises(VmGone, match=vm.moref):
            await call


@pytest.mark.slow
async def test_an_idle_session_is_kept_alive(vcenter: SimulatedVCenter) -> None:
    vcenter.set_idle_timeout(2)
    async with connected(vcenter, keep_alive_s=0.3) as vsphere:
        await asyncio.sleep(2.5)
        await vms(vsphere)
    assert vcenter.calls().methods["Login"] == 1


async def test_a_cancelled_call_ends_before_its_cancellation(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.rules([Rule(LISTING, mode="delay", delay_ms=300, count=1)])
    call = asyncio.ensure_future(vms(vsphere))
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert vcenter.calls().methods["DestroyView"] == 1


async def test_closing_logs_out_and_can_be_repeated(vcenter: SimulatedVCenter) -> None:
    async with connected(vcenter) as vsphere:
        await vsphere.close()
    assert vcenter.calls().methods["Logout"] == 1
