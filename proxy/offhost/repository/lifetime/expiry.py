"""What expires in a repository, and the forgetting of it.

Owns: which points are judged together and by which policy, what keeps a point beside its policy (pins, unreadability,
no policy that claims it), and the marks. Does not own: the rules (retention), where the space comes back (collect).

Fails closed: nothing is forgotten while a mark or a sweep does not open, for it may be a pin, or name points as gone
that would then count in place of those that are not. Two that expire at once do no harm: each keeps the latest point
of a history, and forgetting twice is forgetting once. A point may be forgotten while it is read, or while a session
builds on it: the collector spares what they need.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Protocol

from offhost.ids import InstallationId, SessionId, VmId
from offhost.repository.points.manifest import Manifest, tags_of
from offhost.repository.unlocked import UnlockedRepository
from offhost.retention import Decision, Point, RetentionPolicy, apply

_REASON_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Terms:
    """A policy, and where its days begin."""

    policy: RetentionPolicy
    timezone: tzinfo


@dataclass(frozen=True, slots=True)
class History:
    """Points of one VM that are judged together, the oldest first; without terms all are kept, for this reason."""

    points: Sequence[Manifest]
    terms: Terms | None
    unclaimed: str = ""


class Scheme(Protocol):
    """Who governs which points."""

    def histories(self, points: Sequence[Manifest]) -> Iterable[History]:
        """Share out the points of one VM, the oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class OnePolicy:
    """Every point of a VM falls under the same terms, whatever made it."""

    terms: Terms

    def histories(self, points: Sequence[Manifest]) -> Iterator[History]:
        """All of them."""
        yield History(points, self.terms)


@dataclass(frozen=True, slots=True)
class ByJob:
    """A point falls under the terms of the job that made it; what no job claims is kept.

    A job claims a VM's points under its name when the latest of them was made by this installation: another offhost
    may have a job of that name in the same repository, while one that was set up anew takes its history over with its
    first backup of the VM.
    """

    installation: InstallationId
    jobs: Mapping[str, Terms]
    """The jobs whose repository this is; the policy of one without retention is empty."""

    def histories(self, points: Sequence[Manifest]) -> Iterator[History]:
        """One for each job, and one for what was made by hand."""
        made: dict[str, list[Manifest]] = {}
        for point in points:
            made.setdefault(str(point.origin.get("job") or ""), []).append(point)
        for job, its in made.items():
            unclaimed = self._unclaimed(job, its[-1])
            yield History(its, None if unclaimed else self.jobs[job], unclaimed)

    def _unclaimed(self, job: str, latest: Manifest) -> str:
        if not job:
            return "a copy: kept" if latest.origin.get("kind") == "copy" else "made without a job: kept"
        if job not in self.jobs:
            return f"made by `{job}`, which is not a job with this repository: kept"
        if latest.origin.get("installation") != self.installation:
            return f"made by `{job}` of another offhost: kept"
        return ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a point, and why."""

    id: SessionId
    vm_id: VmId | None
    """None: neither this point opens, nor any other of its VM."""
    vm_name: str
    time: datetime | None
    """None: it does not open."""
    keep: bool
    reasons: tuple[str, ...]


def judge(
    repository: UnlockedRepository,
    scheme: Scheme,
    *,
    vms: Collection[VmId] | None = None,
    is_deleted: Callable[[VmId], bool] = lambda _: False,
    damaged: Callable[[Sequence[Manifest]], Collection[str]] = lambda _: (),
) -> list[Judgement]:
    """Decide on every point, or on those of some VMs: by VM, the oldest first, those that do not open last.

    `is_deleted`: whether a VM is known not to exist any more; `damaged`: which of a VM's points are known to be, by id.
    Raises: IntegrityError when a mark or a sweep does not open; BackendError.
    """
    pins: dict[str, list[str]] = {}
    for pin in repository.marks.pins(strict=True):
        pins.setdefault(pin.point, []).append(pin.note)
    found: list[Judgement] = []
    for points, unreadable in _by_vm(repository, vms):
        judged: dict[str, Judgement] = {}
        known = _Known(pins, damaged(points), repository.clock.now(), bool(points) and is_deleted(points[-1].vm_id))
        for history in scheme.histories(points) if points else ():
            judged |= {each.id: each for each in _judged(history, known)}
        found += [judged[point.id] for point in points]
        found += [_kept_unread(name, points) for name in unreadable]
    return sorted(found, key=lambda each: (each.vm_name, each.vm_id or ""))


def _by_vm(repository: UnlockedRepository, vms: Collection[VmId] | None) -> Iterator[tuple[list[Manifest], list[str]]]:
    """The points of each VM, and the names of those that do not open."""
    gone = repository.graveyard.read().swept_points | repository.marks.forgotten(strict=True)
    for folder in [""] if vms is None else [f"{repository.keyring.vm_folder(vm)}/" for vm in vms]:
        points, unreadable = repository.points.survey(f"points/{folder}", gone)
        shared: dict[str, tuple[list[Manifest], list[str]]] = {}
        for point in points:
            shared.setdefault(repository.keyring.vm_folder(point.vm_id), ([], []))[0].append(point)
        for name in unreadable:
            shared.setdefault(name.split("/")[1], ([], []))[1].append(name)
        yield from shared.values()


def strangers(repository: UnlockedRepository, known: Collection[VmId]) -> set[VmId]:
    """The VMs, other than these, that have points. Reads the points of those only."""
    folders = {item.name.split("/")[1] for item in repository.backend.list("points/")}
    unknown = folders - {repository.keyring.vm_folder(vm) for vm in known}
    return {point.vm_id for folder in unknown for point in repository.points.survey(f"points/{folder}/")[0]}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a VM and its points beside what the points say: pins by point, the damaged ones."""

    pins: Mapping[str, Sequence[str]]
    damaged: Collection[str]
    now: datetime
    deleted: bool


