"""Names of things, as distinct types.

Owns: how identities are formed and told apart. Does not own: how they are stored.
"""

import secrets
from typing import NewType

ChunkId = NewType("ChunkId", bytes)
"""32 bytes: the BLAKE3 of a chunk's plaintext, keyed with the repository's id key."""

SessionId = NewType("SessionId", str)
"""32 lower-case hexadecimal digits; a write session's id becomes the id of the restore point it commits."""

RunId = NewType("RunId", str)
"""32 lower-case hexadecimal digits naming one execution of a job."""

InstallationId = NewType("InstallationId", str)
"""32 lower-case hexadecimal digits naming one installation of offhost, in the description of its snapshots."""

VmId = NewType("VmId", str)
"""What a restore point belongs to: `<vCenter instance UUID>/<VM instance UUID>`, `image/<name>`, `directory/<UUID or
path>`, or `host/<hardware UUID>`."""

DiskKey = NewType("DiskKey", str)
"""A disk of a VM: its `backing.uuid` where set, else `<bus><controller>:<unit>`; for an image, `disk0`..."""


def random_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def vm_id(vcenter_uuid: str, instance_uuid: str) -> VmId:
    """A VM's identity: names and morefs change, these do not."""
    return VmId(f"{vcenter_uuid.lower()}/{instance_uuid.lower()}")


def image_id(name: str) -> VmId:
    """The identity of what `backup image --name NAME` stores."""
    return VmId(f"image/{name}")


def folder_id(uuid_or_path: str) -> VmId:
    """The identity of a VM that is backed up from its folder: by what its .vmx says of it, or by where it lies."""
    return VmId(f"directory/{uuid_or_path}")


def host_id(hardware_uuid: str) -> VmId:
    """The identity of an ESX host: of its hardware, whichever vCenter it belongs to."""
    return VmId(f"host/{hardware_uuid.lower()}")
