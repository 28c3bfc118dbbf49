"""What the repository promises of points: read back right, whatever happens to caches, neighbours and bytes."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from offhost.backup.copy import DiskCopy
from offhost.chunking.compress import Codec
from offhost.chunking.spans import SPAN_BYTES, CompressedChunk
from offhost.chunking.workers import SpanWorkers
from offhost.errors import (
    BackendError,
    Conflict,
    FormatTooNew,
    IntegrityError,
    NoRepository,
    NotFound,
    SessionFenced,
    WrongKey,
)
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId, image_id
from offhost.repository.chunks.packs import Kind, read_directory
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json
from offhost.repository.repository import Repository, create
from offhost.repository.statistics.stats import stats
from offhost.repository.verification.verify import verify
from support.repositories import (
    PASSPHRASE,
    Memory,
    back_up,
    chunking_of,
    content,
    make,
    noise,
    opened,
    point_of,
)

SMALL = 3 << 20


def check(repository: Repository, *, data: bool = True) -> list[str]:
    report = verify(repository, data=data, progress=lambda *_: None, stop=threading.Event())
    return [damage.what for damage in report.damage]


def test_a_disk_is_read_back_as_it_was(repository: Repository, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL) + bytes(SMALL) + noise(2, 12345))
    assert content(repository, back_up(repository, disk, workers)) == disk.content
    assert check(repository) == []


def test_a_disk_of_several_spans_with_holes_is_read_back(repository: Repository, workers: SpanWorkers) -> None:
    disk = Memory(bytearray(2 * SPAN_BYTES + 4096 * 3))
    disk.content[SPAN_BYTES - 5000 : SPAN_BYTES + 5000] = noise(1, 10000)
    disk.content[-100:] = noise(2, 100)
    assert content(repository, back_up(repository, disk, workers)) == disk.content


def test_an_empty_disk_and_an_all_zero_disk_are_read_back(repository: Repository, workers: SpanWorkers) -> None:
    for disk in (Memory(b""), Memory(bytes(100_000))):
        assert content(repository, back_up(repository, disk, workers)) == disk.content


def test_the_same_content_is_stored_once(repository: Repository, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    back_up(repository, disk, workers, name="one")
    before = stats(repository).unique_bytes
    back_up(repository, disk, workers, name="two")
    found = stats(repository)
    assert found.unique_bytes == before
    assert (found.points, found.vms, found.plain_bytes) == (2, 2, 2 * SMALL)


def test_an_incremental_by_areas_has_the_map_of_a_full_read(repository: Repository, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    back_up(repository, disk, workers)
    disk.content[100_000:200_000] = noise(2, 100_000)
    disk.read_bytes = 0
    areas = ExtentMap([Extent(65536, 262144)])
    incremental = back_up(repository, disk, workers, areas=areas)
    assert disk.read_bytes < SMALL / 3
    full = back_up(repository, disk, workers, name="other")
    assert incremental.disks[0].map.root == full.disks[0].map.root
    assert content(repository, incremental) == disk.content


@pytest.mark.slow
def test_many_incrementals_deep_every_point_reads_back(root: Path, workers: SpanWorkers) -> None:
    disk, wanted = Memory(noise(0, SMALL)), {}
    with opened(root) as repository:
        for generation in range(40):
            at = generation * 70_000
            disk.content[at : at + 30_000] = noise(generation, 30_000)
            areas = ExtentMap([Extent(at, at + 30_000)]) if generation else None
            wanted[back_up(repository, disk, workers, areas=areas).id] = bytes(disk.content)
    with opened(root) as repository:
        points = repository.points.all()
        assert {point.id: content(repository, point) for point in points} == wanted
        assert check(repository) == []


def test_all_that_is_not_packs_and_points_can_be_lost(root: Path, workers: SpanWorkers, tmp_path: Path) -> None:
    disk = Memory(noise(1, SMALL))
    with opened(root, tmp_path / "cache") as repository:
        point = back_up(repository, disk, workers)
    shutil.rmtree(root / "index")
    (root / "index").mkdir()
    shutil.rmtree(tmp_path / "cache")
    with opened(root) as repository:
        assert content(repository, point) == disk.content


def test_a_damaged_index_run_costs_nothing_but_time(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
    (run,) = (root / "index").iterdir()
    damaged = bytearray(run.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    run.write_bytes(damaged)
    with opened(root) as repository:
        assert content(repository, point) == disk.content


def test_a_damaged_cache_is_read_anew(root: Path, workers: SpanWorkers, tmp_path: Path) -> None:
    disk = Memory(noise(1, SMALL))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
    with opened(root, tmp_path) as repository:
        assert content(repository, point) == disk.content
    (segment,) = tmp_path.glob("*/*.seg")
    damaged = bytearray(segment.read_bytes())
    damaged[-3] ^= 1
    segment.write_bytes(damaged)
    with opened(root, tmp_path) as repository:
        assert content(repository, point) == disk.content


def test_a_flipped_bit_anywhere_in_a_pack_is_never_data(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
    (pack,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    whole = pack.read_bytes()
    for at in [0, 8, 9, 10, 12, 43, 44, 100, 5000, len(whole) // 2, len(whole) - 500, len(whole) - 4, len(whole) - 1]:
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with opened(root) as repository:
            with suppress(IntegrityError):
                assert content(repository, point) == disk.content
            assert check(repository) != [], f"verification must see the flipped bit at {at}"


def test_damage_is_told_with_the_points_and_disks_it_harms(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(noise(1, 200_000)), workers, name="web")
    (pack,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    whole = bytearray(pack.read_bytes())
    whole[5000] ^= 1
    pack.write_bytes(whole)
    with opened(root) as repository:
        report = verify(repository, data=True, progress=lambda *_: None, stop=threading.Event())
    (harm,) = {harm for damage in report.damage for harm in damage.harms}
    assert "web" in harm
    assert point.id[:12] in harm
    assert "disk0" in harm


def test_a_pack_that_is_gone_is_noticed_without_reading_data(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        back_up(repository, Memory(noise(1, 200_000)), workers)
    (pack,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    pack.unlink()
    with opened(root) as repository:
        assert check(repository, data=False) != []


def test_a_point_that_vanished_shows(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
        back_up(repository, disk, workers)
    (path,) = (root / "points").rglob(first.id)
    path.unlink()
    with opened(root) as repository:
        assert any("vanished" in what for what in check(repository, data=False))


def test_an_object_put_under_another_name_does_not_open(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(noise(1, 200_000)), workers)
    (path,) = (root / "points").rglob(point.id)
    path.rename(path.with_name("0" * 32))
    with opened(root) as repository:
        points, (damaged,) = repository.points.read()
        assert points == []
        assert "seal" in str(damaged)
        assert check(repository, data=False) != []


def test_without_a_commit_there_is_no_point(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        with repository.session(image_id("vm")) as (session, _):
            DiskCopy(Memory(noise(1, SMALL)), session, chunking_of(repository), workers).run(threading.Event())
        assert repository.points.all() == []
        assert check(repository) == []


def test_a_fenced_session_does_not_commit(repository: Repository) -> None:
    with repository.session(image_id("vm")) as (session, _):
        name = f"points/{repository.keyring.vm_folder(session.vm)}/{session.id}"
        value = {"tombstone": "fenced"}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.POINT, name, value))
        with pytest.raises(SessionFenced):
            session.commit(point_of(session, "vm"))
    assert repository.points.all() == []


def test_a_commit_whose_reply_was_lost_succeeds_when_repeated(repository: Repository) -> None:
    """The second put meets the first one's object, byte for byte its own."""
    put = repository.backend.put

    def lost_reply(name: str, data: bytes | bytearray | memoryview) -> None:
        put(name, data)
        if name.startswith("points/"):
            put(name, data)

    repository.backend.put = lost_reply  # type: ignore[method-assign] # a reply that is lost
    with repository.session(image_id("vm")) as (session, _):
        committed = session.commit(point_of(session, "vm"))
    assert [point.id for point in repository.points.all()] == [committed.id]


