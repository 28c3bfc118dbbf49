"""What a transport is, and how the first one that can serve a disk is found.

Owns: the contract and the order of trial. Synchronous, as reading is; transports may be used from several threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol

from offhost.blockio import ReadAt
from offhost.errors import TransportUnavailable
from offhost.vsphere.disks import datastore_of
from offhost.vsphere.values import Disk, Vm

NONE_CAN_HINT = (
    "mount the datastore on this proxy and list it under `datastores`, or allow more `transports` in the job"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A transport that could not serve a disk, and why: recorded with the run."""

    transport: str
    reason: str


def _no_host_bytes() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A frozen disk, open for reading. Owns its source."""

    source: ReadAt
    transport: str
    identify: Callable[[], str]
    """Computes the fingerprint anew."""
    count_host_bytes: Callable[[], int] = _no_host_bytes
    refused: tuple[Refusal, ...] = ()
    """The transports of the job's order that came before this one."""

    def host_bytes(self) -> int:
        """Bytes that have come through an ESX host so far."""
        return self.count_host_bytes()

    def fingerprint(self) -> str:
        """Which files the disk is made of, looked up anew at each call: two that differ mean that a file was replaced,
        resized, moved or written to in between. Raises: GateClosed when they cannot be found any more.
        """
        return self.identify()

    def close(self) -> None:
        """Close what was opened; idempotent."""
        self.source.close()


class Transport(Protocol):
    """One way to the bytes of a disk."""

    @property
    def name(self) -> str:
        """As jobs call it: `datastore`, `https`."""
        ...

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        """Why this transport cannot serve the disk, told without opening it; None when it may."""
        ...

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        """Open a disk as the snapshot's configuration shows it.

        Raises: TransportUnavailable, and the next transport is tried; any other error is the disk's own.
        """
        ...

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        """A small file beside the disks, `[datastore] folder/file`, whole.

        Raises: TransportUnavailable, and the next transport is tried; NotFound; ReadFailed beyond the limit.
        """
        ...


def open_first(transports: Sequence[Transport], vm: Vm, disk: Disk) -> OpenDisk:
    """Open a disk through the first transport that can. Raises: TransportUnavailable with every reason."""
    refused: list[Refusal] = []
    for transport in transports:
        reason = transport.refusal(vm, disk)
        if reason is None:
            try:
                return replace(transport.open(vm, disk), refused=tuple(refused))
            except TransportUnavailable as error:
                reason = f"{error.message} ({error.hint})" if error.hint else error.message
        refused.append(Refusal(transport.name, reason))
    raise none_can(vm, disk, refused)


def first_willing(transports: Sequence[Transport], vm: Vm, disk: Disk) -> tuple[str | None, list[Refusal]]:
    """The transport that would be tried first for a disk, and those that refuse it before that; opens nothing."""
    refused: list[Refusal] = []
    for transport in transports:
        reason = transport.refusal(vm, disk)
        if reason is None:
            return transport.name, refused
        refused.append(Refusal(transport.name, reason))
    return None, refused


def none_can(vm: Vm, disk: Disk, refused: Sequence[Refusal]) -> TransportUnavailable:
    """What to raise when every transport has refused a disk."""
    reasons = "; ".join(described(refused)) or "the job allows none"
    return TransportUnavailable(
        f"{vm.name}: no transport can read {disk.label} ({disk.backing.file}): {reasons}",
        hint=NONE_CAN_HINT,
    )


def described(refused: Sequence[Refusal]) -> tuple[str, ...]:
    """Refusals as reports tell them, `transport: reason`."""
    return tuple(f"{refusal.transport}: {refusal.reason}" for refusal in refused)


def split_path(path: str) -> tuple[str, PurePosixPath]:
    """A datastore's name and the file on it, of `[name] folder/file`. Raises: VSphereError."""
    return datastore_of(path), PurePosixPath(path.partition("]")[2].strip())
