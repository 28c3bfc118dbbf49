"""vSphere's faults as offhost's errors: the right kind, what was being done, and whether trying again can help."""

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from offhost.errors import (
    Busy,
    Conflict,
    LoginFailed,
    OffhostError,
    PermissionDenied,
    QuiesceFailed,
    SessionLost,
    SnapshotFailed,
    VmGone,
    VSphereError,
)
from offhost.vsphere.faults import translated
from offhost.vsphere.inventory import escaped_name, plain_name


@pytest.mark.parametrize(
    ("fault", "error", "retry"),
    [
        (vim.fault.InvalidLogin(), LoginFailed, False),
        (vim.fault.NotAuthenticated(), SessionLost, True),
        (vim.fault.NoPermission(), PermissionDenied, False),
        (vmodl.fault.ManagedObjectNotFound(), VmGone, False),
        (vim.fault.ApplicationQuiesceFault(), QuiesceFailed, False),
        (vim.fault.TooManySnapshotLevels(), SnapshotFailed, True),
        (vim.fault.FileAlreadyExists(), Conflict, False),
        (vim.fault.TaskInProgress(), Busy, True),
        (vmodl.fault.HostNotReachable(), Busy, True),
        (vmodl.fault.SystemError(), VSphereError, False),
    ],
)
def test_a_fault_is_its_error(fault: Any, error: type[OffhostError], retry: bool) -> None:
    made = translated(fault, "doing this to web")
    assert type(made) is error
    assert made.retry is retry
    assert made.message.startswith("doing this to web: ")


def test_the_endpoints_own_words_are_kept() -> None:
    fault = vmodl.fault.SystemError(msg="A general system error occurred: out of luck")
    assert "out of luck (SystemError)" in translated(fault, "x").message


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(
        privilegeId="VirtualMachine.State.CreateSnapshot", object=vim.VirtualMachine("vm-7", None)
    )
    made = translated(fault, "x")
    assert "VirtualMachine.State.CreateSnapshot on VirtualMachine vm-7" in made.message
    assert "VirtualMachine.State.CreateSnapshot" in (made.hint or "")


@pytest.mark.parametrize(("written", "read"), [("a%2fb", "a/b"), ("100%25", "100%"), ("a%5cb", "a\\b"), ("web", "web")])
def test_names_are_read_as_people_wrote_them(written: str, read: str) -> None:
    assert plain_name(written) == read
    assert escaped_name(read) == written