def test_the_point_is_put_after_everything_it_refers_to(repository: Repository, workers: SpanWorkers) -> None:
    put, order = repository.backend.put, []

    def recorded(name: str, data: bytes | bytearray | memoryview) -> None:
        put(name, data)
        order.append(name.partition("/")[0])

    repository.backend.put = recorded  # type: ignore[method-assign] # the real one, with its order kept
    back_up(repository, Memory(noise(1, SMALL)), workers)
    assert order[0] == "sessions"
    assert order[-1] == "points"
    assert order.index("packs") < order.index("index") < order.index("points")


def test_a_failed_put_fails_the_session_and_nothing_refers_to_it(repository: Repository, workers: SpanWorkers) -> None:
    put = repository.backend.put

    def failing(name: str, data: bytes | bytearray | memoryview) -> None:
        if name.startswith("packs/"):
            raise Conflict("the disk is broken")
        put(name, data)

    repository.backend.put = failing  # type: ignore[method-assign] # a store that fails
    with pytest.raises(Conflict, match="broken"):
        back_up(repository, Memory(noise(1, SMALL)), workers)
    repository.backend.put = put  # type: ignore[method-assign] # the real one again
    disk = Memory(noise(1, SMALL))
    assert content(repository, back_up(repository, disk, workers)) == disk.content