def _judged(history: History, known: _Known) -> Iterator[Judgement]:
    points = [_point(point, known) for point in history.points]
    if history.terms is None:
        decisions = [Decision(point, True, (*point.pinned, history.unclaimed)) for point in points]
    else:
        policy, timezone = history.terms.policy, history.terms.timezone
        decisions = apply(policy, points, now=known.now, timezone=timezone, deleted=known.deleted)
    for point, decision in zip(history.points, decisions, strict=True):
        yield Judgement(point.id, point.vm_id, point.vm_name, point.time, decision.keep, decision.reasons)


def _point(point: Manifest, known: _Known) -> Point:
    return Point(
        id=point.id,
        sequence=point.sequence,
        time=point.time,
        tags=frozenset(tags_of(point)),
        pins=tuple(known.pins.get(point.id, ())),
        damaged=point.id in known.damaged,
    )


def _kept_unread(name: str, others: Sequence[Manifest]) -> Judgement:
    """A point that does not open: no rule can judge it, and it stands in for no other."""
    vm_id, vm_name = (others[-1].vm_id, others[-1].vm_name) if others else (None, "?")
    reason = "does not open: kept, and counted nowhere, until it is forgotten by its full id"
    return Judgement(SessionId(name.rpartition("/")[2]), vm_id, vm_name, None, True, (reason,))


def expire(repository: UnlockedRepository, judged: Iterable[Judgement]) -> list[Judgement]:
    """Forget what was judged not to be kept, but for what has been pinned since; returns what was forgotten.

    Raises: IntegrityError; BackendError, when what was forgotten before stays so: applying again does the rest.
    """
    expired = [each for each in judged if not each.keep]
    if not expired:
        return []
    pinned = {pin.point for pin in repository.marks.pins(strict=True)}
    expired = [each for each in expired if each.id not in pinned]
    for each in expired:
        repository.marks.forget(each.id, f"expired: {'; '.join(each.reasons)}"[:_REASON_LIMIT])
    return expired
