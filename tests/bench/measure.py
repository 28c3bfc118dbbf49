"""What a command costs: wall and CPU seconds, and the most anonymous memory it held at one time.

Owns: running one command under observation. Does not own: which commands, or what the figures mean.
"""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

SAMPLE_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Cost:
    """What one finished command took, its children included, and what it printed on standard output."""

    wall_s: float
    cpu_s: float
    peak_anonymous_bytes: int
    output: str


class CommandFailed(Exception):
    """A measured command ended with an error: its figures mean nothing."""


def run(command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None) -> Cost:
    """Run a command to its end. What was written before is first brought to disk, so that nobody pays for others.

    Raises: CommandFailed with the end of the command's standard error.
    """
    os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=out,
            stderr=err,
            env={**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )
        _prefer(process.pid)
        memory = _MemoryWatch(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        wall_s = perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = memory.stop()
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise CommandFailed(f"{command[0]} ended with {process.returncode}: {err.read().decode()[-2000:]}")
        return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak, out.read().decode())


def _prefer(pid: int) -> None:
    """Put a session before all others, where this may be done: between sessions, niceness itself does not count."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-20")


class _MemoryWatch:
    """Samples a process and its descendants until stopped. A peak shorter than the sampling interval is missed.

    What the process shares with its descendants counts once.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch")
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_EVERY_S):
            anonymous = sum(_status_bytes(pid, "RssAnon:") for pid in _family(self._pid))
            self._peak = max(self._peak, anonymous + _status_bytes(self._pid, "RssShmem:"))

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _words(task / "children")]
    except OSError:
        return
    for child in children:
        yield from _family(child)


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def _status_bytes(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
