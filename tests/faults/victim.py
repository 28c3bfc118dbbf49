"""`python -m faults.victim N COUNT_FILE arguments…`: the command line, killed at its N-th change of a file system.

The changes are those by which a repository is written; kill -9 between any two of them leaves what a real one would.
Without a kill (N is 0) COUNT_FILE says how many there were.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offhost.cli.main import main

CHANGES = ("write", "fsync", "link", "unlink", "mkdir", "rename")


class Countdown:
    """Kills this process before the change of that number is made. Thread-safe."""

    def __init__(self, fatal: int) -> None:
        self._fatal, self._lock = fatal, threading.Lock()
        self.seen = 0

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, counted."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self.seen += 1
                if self.seen == self._fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return wrapped


def run(fatal: int, count_file: Path, arguments: list[str]) -> int:
    """Run the command line; its exit code, if it lives."""
    countdown = Countdown(fatal)
    for name in CHANGES:
        setattr(os, name, countdown.counted(getattr(os, name)))
    sys.argv = ["offhost", *arguments]
    try:
        return int(main() or 0)
    except SystemExit as end:
        return int(end.code or 0) if not isinstance(end.code, str) else 1
    finally:
        count_file.write_text(str(countdown.seen))


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
