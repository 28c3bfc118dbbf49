"""FORMAT.md is enough to read a repository: a reader written from it alone gives back what offhost stored."""

import ast
import json
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compat.golden import HERE, generations, unpack
from compat.independent_reader import Place
from compat.independent_reader import Repository as Reader
from offhost.backup.copy import DiskCopy, map_of
from offhost.chunking.compress import Codec, Compression
from offhost.chunking.spans import Chunking, store_stream
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey, image_id
from offhost.repository.access import Access
from offhost.repository.collection.collect import Collector
from offhost.repository.keys.credentials import Unencrypted, Unlock
from offhost.repository.keys.keyfile import KeyFile
from offhost.repository.keys.recoverykey import RecoveryKey
from offhost.repository.points.manifest import Manifest, PointDisk, PointFile
from offhost.repository.repository import Repository, create
from support.repositories import CHEAP, PASSPHRASE, Memory, chunking_of, make, noise, opened, point_of

READER = HERE / "independent_reader.py"
SPAN = 32 << 20
KEY_FILE, RECOVERY_KEY = KeyFile.new(), RecoveryKey.new()
VMX = b"".join(b'scsi0:%d.fileName = "disk-%d.vmdk"\n' % (n, n) for n in range(20_000))


def content(reader: Reader, disk: dict[str, object]) -> bytes:
    plain = bytearray(int(str(disk["size_bytes"])))
    for offset, data in reader.disk(disk):
        plain[offset : offset + len(data)] = data
    return bytes(plain)


def check_runs(reader: Reader) -> int:
    """Hold the index runs against the packs' own directories; how many entries of packs that exist there are."""
    count = 0
    for name in reader.listed("index"):
        plain = reader.unsealed(name, 512 << 20)
        (length,) = struct.unpack_from("<I", plain)
        head = json.loads(plain[4 : 4 + length])
        packs, (bits, prefix) = head["packs"], head["shard"]
        entries = list(struct.iter_unpack("<32sIIIIIBB", plain[4 + length :]))
        assert entries == sorted(entries, key=lambda entry: entry[0])
        for chunk, pack, *place in entries:
            assert int.from_bytes(chunk[:2], "big") >> 16 - bits == prefix
            if packs[pack] in reader.packs:
                assert Place(packs[pack], *place) in reader.places[chunk]
                count += 1
    return count


def store(
    repository: Repository, workers: SpanWorkers, disk: bytearray, codec: Codec, areas: ExtentMap | None = None
) -> Manifest:
    chunking = Chunking(chunking_of(repository).cutter, repository.keyring.id_key, Compression(codec))
    with repository.session(image_id("vm")) as (session, base):
        copy = DiskCopy(
            Memory(disk), session, chunking, workers, base=map_of(base, DiskKey("disk0")), areas=areas
        )  # fmt: skip
        copy.run(threading.Event())
        file = PointFile(
            "vm.vmx", len(VMX), tuple(ref.id for ref in store_stream(memoryview(VMX), chunking, session).map)
        )
        before = repository.points.predecessor(base.manifest) if base else None
        sequence = base.manifest.sequence + 1 if base else 1
        disks = (PointDisk(DiskKey("disk0"), "disk", copy.finish()),)
        point = point_of(session, "vm", sequence=sequence, disks=disks, predecessor=before)
        return session.commit(replace(point, files=(file,)))


def test_the_reader_stands_on_its_own() -> None:
    tree = ast.parse(READER.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in ("offhost", "support", "compat", "numpy")}
    assert len(READER.read_text().splitlines()) < 250


def test_a_golden_repository_is_read_by_the_document_alone(tmp_path: Path) -> None:
    reader = Reader(unpack(HERE / "format-1.tar.gz", tmp_path), "passphrase", PASSPHRASE.text)
    assert [content(reader, point["disks"][0]) for point in reader.points()] == generations()
    assert check_runs(reader) > 0


