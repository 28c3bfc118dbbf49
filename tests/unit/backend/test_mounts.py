from pathlib import Path

import pytest

from offhost.backend.mounts import check_uncached
from offhost.errors import UnsafeMount

ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"


def nfs(options: str, place: str = "/srv/backup", kind: str = "nfs4") -> str:
    return f"40 22 0:45 / {place} rw,relatime shared:20 - {kind} filer:/export rw,{options}"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs"])
def test_a_network_mount_that_caches_attributes_is_refused_with_the_mend(kind: str) -> None:
    with pytest.raises(UnsafeMount, match=kind) as raised:
        check_uncached(Path("/srv/backup/main"), [ROOT, nfs("vers=4.2,rsize=1048576", kind=kind)])
    assert "noac" in str(raised.value.hint)


@pytest.mark.parametrize("options", ["noac", "actimeo=0", "acregmin=0,acregmax=0,acdirmin=0,acdirmax=0"])
def test_one_that_does_not_is_taken(options: str) -> None:
    check_uncached(Path("/srv/backup/main"), [ROOT, nfs(options)])


def test_a_local_directory_is_taken_whatever_else_is_mounted() -> None:
    check_uncached(Path("/srv/local"), [ROOT, nfs("vers=4.2")])
    check_uncached(Path("/srv/backup2"), [ROOT, nfs("vers=4.2")])
    check_uncached(Path.cwd())


def test_a_local_mount_upon_a_network_mount_is_local() -> None:
    upon = "41 40 254:1 / /srv/backup/disk rw - xfs /dev/vdb rw"
    check_uncached(Path("/srv/backup/disk/main"), [ROOT, nfs("vers=4.2"), upon])


def test_names_with_spaces_and_lines_of_another_form_are_understood() -> None:
    with pytest.raises(UnsafeMount):
        check_uncached(Path("/srv/my backup/main"), ["", "garbage", nfs("vers=3", "/srv/my\\040backup", "nfs")])
