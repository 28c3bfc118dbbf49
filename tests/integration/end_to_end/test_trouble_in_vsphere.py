"""What goes wrong in vSphere while a VM is backed up: told once, nothing of ours is left, nothing foreign is touched,
and what was backed up before reads back.
"""

from functools import partial

import pytest

from offhost.backup import vm as vm_backup
from offhost.snapshot.held import held
from offhost.snapshot.removal import Patience
from support.site import BackedUp
from support.vcenter import Rule

SNAPSHOT = "CreateSnapshot*"


def test_a_missing_privilege_is_named(backed_up: BackedUp) -> None:
    site = backed_up.site
    lacks = {"privilegeId": "VirtualMachine.State.CreateSnapshot"}
    site.vcenter.rules([Rule(SNAPSHOT, fault="NoPermission", object=site.moref, fields=lacks)])
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "the account lacks VirtualMachine.State.CreateSnapshot" in error
    assert "role" in hint
    backed_up.assert_unharmed()


def test_a_refused_snapshot(backed_up: BackedUp) -> None:
    site = backed_up.site
    site.vcenter.rules([Rule(SNAPSHOT, mode="task", fault="InsufficientResourcesFault", object=site.moref)])
    said = site.run_job()
    assert said.code == 1
    error, _ = said.told_once()
    assert f"taking a snapshot of {site.name}" in error
    backed_up.assert_unharmed()


def test_a_guest_that_cannot_be_quiesced_fails_when_that_is_required(backed_up: BackedUp) -> None:
    site = backed_up.site
    site.configure(quiesce="require")
    site.vcenter.rules([Rule(SNAPSHOT, mode="task", fault="ApplicationQuiesceFault", quiesced=True)])
    said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "could not be quiesced" in error
    assert "VMware Tools" in hint
    backed_up.assert_unharmed()


def test_a_guest_that_cannot_be_quiesced_is_backed_up_with_a_warning_when_trying_will_do(
    backed_up: BackedUp,
) -> None:
    site = backed_up.site
    site.vcenter.rules([Rule(SNAPSHOT, mode="task", fault="ApplicationQuiesceFault", quiesced=True)])
    said = site.run_job()
    assert said.code == 3
    (warning,) = said.warnings
    assert "the snapshot was taken without quiescing" in warning
    assert "crash-consistent" in said.out
    assert site.restored(f"{site.name}@latest") == site.seen()
    backed_up.assert_unharmed(points=2)


def test_a_vm_that_vanishes(backed_up: BackedUp) -> None:
    site = backed_up.site

    def vanish() -> None:
        site.vcenter.power(site.moref, on=False)
        site.vcenter.destroy_vm(site.moref)

    with site.between_snapshot_and_reading(vanish):
        said = site.run_job()
    assert said.code == 1
    error, _ = said.told_once()
    assert site.name in error
    backed_up.assert_readable()


def test_a_vm_that_moves_to_another_datastore(backed_up: BackedUp) -> None:
    site = backed_up.site
    with site.between_snapshot_and_reading(lambda: site.vcenter.migrate(site.moref, "DS2")):
        said = site.run_job()
    assert said.code == 1
    error, _ = said.told_once()
    assert site.name in error
    backed_up.assert_unharmed()
    assert site.run_job().code == 0
    assert site.restored(f"{site.name}@latest") == site.seen()


def test_a_snapshot_of_ours_that_somebody_removes(backed_up: BackedUp) -> None:
    site = backed_up.site

    def remove() -> None:
        (ours,) = (one for one in site.vcenter.snapshots(site.moref) if one.name != "before the update")
        site.vcenter.remove_snapshot(site.moref, ours.moref)

    with site.between_snapshot_and_reading(remove):
        said = site.run_job()
    assert said.code == 1
    error, _ = said.told_once()
    assert f"{site.name}: the snapshot was removed while it was read" in error
    backed_up.assert_unharmed()


def test_a_lost_session_is_renewed_and_the_backup_goes_on(backed_up: BackedUp) -> None:
    site = backed_up.site
    with site.between_snapshot_and_reading(site.vcenter.drop_sessions):
        said = site.run_job()
    assert (said.code, said.errors) == (0, [])
    assert site.restored(f"{site.name}@latest") == site.seen()
    backed_up.assert_unharmed(points=2)


def test_a_session_that_cannot_be_renewed_leaves_a_snapshot_that_the_next_run_removes(
    backed_up: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal is tried for two minutes, since the password may be put right meanwhile; here for one second."""
    monkeypatch.setattr(vm_backup, "held", partial(held, patience=Patience(wait_s=0.02)))
    site = backed_up.site

    def lock_out() -> None:
        site.vcenter.rules([Rule("Login", fault="InvalidLogin")])
        site.vcenter.drop_sessions()

    with site.between_snapshot_and_reading(lock_out):
        said = site.run_job()
    assert said.code == 1
    error, hint = said.told_once()
    assert "user and password are not accepted" in error
    assert "locked" in hint
    assert "the snapshot of run" in " ".join(said.warnings)
    assert site.snapshots() == ["before the update", "offhost backup"]
    assert site.run_job().code == 0
    backed_up.assert_unharmed(points=2)