@pytest.mark.slow
def test_spans_patches_files_and_every_codec_are_read_by_the_document_alone(
    tmp_path: Path, workers: SpanWorkers
) -> None:
    disk = bytearray(3 * SPAN + 777)
    disk[1000:3_000_000] = noise(1, 2_999_000)
    disk[SPAN - 100_000 : SPAN + 4_000_000] = np.random.default_rng(2).integers(0, 4, 4_100_000, np.uint8).tobytes()
    disk[-777:] = noise(3, 777)
    states = []
    root = make(tmp_path / "repository")
    with opened(root) as repository:
        store(repository, workers, disk, Codec.RAW)
        states.append(bytes(disk))
        for day in range(19):  # more than sixteen patches deep, so that a keyframe comes between
            at = SPAN + 200_000 * day
            disk[at : at + 5000] = noise(10 + day, 5000)
            codec = (Codec.LZ4, Codec.ZSTD)[day % 2]
            store(repository, workers, disk, codec, ExtentMap([Extent(at, at + 5000)]))
            states.append(bytes(disk))
    reader = Reader(root, "passphrase", PASSPHRASE.text)
    points = reader.points()
    assert [point["sequence"] for point in points] == list(range(1, 21))
    for point, state in zip(points, states, strict=True):
        assert content(reader, point["disks"][0]) == state
        assert reader.file(point["files"][0]) == VMX
    stored = {(place.kind, place.codec) for places in reader.places.values() for place in places}
    assert {(1, Codec.RAW), (1, Codec.LZ4), (1, Codec.ZSTD)} <= stored
    assert check_runs(reader) == sum(map(len, reader.places.values()))


def test_forgotten_pinned_and_swept_points_are_told_apart(tmp_path: Path, workers: SpanWorkers) -> None:
    root = unpack(HERE / "format-1.tar.gz", tmp_path)
    with opened(root) as repository:
        gone, kept, back = repository.points.all()
        for point in (gone, kept, back):
            repository.marks.forget(point.id, "a test")
        repository.marks.pin(kept.id, "a test")
        repository.marks.unpin(repository.marks.pin(back.id, "a test"))
        Collector(repository, threading.Event()).run()
    reader = Reader(root, "passphrase", PASSPHRASE.text)
    (left,) = reader.points()
    assert left["id"] == kept.id
    assert content(reader, left["disks"][0]) == generations()[1]


@pytest.mark.parametrize(
    ("unlock", "secret"),
    [
        (KEY_FILE, KEY_FILE.text()),
        (RECOVERY_KEY, RECOVERY_KEY.text()),
        (PASSPHRASE, PASSPHRASE.text),
        (Unencrypted(), ""),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_way_in_and_every_key_epoch_is_in_the_document(
    tmp_path: Path, workers: SpanWorkers, unlock: Unlock, secret: str
) -> None:
    root = tmp_path / "repository"
    create(root, unlock, cost=CHEAP)
    disk = bytearray(noise(1, 300_000))
    states = []
    for epoch in (1, 2):
        if epoch == 2 and not isinstance(unlock, Unencrypted):
            access = Access.open(root, unlock)
            access.rotate(access.rotation([]), CHEAP)
        with Repository.open(root, unlock) as repository:
            disk[1000 * epoch : 1000 * epoch + 500] = noise(epoch, 500)
            store(repository, workers, disk, Codec.LZ4)
            states.append(bytes(disk))
    reader = Reader(root, unlock.kind, secret)
    assert [content(reader, point["disks"][0]) for point in reader.points()] == states
    with pytest.raises(ValueError, match="no wrapper"):
        Reader(root, *(("plain", "") if secret else ("passphrase", "x")))


def test_the_document_tells_another_key_and_a_flipped_bit(tmp_path: Path) -> None:
    root = unpack(HERE / "format-1.tar.gz", tmp_path)
    with pytest.raises(ValueError, match="no wrapper"):
        Reader(root, "passphrase", "another")
    pack = next(path for path in sorted((root / "packs").rglob("*")) if path.is_file())
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(ValueError, match="not those its name says"):
        Reader(root, "passphrase", PASSPHRASE.text)
