"""The index made anew from the packs alone.

Owns: which runs are wrong, and that they go. Does not own: making runs (consolidation), reading directories (checking).

Index runs are a cache, so that nothing can be lost by it, and writers and readers may be at work: but for one that is
wrong nobody waits until a collector comes, since the next writer would believe it. This host's copy of the index is
dropped with them; another host's is on its own when it was made from a run that lied, and `rebuild` drops it there.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from offhost.repository.chunks.consolidation import consolidate_runs
from offhost.repository.chunks.packs import pack_object
from offhost.repository.repository import Repository
from offhost.repository.verification.agreement import Agreement
from offhost.repository.verification.checking import PackChecker, in_threads, processors

Progress = Callable[[int, int], object]
"""Told bytes of packs done and in all."""


@dataclass(slots=True)
class RebuildReport:
    """What was found and done."""

    packs: int = 0
    chunks: int = 0
    runs_put: int = 0
    runs_removed: int = 0
    wrong: list[str] = field(default_factory=list)
    """What was wrong with runs, which are gone now."""
    unreadable: list[str] = field(default_factory=list)
    """Packs whose directories do not open: what is in them is not found any more."""
    vanished: list[str] = field(default_factory=list)
    """Packs that runs told of and that are not there; marked as damage, so that the next backups heal it."""


def rebuild(repository: Repository, *, progress: Progress = lambda *_: None, stop: threading.Event) -> RebuildReport:
    """Compare every run with every directory, remove what is wrong, cover every pack; idempotent.

    Raises: IntegrityError when what collectors decided cannot be read; BackendError; Stopped.
    """
    repository.refresh(for_writing=True)
    report, agreement = RebuildReport(), Agreement()
    checker = PackChecker(repository.backend, repository.keyring, stop, on_directory=agreement.learn)
    packs, damaged = sorted(repository.store.index.packs), repository.store.index.damaged
    sizes = {item.name.rpartition("/")[2]: item.size_bytes for item in repository.backend.list("packs/")}
    done, total = 0, sum(sizes.get(pack, 0) for pack in packs)
    for check in in_threads(packs, checker.directory, processors(), stop):
        report.packs += 1
        report.chunks += check.chunks
        if check.fault and not check.gone:
            report.unreadable.append(check.fault.what)
            if check.fault.lasting and damaged.get(check.pack, frozenset()) is not None:
                repository.marks.damage(check.pack, None, check.fault.what)
        done += sizes.get(check.pack, 0)
        progress(done, total)
    survey = agreement.survey(repository.backend, repository.keyring)
    gone = (pack for pack, slots in damaged.items() if slots is None and pack not in sizes)
    report.vanished = sorted(map(pack_object, gone))
    for name, problem in survey.wrong.items():
        report.wrong.append(problem)
        repository.backend.delete(name)
    report.runs_removed = len(survey.wrong)
    repository.store.index.forget()
    _cover(repository, report)
    return report


def _cover(repository: Repository, report: RebuildReport) -> None:
    """Have runs put until every pack that opens is in one."""
    for _ in range(1 + report.packs):
        made = consolidate_runs(repository.store, unreadable_too=True)
        report.runs_put += made.put
        report.runs_removed += made.deleted
        if not made.put:
            return
