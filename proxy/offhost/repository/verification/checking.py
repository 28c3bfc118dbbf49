"""One pack, checked: that its directory opens, and that every byte of it is what was written.

Owns: what of a pack counts as damaged, and whether that is worth remembering.
Does not own: which packs are checked, and when (verify), whom damage harms (harm), the checks of one chunk (packs).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

from offhost.backend.contract import Backend
from offhost.errors import AccessDenied, BackendError, IntegrityError, ObjectNotFound, OffhostError, Stopped
from offhost.ids import ChunkId
from offhost.repository.chunks.hand import Wanted
from offhost.repository.chunks.hands import HandLost, Hands
from offhost.repository.chunks.packs import (
    Entries,
    Kind,
    Location,
    PackCipher,
    pack_object,
    read_directory,
    read_header,
)
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.marks import Slots

T = TypeVar("T")

_FETCH_BYTES = 4 << 20
"""Read at once: large enough for a disk to stream, small enough for the processor's cache to hold."""
_CHUNKS_AT_ONCE = 8192
_ATTEMPTS = 3
_WAIT_S = 0.5
_NAMED = 8
_QUEUED_EACH = 2
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class PackFault:
    """What is wrong with a pack. `slots` hold no good copy of their chunks, all do not where it is None."""

    pack: str
    slots: Slots
    what: str
    lasting: bool = True
    """Whether the bytes are gone, so that it is worth marking; not so where only the right to read them lacks."""

    def holds(self, slot: int) -> bool:
        """Whether the chunk of this slot is among the damaged."""
        return self.slots is None or slot in self.slots

    def is_among(self, known: Slots) -> bool:
        """Whether all that it names is known to be damaged."""
        return known is None or (self.slots is not None and self.slots <= known)

    def joined(self, other: "PackFault") -> "PackFault":
        """Both, told as the other is: it was found later."""
        both = None if self.slots is None or other.slots is None else self.slots | other.slots
        return replace(other, slots=both)


@dataclass(slots=True)
class PackCheck:
    """What was looked at in a pack, and what is wrong with it."""

    pack: str
    chunks: int = 0
    read_bytes: int = 0
    fault: PackFault | None = None
    gone: bool = False
    """Not there: a fault, unless a collector has taken it meanwhile."""


