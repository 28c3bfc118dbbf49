"""Healing: what of a disk must be read from its source again, since no good copy of it is left in the repository.

Owns: looking through the map that the next one builds on. A repository that knows of no damage pays nothing, and one
that does pays once for each disk and each piece of news: a point says under which damage it is sound.
Does not own: finding damage (verify, reading), reading the source (backup).

What heals, and what does not: a chunk that is stored anew has the id it had, so that every point that refers to it is
healed, however old. A leaf that cannot be read is written as a keyframe: older points are healed when it was one.
"""

import logging
import threading

from offhost.chunking.spans import SPAN_BYTES
from offhost.errors import IntegrityError, Stopped
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.session import WriteSession

_log = logging.getLogger(__name__)


def wounds(base: DiskMap, session: WriteSession, stop: threading.Event) -> ExtentMap:
    """The parts of a disk whose chunks have no good copy, and the spans whose leaves cannot be read.

    Leaves and list pages that are marked as damaged and can be read all the same are stored anew at once.
    Raises: BackendError and what else storing raises; Stopped.
    """
    if session.is_whole(base):
        return ExtentMap()
    for page in base.ref.pages:
        _store_anew(base, page, Kind.PAGE, session)
    found: list[Extent] = []
    for span in range(len(base)):
        if stop.is_set():
            raise Stopped("the copy was stopped")
        found += _wounds_of_span(base, span, session)
    return ExtentMap(found)


def _wounds_of_span(base: DiskMap, span: int, session: WriteSession) -> list[Extent]:
    start = span * SPAN_BYTES
    try:
        for leaf in base.lineage(span):
            _store_anew(base, leaf, Kind.LEAF, session)
        refs = list(base.span(span))
    except IntegrityError as error:
        _log.warning("span %d of the base cannot be told, so it is read in full: %s", span, error)
        return [Extent(start, min(start + SPAN_BYTES, base.ref.size_bytes))]
    whole = session.readable([ref.id for ref in refs])
    return [
        Extent(start + ref.start, start + ref.start + ref.length)
        for ref, readable in zip(refs, whole, strict=True)
        if not readable
    ]


def _store_anew(base: DiskMap, chunk: ChunkId, kind: Kind, session: WriteSession) -> None:
    """Give a metadata chunk a good copy, when it has none and one of the others still reads."""
    if not session.readable([chunk])[0]:
        session.put_metadata(kind, base.read_metadata(chunk, kind))
