import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from offhost.backend.local import LocalBackend
from offhost.errors import NoRepository, NoSpace, ObjectExists, ObjectNotFound, PackCorrupt, Unavailable


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend.create(tmp_path / "objects", ["packs/ab", "index", "points"])


def test_what_was_put_is_read_back_whole_and_in_part(backend: LocalBackend) -> None:
    backend.put("packs/ab/one", b"0123456789")
    assert backend.get("packs/ab/one", 10) == b"0123456789"
    assert backend.get_range("packs/ab/one", 3, 4) == b"3456"
    assert backend.size("packs/ab/one") == 10


def test_an_object_is_created_once_and_never_replaced(backend: LocalBackend) -> None:
    backend.put("index/one", b"first")
    with pytest.raises(ObjectExists):
        backend.put("index/one", b"second")
    assert backend.get("index/one", 100) == b"first"


def test_a_listing_shows_every_object_below_a_prefix_and_no_temporary_file(backend: LocalBackend) -> None:
    backend.put("packs/ab/one", b"1")
    backend.put("points/new-folder/two", b"22")
    assert list(backend.list("packs/")) == [("packs/ab/one", 1)]
    assert list(backend.list("points/")) == [("points/new-folder/two", 2)]
    assert list(backend.list("marks/")) == []
    assert not list((backend.root / "tmp").iterdir())


def test_an_unmounted_file_system_does_not_look_like_an_empty_repository(backend: LocalBackend) -> None:
    backend.put("points/vm/one", b"x")
    listing = backend.list("points/")
    backend.root.rename(backend.root.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="mounted"):
        list(listing)
    backend.root.mkdir()
    with pytest.raises(Unavailable, match="mounted"):
        list(backend.list("points/"))


def test_an_object_that_is_not_there_is_named(backend: LocalBackend) -> None:
    with pytest.raises(ObjectNotFound, match="index/none"):
        backend.get_range("index/none", 0, 1)
    backend.delete("index/none")


def test_an_object_that_ends_early_or_is_too_large_is_an_integrity_error(backend: LocalBackend) -> None:
    backend.put("index/one", b"short")
    with pytest.raises(PackCorrupt, match="ends at byte 5"):
        backend.get_range("index/one", 2, 10)
    with pytest.raises(PackCorrupt, match="at most 4"):
        backend.get("index/one", 4)


def test_objects_belong_to_their_owner_alone(backend: LocalBackend) -> None:
    backend.put("points/vm/one", b"x")
    for path in (backend.root / "points/vm/one", backend.root / "points/vm", backend.root / "packs"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_a_directory_that_is_not_there_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NoRepository):
        LocalBackend(tmp_path / "nowhere")


def test_a_dead_writers_garbage_is_swept_and_a_living_ones_file_is_not(backend: LocalBackend) -> None:
    dead, living = backend.root / "tmp" / "dead", backend.root / "tmp" / "living"
    dead.write_bytes(b"half")
    living.write_bytes(b"half")
    hold = f"import fcntl; f = open({str(living)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        assert holder.stdout.readline()
        assert backend.sweep_temporary() == 1
        assert not dead.exists()
        assert living.exists()
    finally:
        holder.communicate(b"\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_says_so_and_leaves_nothing_of_the_object(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        backend = LocalBackend.create(mount / "objects", ["packs", "marks"])
        backend.put("packs/small", b"x" * 1000)
        with pytest.raises(NoSpace) as caught:
            backend.put("packs/large", b"x" * (4 << 20))
        assert caught.value.hint
        assert [item.name for item in backend.list("packs/")] == ["packs/small"]
        assert not list((backend.root / "tmp").iterdir())
        assert backend.get("packs/small", 1000) == b"x" * 1000
        backend.check_writable()
        ballast = mount / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with pytest.raises(NoSpace):
            backend.put("packs/large", b"x" * (128 << 10))
        backend.put("marks/forgotten", b"x" * 300)
        assert not (backend.root / "reserve").exists(), "what is small takes the reserve"
        ballast.unlink()
        backend.check_writable()
        assert (backend.root / "reserve").stat().st_size
    finally:
        subprocess.run(["umount", mount], check=True)
