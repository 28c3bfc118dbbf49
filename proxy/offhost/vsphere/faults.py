"""vSphere's faults, and a broken connection, as offhost's errors.

Owns: the one translation. Does not own: what a caller makes of a fault that is an answer to it (change tracking
reads FileFault as "unknown"): such callers catch it before it comes here.
"""

from http.client import HTTPException
from xml.parsers.expat import ExpatError

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

BROKEN = (OSError, HTTPException, ExpatError)
"""What a connection that breaks, a server that is overloaded (503), or an answer that is cut short raise."""

UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What an answer that is not as the API describes it makes of its reader, pyVmomi's or ours."""

_KINDS: tuple[tuple[tuple[type, ...], type[OffhostError], str, str], ...] = (
    (
        (vim.fault.InvalidLogin,),
        LoginFailed,
        "user and password are not accepted: ",
        "check the user's name with its domain, the password, and whether the account is locked",
    ),
    (
        (vim.fault.ApplicationQuiesceFault, vim.fault.FilesystemQuiesceFault),
        QuiesceFailed,
        "the guest could not be quiesced: ",
        "look at VMware Tools and, on Windows, at the VSS writers in the guest",
    ),
    (
        (vim.fault.SnapshotFault,),
        SnapshotFailed,
        "",
        "the VM's tasks and events in vCenter say why; often it has too many snapshots, or its datastore no room",
    ),
    ((vim.fault.FileAlreadyExists, vim.fault.DuplicateName), Conflict, "", "choose another name"),
    (
        (
            vim.fault.TaskInProgress,
            vim.fault.ConcurrentAccess,
            vim.fault.ResourceInUse,
            vim.fault.Timedout,
            vmodl.fault.HostCommunication,
        ),
        Busy,
        "",
        "try again when what is under way in vCenter has ended",
    ),
)
"""Kinds of faults, the error that they are, what to say before the endpoint's own words, the hint; first match wins."""


def said(fault: vmodl.MethodFault) -> str:
    """What the endpoint said, in its own words where it gave any, with the kind of fault."""
    kind = type(fault).__name__.removeprefix("vim.fault.").removeprefix("vmodl.fault.")
    words = str(getattr(fault, "msg", None) or "").strip()
    return f"{words} ({kind})" if words else kind


def translated(fault: vmodl.MethodFault, doing: str) -> OffhostError:
    """The error that a fault is; `doing` says what was being done, to what."""
    match fault:
        case vim.fault.NotAuthenticated():
            return SessionLost(
                f"{doing}: the session is not accepted, even after logging in again",
                hint="see that nothing ends the account's sessions, then try again",
            )
        case vim.fault.NoPermission():
            return _denied(fault, doing)
        case vmodl.fault.ManagedObjectNotFound():
            return VmGone(
                f"{doing}: {_object(fault.obj)} does not exist any more",
                hint="it was deleted, unregistered or replaced meanwhile; restore points from before stay",
            )
    for kinds, error, words, hint in _KINDS:
        if isinstance(fault, kinds):
            return error(f"{doing}: {words}{said(fault)}", hint=hint)
    return VSphereError(f"{doing}: {said(fault)}", hint="the object's tasks and events in vCenter may say more")


def broken(error: BaseException, doing: str) -> SessionLost:
    """A connection that broke, or an answer that could not be read."""
    return SessionLost(
        f"{doing}: the connection broke: {str(error) or type(error).__name__}",
        hint="see that the endpoint is up and reachable from the proxy, then try again",
    )


def _denied(fault: vim.fault.NoPermission, doing: str) -> PermissionDenied:
    privilege = fault.privilegeId or "a privilege it does not name"
    return PermissionDenied(
        f"{doing}: the account lacks {privilege} on {_object(fault.object)}",
        hint=f"give the account's role {privilege} there, or on a parent with propagation",
    )


def _object(ref: object) -> str:
    """`VirtualMachine vm-12`; reading the object's name could fail in its turn."""
    moref = getattr(ref, "_moId", None)
    return f"{type(ref).__name__.rpartition('.')[2]} {moref}" if moref else "an object it does not name"
