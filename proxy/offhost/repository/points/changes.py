"""Where two maps of one repository differ.

Owns: the areas, from the maps alone: no content is read. Does not own: what is done with them (copying, comparing).
"""

from collections.abc import Iterator

from offhost.chunking.spans import SPAN_BYTES
from offhost.extents import Extent, ExtentMap
from offhost.repository.points.diskmap import DiskMap


def changed_areas(before: DiskMap, now: DiskMap) -> ExtentMap:
    """A superset of the bytes that differ between two disks of one size and one repository.

    Whole chunks: one that only one of the maps has at its place covers what may have changed, and what became a hole.
    A chunk of either map lies in the areas as a whole or not at all. Raises: IntegrityError; ValueError for disks of
    different sizes.
    """
    if before.ref.size_bytes != now.ref.size_bytes:
        raise ValueError(f"disks of {before.ref.size_bytes} and {now.ref.size_bytes} bytes differ everywhere")
    return ExtentMap(_differing(before, now))


def _differing(before: DiskMap, now: DiskMap) -> Iterator[Extent]:
    for span in range(len(now)):
        if before.slot(span)[:32] != now.slot(span)[:32]:
            start = span * SPAN_BYTES
            for ref in set(before.span(span)) ^ set(now.span(span)):
                yield Extent(start + ref.start, start + ref.start + ref.length)
