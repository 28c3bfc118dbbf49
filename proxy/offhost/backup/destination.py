"""Where backups go: a repository, and how chunks are made for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from offhost.chunking.compress import Compression
from offhost.chunking.pages import PageCutter
from offhost.chunking.spans import Chunking, store_stream
from offhost.chunking.workers import SpanWorkers
from offhost.repository.chunks.packer import WriteCheck
from offhost.repository.points.manifest import PointFile
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession


@dataclass(frozen=True, slots=True)
class Destination:
    """An open repository with the settings that backups use it by."""

    repository: Repository
    workers: SpanWorkers
    compression: Compression = field(default_factory=Compression)
    write_check: WriteCheck = "full"
    chunking: Chunking = field(init=False)

    def __post_init__(self) -> None:
        chunking = Chunking(
            PageCutter(self.repository.config.cut_secret), self.repository.keyring.id_key, self.compression
        )
        object.__setattr__(self, "chunking", chunking)

    def store_files(self, session: WriteSession, files: Mapping[str, bytes]) -> tuple[PointFile, ...]:
        """Small files, through the stream cutter: nothing in them is aligned."""
        return tuple(self._store_file(session, name, content) for name, content in sorted(files.items()))

    def _store_file(self, session: WriteSession, name: str, content: bytes) -> PointFile:
        stored = store_stream(memoryview(content), self.chunking, session)
        return PointFile(name, len(content), tuple(ref.id for ref in stored.map))
