"""A collection as a program to be measured, which says where its seconds went.

Owns: timing the phases of one collection. Does not own: measuring the whole, the peers' side of it.
"""

import json
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

from offhost.repository.collection import collect
from offhost.repository.collection.rewriting import Rewriter
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.repository import Repository


def phases(repository: Repository) -> dict[str, float]:
    """Collect; the seconds of each phase. Of looking into the condemned packs, what was moved is a phase of its own."""
    spent: dict[str, float] = defaultdict(float)

    def timed(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            started = perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                spent[phase] += perf_counter() - started

        return measured

    points = len(repository.points.ids())
    mark, confirm = f"mark {points} points, twice", "look into what is condemned"
    with ExitStack() as stack:
        for owner, name, phase in (
            (collect.Collector, "_marked", mark),
            (collect, "confirmed", confirm),
            (Rewriter, "move", "rewrite"),
            (Rewriter, "finish", "rewrite"),
            (collect, "sweep", "sweep"),
            (collect, "consolidate_runs", "merge index runs"),
        ):
            stack.enter_context(patch.object(owner, name, timed(phase, getattr(owner, name))))
        collect.Collector(repository, threading.Event()).run()
    spent[confirm] -= spent["rewrite"]
    return dict(spent)


def main() -> None:
    """REPOSITORY: print the seconds of each phase as JSON."""
    unlock = Passphrase(os.environ["OFFHOST_PASSPHRASE"])
    with Repository.open(Path(sys.argv[1]), unlock) as repository:
        print(json.dumps(phases(repository)))


if __name__ == "__main__":
    main()