def test_what_another_session_promised_and_dropped_is_stored_again(
    repository: Repository, workers: SpanWorkers
) -> None:
    plain = noise(1, 20_000)
    chunk = ChunkId(b"i" * 32)
    with repository.session(image_id("relying")) as (relying, _):
        with repository.session(image_id("broken")) as (broken, _):
            assert list(broken.missing([chunk], [len(plain)])) == [0]
            assert list(relying.missing([chunk], [len(plain)])) == []
        assert relying.settle(threading.Event()) == {chunk}
        assert list(relying.missing([chunk], [len(plain)])) == [0]
        relying.put([CompressedChunk(chunk, Codec.RAW, len(plain), plain, memoryview(plain))])
        assert relying.settle(threading.Event()) == frozenset()


def test_several_sessions_at_once_store_no_chunk_twice(repository: Repository) -> None:
    disk = noise(1, 3 * SMALL)

    def one(number: int) -> None:
        with SpanWorkers(2) as own:
            back_up(repository, Memory(disk), own, name=f"vm{number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = repository.points.all()
    assert len(points) == 4
    assert all(content(repository, point) == disk for point in points)
    packs = [read_directory(repository.backend, repository.keyring, pack) for pack in repository.store.index.packs]
    assert sum(int(entries["plain"][entries["kind"] == Kind.CONTENT].sum()) for entries in packs) == len(disk)


@pytest.mark.slow
def test_several_processes_write_one_repository(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(1, SMALL))
    environment = os.environ | {"OFFHOST_PASSPHRASE": PASSPHRASE.text, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    program = "import sys; from offhost.cli.main import main; sys.exit(main())"
    writers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                "--repo",
                str(root),
                "backup",
                "image",
                str(image),
                "--name",
                f"vm{number}",
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    with opened(root) as repository:
        points = repository.points.all()
        assert len(points) == 3
        assert all(content(repository, point) == image.read_bytes() for point in points)
        assert check(repository) == []


def test_chunks_in_condemned_packs_are_missing_to_writers_and_readable_still(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
        packs = sorted(repository.store.index.packs)
        name = "condemned/00000001"
        value = {"packs": packs, "points": []}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, value))
    with opened(root) as repository:
        assert content(repository, first) == disk.content
        second = back_up(repository, disk, workers, name="other")
        for pack in packs:
            repository.backend.delete(f"packs/{pack[:2]}/{pack}")
        repository.refresh()
        assert content(repository, second) == disk.content


def test_a_swept_pack_stays_dead_when_its_object_reappears(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        back_up(repository, disk, workers)
        packs = sorted(repository.store.index.packs)
        for folder, kind in (("condemned", ObjectType.CONDEMNED), ("sweeps", ObjectType.SWEEP)):
            name = f"{folder}/00000001"
            repository.backend.put(name, seal_json(repository.keyring, kind, name, {"packs": packs, "points": []}))
    with opened(root) as repository:
        assert repository.store.index.packs == frozenset()
        again = back_up(repository, disk, workers, name="other")
        assert content(repository, again) == disk.content


@pytest.mark.parametrize("folder", ["sweeps", "condemned"])
def test_a_forged_verdict_keeps_writers_out_and_readers_in(root: Path, workers: SpanWorkers, folder: str) -> None:
    disk = Memory(noise(1, 100_000))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
    (root / folder / "00000001").write_bytes(b"OFFHOST\x01" + bytes(200))
    with opened(root) as repository:
        assert content(repository, point) == disk.content
        with pytest.raises(IntegrityError, match=f"{folder}/00000001"):
            back_up(repository, disk, workers)


def test_a_forged_mark_takes_no_point_away(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(noise(1, 1000)), workers)
        (root / "marks" / f"forgotten-{point.id}").write_bytes(b"")
        assert repository.points.all() == [point]
        repository.marks.forget(back_up(repository, Memory(noise(2, 1000)), workers).id, "by hand")
        assert repository.points.all() == [point]


def test_a_wrong_passphrase_is_told_from_a_place_without_a_repository(root: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongKey):
        Repository.open(root, Passphrase("wrong"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoRepository, match="not an offhost repository"):
        Repository.open(tmp_path / "empty", PASSPHRASE)
    with pytest.raises(NoRepository):
        Repository.open(tmp_path / "nowhere", PASSPHRASE)


def test_a_repository_is_not_made_where_something_lies(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(Conflict, match="not empty"):
        create(tmp_path, PASSPHRASE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("change", [{"format": 2}, {"read": ["erasure-coding"]}, {"write": ["tiers"]}])
def test_a_repository_of_a_newer_format_is_refused(root: Path, change: dict[str, object]) -> None:
    with opened(root) as repository:
        keyring, name = repository.keyring, "config/00000002"
        value = get_json(repository.backend, keyring, ObjectType.CONFIG, "config/00000001") | change
        repository.backend.put(name, seal_json(keyring, ObjectType.CONFIG, name, value))
    with pytest.raises(FormatTooNew):
        Repository.open(root, PASSPHRASE)


def test_a_point_is_found_by_a_beginning_of_its_id_or_as_the_latest(
    repository: Repository, workers: SpanWorkers
) -> None:
    disk = Memory(noise(1, 100_000))
    first, last = back_up(repository, disk, workers, name="web"), back_up(repository, disk, workers, name="web")
    assert repository.points.find(first.id[:8]).id == first.id
    assert repository.points.find("web@latest").id == last.id
    for text in ("web", "zz", "", "other@latest"):
        with pytest.raises(NotFound):
            repository.points.find(text)


def test_names_of_vms_do_not_show_in_the_repository(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        back_up(repository, Memory(b"payroll" * 100_000), workers, name="payroll-server")
    for path in root.rglob("*"):
        assert "payroll" not in path.name
        assert not path.is_file() or b"payroll" not in path.read_bytes()


def test_make_is_what_the_fixture_says(tmp_path: Path) -> None:
    assert len(list((make(tmp_path / "r") / "packs").iterdir())) == 256


def test_a_reader_is_present_while_it_reads_and_gone_afterwards(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
        with repository.reading(point) as source:
            assert source.disk().size_bytes == len(disk.content)
            sessions = [
                get_json(repository.backend, repository.keyring, ObjectType.SESSION, item.name)
                for item in repository.backend.list("sessions/")
            ]
            (reader,) = [session for session in sessions if session["kind"] == "read"]
            assert reader["point"].endswith(point.id)
        assert [found.id for found in repository.points.all()] == [point.id]


def test_a_point_that_is_being_collected_is_not_read(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(noise(1, 200_000)), workers)
        name = "condemned/00000001"
        value = {"packs": [], "points": [point.id]}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, value))
        with pytest.raises(Conflict, match="collected"), repository.reading(point):
            pass


def test_a_file_chunk_that_another_session_dropped_is_not_committed_unstored(repository: Repository) -> None:
    """Whoever settles without storing the lost chunks again is not let through."""
    plain = noise(1, 20_000)
    chunk = ChunkId(b"f" * 32)
    with repository.session(image_id("relying")) as (relying, _):
        with repository.session(image_id("broken")) as (broken, _):
            broken.missing([chunk], [len(plain)])
            relying.missing([chunk], [len(plain)])
        assert relying.settle(threading.Event()) == {chunk}
        with pytest.raises(SessionFenced):
            relying.commit(point_of(relying, "relying"))
    assert repository.points.all() == []


@pytest.mark.slow
def test_an_older_look_at_what_is_condemned_is_never_applied_over_a_newer_one(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        back_up(repository, Memory(noise(1, 200_000)), workers)
        (pack,) = repository.store.index.packs
        looking, condemned = threading.Event(), threading.Event()
        listed = repository.backend.list

        def slow(prefix: str) -> object:
            found = list(listed(prefix))
            if prefix == "sweeps/" and threading.current_thread() is older:
                looking.set()
                condemned.wait(1)
            return iter(found)

        repository.backend.list = slow  # type: ignore[method-assign, assignment] # a slow look
        older = threading.Thread(target=repository.refresh)
        older.start()
        looking.wait(5)
        name = "condemned/00000001"
        value = {"packs": [pack], "points": []}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, value))
        repository.refresh()
        condemned.set()
        older.join()
        again = back_up(repository, Memory(noise(1, 200_000)), workers, name="other")
        repository.backend.delete(f"packs/{pack[:2]}/{pack}")
        repository.refresh()
        assert content(repository, again) == noise(1, 200_000)


def test_a_pack_that_does_not_open_bars_the_way_to_nothing_else(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
    (root / "packs" / "00" / ("00" + "ab" * 31)).write_bytes(b"not a pack")
    (root / "packs" / "00" / ".nfs0001").write_bytes(b"stray")
    with opened(root) as repository:
        assert content(repository, point) == disk.content
        assert check(repository, data=False) != []


def test_a_point_that_does_not_open_bars_the_way_to_nothing_else(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        damaged = back_up(repository, Memory(noise(1, 200_000)), workers, name="one")
        other = back_up(repository, Memory(noise(2, 200_000)), workers, name="two")
    (path,) = (root / "points").rglob(damaged.id)
    path.write_bytes(path.read_bytes()[:-1])
    with opened(root) as repository:
        assert repository.points.find("two@latest").id == other.id
        assert content(repository, other) == noise(2, 200_000)
        assert content(repository, back_up(repository, Memory(noise(3, 200_000)), workers, name="one"))
        assert any(damaged.id in what for what in check(repository, data=False))


def test_a_damaged_base_is_read_in_full_and_the_new_point_is_whole(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as repository:
        back_up(repository, disk, workers)
    (pack,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    pack.unlink()
    with opened(root) as repository:
        again = back_up(repository, disk, workers)
        assert content(repository, again) == disk.content


def test_every_copy_of_a_chunk_is_remembered(root: Path, workers: SpanWorkers, tmp_path: Path) -> None:
    """The collector may drop either of two copies; a cache that knew but one would lose the chunk."""
    disk = Memory(noise(1, 200_000))
    with opened(root, tmp_path) as repository:
        back_up(repository, disk, workers)
        (first,) = repository.store.index.packs
        name = "condemned/00000001"
        value = {"packs": [first], "points": []}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, value))
        point = back_up(repository, disk, workers, name="other")
        (second,) = repository.store.index.packs - {first}
        repository.store.index.totals()
        repository.backend.delete(f"packs/{second[:2]}/{second}")
    with opened(root, tmp_path) as repository:
        assert content(repository, point) == disk.content


def test_a_promise_is_broken_when_publishing_it_fails(repository: Repository, workers: SpanWorkers) -> None:
    def no_memory(pack: str, entries: object) -> None:
        raise MemoryError

    repository.store.index.add = no_memory  # type: ignore[method-assign] # as merging may when memory is short
    with pytest.raises(BackendError, match="MemoryError"):
        back_up(repository, Memory(noise(1, 200_000)), workers)


def test_a_flush_of_the_directory_that_fails_is_not_taken_for_success(
    repository: Repository, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    failed: list[str] = []

    def failing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) and not failed:
            failed.append(os.readlink(f"/proc/self/fd/{fd}"))
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    with repository.session(image_id("vm")) as (session, _):
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(BackendError, match="could not be flushed"):
            session.commit(point_of(session, "vm"))
        monkeypatch.undo()
    assert failed
    perhaps = [point.id for point in repository.points.all()]
    assert perhaps == [session.id], "what others may have seen is not taken back, though the run has failed"
    with repository.session(image_id("vm")) as (session, _):
        committed = session.commit(point_of(session, "vm", sequence=2))
    assert [point.id for point in repository.points.all()] == [*perhaps, committed.id]
