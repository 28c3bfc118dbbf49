"""What a file system may show after a power cut: recorded calls, and the states that they leave possible.

Owns: the recording of what a process does to the files below a directory, and the model: what was flushed is there;
of what was not, each directory entry may be at any of its versions since its directory was flushed, and a file's bytes
may be none, a part, zeros or all. A flush that failed has lost what it was to flush, though later ones succeed.
Does not own: what must hold in such a state (story).
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any, NamedTuple
from unittest.mock import patch

ABSENT, DIRECTORY, BEFORE = 0, -1, -2
"""In place of an inode's number, which counts from 1; BEFORE: the file that lay there when recording began."""


class Effect(NamedTuple):
    """One thing that was done.

    entry: a path now leads to an inode, a directory or nothing; write: bytes were added to an inode; flushed,
    flush failed: an inode, or with a path a directory; note: the test's own.
    """

    what: str
    path: str | None = None
    inode: int = ABSENT
    data: bytes = b""


@dataclass
class Recorder:
    """Records what this process does below a directory. Thread-safe: a call and its record are one."""

    root: Path
    failing_flush: int | None = None
    """The flush, counted from 0, that fails once with EIO."""
    after_link: Callable[[str], object] = lambda _: None
    """Told each name that was linked, before whoever linked it goes on."""
    effects: list[Effect] = field(default_factory=list)
    flushes: int = 0
    _inodes: dict[str, int] = field(default_factory=dict)
    _files: dict[int, int] = field(default_factory=dict)
    _directories: dict[int, str] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def note(self, text: str) -> None:
        """Something that the test wants to find again in the order of effects."""
        with self._lock:
            self.effects.append(Effect("note", text))

    @contextmanager
    def recording(self) -> Iterator["Recorder"]:
        """The scope in which calls are recorded."""
        calls: dict[str, Callable[..., Any]] = {
            "open": self._on_open,
            "close": self._on_close,
            "write": self._on_write,
            "fsync": self._on_fsync,
            "link": self._on_link,
            "unlink": self._on_unlink,
            "mkdir": self._on_mkdir,
        }
        with ExitStack() as scope:
            for name, call in calls.items():
                scope.enter_context(patch.object(os, name, self._as_one(call, getattr(os, name))))
            yield self

    def _as_one(self, recorded: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
        def both(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                result = recorded(call, *arguments, **named)
            if recorded == self._on_link and (name := self._below(arguments[1])) is not None:
                self.after_link(name)
            return result

        return both

    def _below(self, path: Any) -> str | None:
        inside = isinstance(path, str | Path) and Path(path).is_relative_to(self.root)
        return str(Path(path).relative_to(self.root)) if inside else None

    def _on_open(self, call: Callable[..., int], path: Any, flags: int, *rest: Any, **named: Any) -> int:
        fd = call(path, flags, *rest, **named)
        if (name := self._below(path)) is not None:
            if flags & os.O_DIRECTORY:
                self._directories[fd] = name
            elif flags & os.O_CREAT:
                inode = len(self.effects) + 1
                self._inodes[name] = self._files[fd] = inode
                self.effects.append(Effect("entry", name, inode))
        return fd

    def _on_close(self, call: Callable[[int], None], fd: int) -> None:
        self._files.pop(fd, None)
        self._directories.pop(fd, None)
        call(fd)

    def _on_write(self, call: Callable[..., int], fd: int, data: Any) -> int:
        done = call(fd, data)
        if fd in self._files:
            self.effects.append(Effect("write", None, self._files[fd], bytes(data[:done])))
        return done

    def _on_fsync(self, call: Callable[[int], None], fd: int) -> None:
        if fd not in self._files and fd not in self._directories:
            return call(fd)
        number, self.flushes = self.flushes, self.flushes + 1
        path, inode = self._directories.get(fd), self._files.get(fd, ABSENT)
        if number == self.failing_flush:
            self.effects.append(Effect("flush failed", path, inode))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.effects.append(Effect("flushed", path, inode))
        return None

    def _on_link(self, call: Callable[..., None], source: Any, target: Any, **named: Any) -> None:
        call(source, target, **named)
        if (name := self._below(target)) is not None:
            self._inodes[name] = self._inodes[self._below(source) or ""]
            self.effects.append(Effect("entry", name, self._inodes[name]))

    def _on_unlink(self, call: Callable[..., None], path: Any, **named: Any) -> None:
        call(path, **named)
        if (name := self._below(path)) is not None:
            self.effects.append(Effect("entry", name, ABSENT))

    def _on_mkdir(self, call: Callable[..., None], path: Any, *rest: Any, **named: Any) -> None:
        call(path, *rest, **named)
        if (name := self._below(path)) is not None:
            self.effects.append(Effect("entry", name, DIRECTORY))


@dataclass
class _Entry:
    """A path: what it may lead to, the last being what a running system shows; the first `settled` are all the same
    to a later flush, which makes the last the only one if it came after them."""

    versions: list[int]
    settled: int = 1

    def flush(self) -> None:
        if len(self.versions) > self.settled:
            self.versions, self.settled = self.versions[-1:], 1

    def lose(self) -> None:
        self.settled = len(self.versions)


@dataclass
class _Content:
    """An inode's bytes; `sure` once they were flushed, `lost` once a flush failed: no later one brings them back."""

    data: bytes = b""
    sure: bool = False
    lost: bool = False

    def possible(self) -> list[bytes]:
        if self.sure:
            return [self.data]
        return [self.data, b"", self.data[: len(self.data) // 2], bytes(len(self.data))]


State = dict[str, bytes | int]
"""The paths that the recording touched: a file's bytes, or one of ABSENT, DIRECTORY, BEFORE."""


class Disk:
    """What may be on disk, effect by effect."""

    def __init__(self, before: Path) -> None:
        """`before`: the directory as it was, durably, when recording began."""
        self._before = before
        self._entries: dict[str, _Entry] = {}
        self._contents: dict[int, _Content] = {}

    def apply(self, effect: Effect) -> None:
        """Go on by one effect."""
        if effect.what == "entry":
            name = str(effect.path)
            first = BEFORE if (self._before / name).exists() else ABSENT
            self._entries.setdefault(name, _Entry([first])).versions.append(effect.inode)
        elif effect.what == "write":
            content = self._contents.setdefault(effect.inode, _Content())
            content.data += effect.data
            content.sure = False
        elif effect.what != "note":
            self._flush(effect, failed=effect.what == "flush failed")

    def _flush(self, effect: Effect, *, failed: bool) -> None:
        if effect.path is None:
            content = self._contents.setdefault(effect.inode, _Content())
            content.lost |= failed
            content.sure = not content.lost
            return
        for name, entry in self._entries.items():
            if (os.path.dirname(name) or ".") == effect.path:
                entry.lose() if failed else entry.flush()

    def newest(self) -> State:
        """The state in which everything happened."""
        return self._state(lambda versions: versions[-1], lambda contents: contents[0])

    def oldest(self) -> State:
        """The state in which nothing happened but what was flushed."""
        return self._state(lambda versions: versions[0], lambda contents: contents[-1])

    def drawn(self, chance: Random) -> State:
        """One of the states between."""
        return self._state(chance.choice, chance.choice)

    def _state(self, version: Callable[[list[int]], int], content: Callable[[list[bytes]], bytes]) -> State:
        state: State = {}
        for name, entry in self._entries.items():
            inode = version(entry.versions)
            held = self._contents.setdefault(inode, _Content()) if inode > ABSENT else None
            state[name] = content(held.possible()) if held else inode
        return state

    def lay_out(self, state: State, root: Path) -> None:
        """Make a directory that is in this state. What lies in a directory that is not there is lost."""
        shutil.copytree(self._before, root)
        for name, what in sorted(state.items()):
            path = root / name
            if what == DIRECTORY and path.parent.is_dir():
                path.mkdir(exist_ok=True)
            elif what == ABSENT:
                path.unlink(missing_ok=True)
            elif isinstance(what, bytes) and path.parent.is_dir():
                path.write_bytes(what)


def cuts(effects: Sequence[Effect], before: Path, draws: int) -> Iterator[tuple[Disk, State, int]]:
    """A state for each moment at which the power may fail, several where it leaves several; how many effects it knew.

    States that were given before are left out, but for what was noted since.
    """
    disk, chance = Disk(before), Random(len(effects))
    seen: set[int] = set()
    for number, effect in enumerate([Effect("note", "begun"), *effects]):
        disk.apply(effect)
        if effect.what == "note":
            seen.clear()
        for state in [disk.newest(), disk.oldest(), *(disk.drawn(chance) for _ in range(draws))]:
            identity = hash(tuple(sorted(state.items(), key=str)))
            if identity not in seen:
                seen.add(identity)
                yield disk, state, number
