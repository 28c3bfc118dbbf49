"""The log: one line an event on standard error, `key=value`, from every room's standard logger.

Owns: the form. Does not own: what is said; secrets are never given to a logger.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from offhost.printable import printable

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}


def log_to_stderr() -> None:
    """Send what every logger says, from INFO on, to standard error.

    Under systemd the journal keeps time and priority; the latter it takes from a `<N>` before each line (sd-daemon(3)).
    """
    journal = "JOURNAL_STREAM" in os.environ
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _formatter(*, journal: bool) -> structlog.stdlib.ProcessorFormatter:
    stamp = [] if journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    order = ["level", "event"] if journal else ["timestamp", "level", "event"]
    logfmt = structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True)

    def line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return printable(logfmt(logger, method, event))

    def with_priority(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        return f"<{_PRIORITIES.get(event['level'], 6)}>{line(logger, method, event)}"

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(), *stamp],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            with_priority if journal else line,
        ],
    )
