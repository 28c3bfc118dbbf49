"""Sealed objects: everything in a repository but packs and key wrappers.

Owns: FORMAT.md, "Sealed objects": the envelope and its binding to repository, type and name; JSON payloads.
Does not own: what the payloads mean.
"""

import json
import secrets
import struct
from enum import IntEnum
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from offhost.backend.contract import Backend
from offhost.errors import PackCorrupt
from offhost.repository.keys.keyring import Keyring

PAYLOAD_LIMIT_BYTES = 64 << 20
VALUES_LIMIT = 2_000_000
"""Values in a JSON payload: parsed, each takes up to a hundred bytes, however few it took to write."""

_MAGIC = b"OFFHOST\x01"
_SUITE_AES_256_GCM = 1
_HEADER = struct.Struct("<8sBBH32s")
HEADER_BYTES = _HEADER.size
SALT_AT, SALT_BYTES = 12, 32
"""Where an object's salt lies."""
_TAG_BYTES = 16
_NONCE = bytes(12)  # the key is this object's alone, so one nonce serves


class ObjectType(IntEnum):
    """What an object is; the values are part of the format."""

    CONFIG = 1
    INDEX = 2
    POINT = 3
    SESSION = 4
    HEARTBEAT = 5
    CONDEMNED = 6
    SWEEP = 7
    MARK = 8


def seal(keyring: Keyring, kind: ObjectType, name: str, payload: bytes) -> bytes:
    """A payload as the bytes of the object `name`."""
    salt, epoch = secrets.token_bytes(SALT_BYTES), keyring.epoch
    header = _HEADER.pack(_MAGIC, kind, _SUITE_AES_256_GCM, epoch, salt)
    cipher = AESGCM(keyring.sealing_key(epoch, kind, salt))
    return header + cipher.encrypt(_NONCE, payload, header + keyring.repository_id + name.encode())


def epoch_of(name: str, data: bytes) -> int:
    """The key epoch that an object says seals it. Raises: PackCorrupt when it is no sealed object."""
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise PackCorrupt(f"{name}: not a sealed object")
    return int(_HEADER.unpack_from(data)[3])


def unseal(keyring: Keyring, kind: ObjectType, name: str, data: bytes) -> bytes:
    """The payload of an object. Raises: PackCorrupt when these are not the bytes that were put under this name."""
    if len(data) < _HEADER.size + _TAG_BYTES:
        raise PackCorrupt(f"{name}: cut short at {len(data)} bytes")
    magic, found, suite, epoch, salt = _HEADER.unpack_from(data)
    if (magic, found, suite) != (_MAGIC, kind, _SUITE_AES_256_GCM):
        raise PackCorrupt(f"{name}: its header is not that of a sealed {kind.name.lower()}")
    cipher = AESGCM(keyring.sealing_key(epoch, kind, salt))
    header = data[: _HEADER.size]
    try:
        return cipher.decrypt(_NONCE, memoryview(data)[_HEADER.size :], header + keyring.repository_id + name.encode())
    except InvalidTag as error:
        raise PackCorrupt(f"{name}: fails its seal: changed, or put there by somebody else") from error


def expand(name: str, payload: bytes, limit_bytes: int) -> bytes:
    """A zstd payload expanded. Raises: PackCorrupt beyond the limit, which is checked before memory is taken."""
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= limit_bytes:
            raise PackCorrupt(f"{name}: says it expands to {size} bytes, where at most {limit_bytes} are possible")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=limit_bytes)
    except zstandard.ZstdError as error:
        raise PackCorrupt(f"{name}: does not expand: {error}") from error


def seal_json(keyring: Keyring, kind: ObjectType, name: str, value: dict[str, Any]) -> bytes:
    """A JSON value as the bytes of the object `name`."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return seal(keyring, kind, name, zstandard.ZstdCompressor().compress(plain))


def unseal_json(keyring: Keyring, kind: ObjectType, name: str, data: bytes) -> dict[str, Any]:
    """The JSON object that `seal_json` sealed. Raises: PackCorrupt."""
    return json_object(name, expand(name, unseal(keyring, kind, name, data), PAYLOAD_LIMIT_BYTES))


def json_object(name: str, plain: bytes) -> dict[str, Any]:
    """The JSON object of these bytes, in bounded memory. Raises: PackCorrupt."""
    if sum(map(plain.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise PackCorrupt(f"{name}: more than {VALUES_LIMIT} values")
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise PackCorrupt(f"{name}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackCorrupt(f"{name}: not a JSON object")
    return value


def get_json(backend: Backend, keyring: Keyring, kind: ObjectType, name: str) -> dict[str, Any]:
    """Read and open a JSON object. Raises: ObjectNotFound; PackCorrupt."""
    return unseal_json(keyring, kind, name, backend.get(name, PAYLOAD_LIMIT_BYTES))
