"""What a repository needs of a place for objects.

Owns: the contract; one suite of tests runs against every implementation. Does not own: what objects mean.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol


class ObjectInfo(NamedTuple):
    """An object in a listing."""

    name: str
    size_bytes: int


class Backend(Protocol):
    """Immutable objects under names such as `packs/ab/abcd`. Thread-safe.

    Listing is strong: what a `put` that returned has stored is listed from then on, in every process.
    """

    @property
    def location(self) -> str:
        """What messages call this place."""
        ...

    def check_writable(self) -> None:
        """Raise when this place, as it is reached from here, cannot keep several writers apart."""
        ...

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Create an object, whole and durable, or not at all.

        What others may have seen is never taken back: an error that is not to be tried again may leave the object,
        whole but not sure to outlast a power cut. Raises: ObjectExists; NoSpace, AccessDenied, Unavailable;
        BackendError.
        """
        ...

    def get(self, name: str, limit_bytes: int) -> bytes:
        """An object whole. Raises: ObjectNotFound; PackCorrupt when it is larger than `limit_bytes`."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes of an object. Raises: ObjectNotFound; PackCorrupt when it ends before."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects below a prefix that ends in `/`, in no order."""
        ...

    def make_durable(self, names: Iterable[str]) -> None:
        """Make sure that objects which are listed outlast a power cut: whoever puts one may not have come so far yet.

        Without effect where that cannot be said of a place, as on read-only media. Raises: Unavailable, BackendError.
        """
        ...

    def size(self, name: str) -> int:
        """Bytes of an object. Raises: ObjectNotFound."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error. Only a collector and `keys remove` call this."""
        ...
