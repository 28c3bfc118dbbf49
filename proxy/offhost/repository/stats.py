"""What a repository holds, in numbers."""

from dataclasses import dataclass

from offhost.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Stats:
    """Bytes: `plain` what all points hold without holes, `unique` distinct chunks of that, `stored` as objects lie."""

    points: int
    vms: int
    plain_bytes: int
    unique_bytes: int
    stored_bytes: int
    packs: int
    chunks: int


def stats(repository: Repository) -> Stats:
    """Count. Raises: IntegrityError for a point that does not open."""
    points = repository.points.all()
    chunks, unique = repository.store.index.totals()
    stored = sum(item.size_bytes for folder in _FOLDERS for item in repository.backend.list(f"{folder}/"))
    disks = (disk.map.data_bytes for point in points for disk in point.disks)
    files = (file.size_bytes for point in points for file in point.files)
    return Stats(
        points=len(points),
        vms=len({point.vm_id for point in points}),
        plain_bytes=sum(disks) + sum(files),
        unique_bytes=unique,
        stored_bytes=stored,
        packs=len(repository.store.index.packs),
        chunks=chunks,
    )


_FOLDERS = ("config", "keys", "packs", "index", "points", "sessions", "condemned", "sweeps", "marks")
