"""The keys of proxy.yaml: this proxy, what it reaches, and where it keeps backups."""

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from offhost.config.section import AbsolutePath, Age, Fraction, Name, Rate, SecretReference, Section, Tag, Text, wrong


def _loopback(address: str) -> str:
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise wrong("not an IP address", "write 127.0.0.1 or ::1") from None
    if not loopback:
        raise wrong(
            "only loopback is supported: TLS and tokens, without which nobody else may reach the proxy, are not yet",
            "write 127.0.0.1; from elsewhere, come through an SSH tunnel",
        )
    return address


def _thumbprint(text: str) -> str:
    digits = text.replace(":", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        raise wrong(
            "not the SHA-256 thumbprint of a certificate",
            "32 pairs of hexadecimal digits, in quotes: openssl s_client -connect HOST:443 </dev/null"
            " | openssl x509 -noout -fingerprint -sha256",
        )
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


def _unless_none(value: object) -> object:
    return None if value == "none" else value


class Listen(Section):
    """Where the REST interface listens."""

    later: ClassVar[frozenset[str]] = frozenset({"tls"})

    address: Annotated[str, AfterValidator(_loopback)] = Field(default="127.0.0.1", description="a loopback address")
    port: int = Field(default=8006, ge=0, le=65535, description="a TCP port; 0 takes any that is free")


class VCenter(Section):
    """A vCenter, or a standalone host, and how to be sure that it is the right one."""

    host: Text = Field(description="its DNS name or address")
    port: int = Field(default=443, ge=1, le=65535, description="a TCP port")
    user: Text = Field(description="the account, such as offhost@vsphere.local")
    password: SecretReference = Field(description="where the account's password is kept")
    thumbprint: Annotated[str, AfterValidator(_thumbprint)] | None = Field(
        default=None, description="pins its certificate"
    )
    ca_file: AbsolutePath | None = Field(
        default=None, description="the certificate authority that signed its certificate"
    )

    @model_validator(mode="after")
    def _trusted_one_way(self) -> "VCenter":
        if (self.thumbprint is None) == (self.ca_file is None):
            raise wrong(
                "exactly one of thumbprint and ca_file is needed",
                "a certificate is never trusted unseen: pin its thumbprint, or name the authority that signed it",
            )
        return self


class Datastore(Section):
    """A datastore that this proxy has mounted, and reads without the hosts."""

    vcenter: Name = Field(description="one of the vcenters")
    name: Text = Field(description="the datastore's name in vCenter")
    path: AbsolutePath = Field(description="where it is mounted on this machine")
    direct_io: bool = Field(default=False, description="read past the page cache (O_DIRECT)")


class Repository(Section):
    """A repository that jobs write to."""

    path: AbsolutePath = Field(description="its directory")
    passphrase: SecretReference | None = Field(default=None, description="where its passphrase is kept")
    key_file: SecretReference | None = Field(default=None, description='where its key file is: "{file /PATH}"')
    encryption: Literal["none"] | None = Field(default=None, description="none, for one that was made unencrypted")
    compression: Literal["lz4", "zstd", "none"] = Field(default="lz4", description="lz4, zstd or none")
    write_check: Literal["full", "sample", "off"] = Field(
        default="full", description="how much of what is written is opened and compared first: full, sample or off"
    )

    @model_validator(mode="after")
    def _opened_one_way(self) -> "Repository":
        if sum(way is not None for way in (self.passphrase, self.key_file, self.encryption)) != 1:
            raise wrong(
                "exactly one of passphrase, key_file and encryption is needed",
                'say what opens it: passphrase: "{credential NAME}", or key_file: "{file /PATH}"; '
                "encryption: none only for one that was made so, on purpose",
            )
        return self


class Limits(Section):
    """What this proxy does at once, over all jobs."""

    vms: int = Field(default=8, ge=1, le=256, description="VMs backed up at once")
    read_rate: Rate | None = Field(default=None, description="how fast all jobs read in all, such as 400MiB/s")
    min_free: Fraction = Field(
        default=0.1, description="no snapshot on a datastore with less free space than this, such as 10%"
    )
    removals: int = Field(default=2, ge=1, le=64, description="snapshots removed at once on one datastore")
    snapshot_age: Age = Field(default=timedelta(days=1), description="warn when a snapshot is held longer: 1d")
    snapshot_size: Fraction = Field(
        default=0.25, description="warn when a snapshot grows beyond this share of the VM's disks, such as 25%"
    )


class Proxy(Section):
    """proxy.yaml."""

    later: ClassVar[frozenset[str]] = frozenset({"restore_roots"})

    state: AbsolutePath = Field(default=Path("/var/lib/offhost"), description="where the proxy keeps its state")
    listen: Listen = Field(default_factory=Listen, description="address and port of the REST interface")
    vcenters: Mapping[Name, VCenter] = Field(default_factory=dict, description="the vCenters, by a name for each")
    datastores: tuple[Datastore, ...] = Field(default=(), description="datastores mounted on this proxy")
    repositories: Mapping[Name, Repository] = Field(
        default_factory=dict, description="repositories, by a name for each"
    )
    opt_out_tag: Annotated[Tag | None, BeforeValidator(_unless_none)] = Field(
        default="offhost:exclude", description="no job backs up a VM with this tag; none: no tag is asked for"
    )
    limits: Limits = Field(default_factory=Limits, description="what is done at once")