@dataclass(frozen=True, slots=True)
class PackChecker:
    """Checks packs. Thread-safe, when what it tells is.

    `before_read` is told how many bytes are read next, and may wait; `on_directory` each directory that opened. The
    chunks are opened by `hands` where there are any: they read nothing, and what they find bad is looked at again here.
    """

    backend: Backend
    keyring: Keyring
    stop: threading.Event
    before_read: Callable[[int], object] = lambda _: None
    on_directory: Callable[[str, Entries], object] = lambda *_: None
    hands: Hands = field(default_factory=lambda: Hands(0))
    _id_keys: dict[int, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        metadata = self.keyring.metadata_id_key()
        keys = {Kind.CONTENT: self.keyring.id_key, Kind.LEAF: metadata, Kind.PAGE: metadata}
        object.__setattr__(self, "_id_keys", {int(kind): key for kind, key in keys.items()})

    def directory(self, pack: str) -> PackCheck:
        """Read a pack's directory. Raises: Unavailable when the whole store is."""
        return self._opened(pack)[0]

    def _opened(self, pack: str) -> tuple[PackCheck, Entries | None]:
        check = PackCheck(pack)
        try:
            entries = self._persistently(lambda: read_directory(self.backend, self.keyring, pack))
        except ObjectNotFound as error:
            check.gone = True
            check.fault = PackFault(pack, None, f"{pack_object(pack)} has vanished: {error}")
        except (IntegrityError, BackendError) as error:
            self._prove_alive(error)
            what = str(error) if pack in str(error) else f"{pack_object(pack)}: {error}"
            check.fault = PackFault(pack, None, what, lasting=not isinstance(error, AccessDenied))
        else:
            check.chunks = len(entries)
            self.on_directory(pack, entries)
            return check, entries
        return check, None

    def data(self, pack: str) -> PackCheck:
        """Read a pack from its first byte to its last, and check each chunk twice, as a reader would.

        All its bytes are covered: the header by every seal, the rest by the chunks' seals and the directory's, which
        must account for every byte. Raises: Unavailable when the whole store is; Stopped.
        """
        check, entries = self._opened(pack)
        if entries is None:
            return check
        bad = _Bad()
        try:
            cipher = self._persistently(lambda: read_header(self.backend, self.keyring, pack))
            for batch in _batches(pack, entries):
                self._check_batch(cipher, batch, bad)
        except ObjectNotFound as error:
            check.gone = True
            check.fault = PackFault(pack, None, f"{pack_object(pack)} has vanished: {error}")
            return check
        check.read_bytes = int(entries["stored"].sum(dtype="u8"))
        if bad.slots:
            check.fault = bad.fault(pack, len(entries))
        return check

    def _check_batch(self, cipher: PackCipher, batch: Sequence[tuple[ChunkId, Location]], bad: "_Bad") -> None:
        """Check neighbours by one read; each by its own when that fails, so that only what is bad counts as bad."""
        if self.stop.is_set():
            raise Stopped("verification was stopped before its end")
        first, last = batch[0][1], batch[-1][1]
        length = last.offset + last.stored - first.offset
        self.before_read(length)
        try:
            data = memoryview(
                self._persistently(lambda: self.backend.get_range(pack_object(first.pack), first.offset, length))
            )
        except ObjectNotFound:
            raise
        except (IntegrityError, BackendError) as error:
            self._prove_alive(error)
            if len(batch) == 1:
                bad.add(first.slot, error)
                return
            for one in batch:
                self._check_batch(cipher, [one], bad)
            return
        sealed = [data[at.offset - first.offset :][: at.stored] for _, at in batch]
        for position in self._doubtful(cipher, batch, sealed):
            chunk, at = batch[position]
            try:
                key = self._id_keys.get(at.kind)
                if key is None:
                    raise IntegrityError(f"pack {at.pack[:12]}, slot {at.slot}: a chunk of unknown kind {at.kind}")
                cipher.open_chunk(chunk, at, sealed[position], key)
            except IntegrityError as error:
                bad.add(at.slot, error)

    def _doubtful(
        self, cipher: PackCipher, batch: Sequence[tuple[ChunkId, Location]], sealed: Sequence[memoryview]
    ) -> Iterable[int]:
        """Which chunks are to be opened here: those that another process has not found good."""
        everything = range(len(batch))
        with self.hands.lent() as hand:
            if hand is None or not hand.lay(cipher, sealed, [Wanted(chunk, at) for chunk, at in batch]):
                return everything
            try:
                return sorted(hand.open(self._id_keys))
            except HandLost:
                return everything

    def _persistently(self, read: Callable[[], T]) -> T:
        """Read, trying again what may pass."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return read()
            except BackendError as error:
                if not error.retry:
                    raise
                self.stop.wait(_WAIT_S * 2**attempt)
        return read()

    def _prove_alive(self, error: OffhostError) -> None:
        """After what may be the store's trouble and not one pack's, read something else. Raises: what that raises."""
        if error.retry and (item := next(self.backend.list("config/"), None)):
            self.backend.get_range(item.name, 0, 1)


def processors() -> int:
    """As many threads as are worth having: reading, unsealing and hashing release the interpreter's lock."""
    return max(os.cpu_count() or 1, 2)


def in_threads(
    packs: Sequence[str], work: Callable[[str], PackCheck], threads: int, stop: threading.Event
) -> Iterator[PackCheck]:
    """What `work` makes of each pack, in the order they are done; few are queued. Raises: its first error; Stopped."""
    left, running = iter(packs), set[Future[PackCheck]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="check-pack") as pool:
        try:
            while not stop.is_set():
                running |= {pool.submit(work, pack) for pack in islice(left, threads * _QUEUED_EACH - len(running))}
                if not running:
                    return
                ready, running = wait(running, timeout=_LOOK_AGAIN_S, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()
            raise Stopped("stopped before its end", hint="the same command goes on from here")
        finally:
            for future in running:
                future.cancel()


def _batches(pack: str, entries: Entries) -> Iterator[list[tuple[ChunkId, Location]]]:
    """A pack's chunks in the order they lie, by what is read at once."""
    batch: list[tuple[ChunkId, Location]] = []
    for chunk, at in _chunks(pack, entries):
        if batch and (at.offset + at.stored - batch[0][1].offset > _FETCH_BYTES or len(batch) >= _CHUNKS_AT_ONCE):
            yield batch
            batch = []
        batch.append((chunk, at))
    if batch:
        yield batch


def _chunks(pack: str, entries: Entries) -> Iterator[tuple[ChunkId, Location]]:
    """A pack's chunks, slice by slice: somebody may have made up a million, of which each is some hundred bytes."""
    for start in range(0, len(entries), _CHUNKS_AT_ONCE):
        for identity, _, *place in entries[start : start + _CHUNKS_AT_ONCE].tolist():
            yield ChunkId(identity), Location(pack, *place)


@dataclass(slots=True)
class _Bad:
    """The slots of a pack that fail, and why the first of them does."""

    slots: set[int] = field(default_factory=set)
    why: str = ""

    def add(self, slot: int, error: OffhostError) -> None:
        self.why = self.why or str(error)
        self.slots.add(slot)

    def fault(self, pack: str, chunks: int) -> PackFault:
        slots = sorted(self.slots)
        which = ", ".join(map(str, slots[:_NAMED])) + (", …" if len(slots) > _NAMED else "")
        what = f"{pack_object(pack)}: {len(slots)} of {chunks} chunks damaged (slot {which}): {self.why}"
        return PackFault(pack, frozenset(slots), what)
