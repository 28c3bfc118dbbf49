"""What the rooms log while a command runs: warnings are told, once.

Owns: which of it a command's user sees. Does not own: the daemon's log (daemon.logs), which has all of it.
"""

import logging
import os

from offhost.cli.output import note
from offhost.printable import printable

_IN_THE_RESULT = ("offhost.jobs.runner", "offhost.backup.vm")
"""They log what also stands on the run's record, which the command prints when the run has ended."""


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """As logging itself, for a terminal."""
        return printable(super().format(record), keep="\n\t")


class _Telling(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it as other warnings are said; a fault of offhost itself with where it happened, for its report."""
        if not record.name.startswith("offhost."):
            return
        if record.exc_info:
            for line in self.format(record).split("\n"):
                note(line)
        elif record.name not in _IN_THE_RESULT and (said := record.getMessage()) not in self._told:
            self._told.add(said)
            note(f"warning: {said}")


def tell_warnings() -> None:
    """Tell what is logged from WARNING on; with OFFHOST_DEBUG set, everything, as logging itself would.

    Does nothing where logging is already looked after, as by the daemon's own set-up or a program around this one.
    """
    if logging.root.handlers:
        return
    if os.environ.get("OFFHOST_DEBUG"):
        logging.basicConfig(level=logging.INFO)
        for handler in logging.root.handlers:
            handler.setFormatter(_Printable(logging.BASIC_FORMAT))
    else:
        logging.root.addHandler(_Telling(logging.WARNING))
