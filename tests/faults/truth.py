"""Anything that may happen to a VM, in any order, between its backups and during them.

Owns: the order, drawn by hypothesis. Does not own: what is done and what must hold (witness).
"""

import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from faults.witness import DATASTORES, MOMENTS, Trial, on_trial
from offhost.backup import vm as vm_backup
from offhost.backup.base import ReadMode
from offhost.chunking.workers import SpanWorkers
from offhost.snapshot import leftovers
from offhost.snapshot.held import held
from offhost.snapshot.removal import Patience
from support.repositories import noise
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

BEFORE = (
    *["the guest writes"] * 6,
    *["the guest writes here and there"] * 3,
    *["somebody takes a snapshot"] * 3,
    *["somebody reverts"] * 2,
    *["somebody removes a snapshot"] * 2,
    "a disk is added",
    "a disk grows",
    "a disk grows",
    "a disk is detached",
    "a disk is attached elsewhere",
    "change tracking is switched",
    "change tracking is begun anew",
    "answers become short",
    "the storage moves",
    "the VM is renamed",
    "sessions are dropped",
)
"""More often what makes the rest matter."""
DURING = (
    "the guest writes",
    "the guest writes here and there",
    "somebody takes a snapshot",
    "somebody removes a snapshot",
    "somebody reverts",
    "our snapshot is removed",
    "a disk is added",
    "a disk is detached",
    "change tracking is switched",
    "the storage moves",
    "the VM is renamed",
    "sessions are dropped",
    "the run is cancelled",
    "a read fails",
)
TORN = ("our snapshot is removed", "the storage moves")
"""What lets the bytes of one disk be of two moments."""
STEPS = (*BEFORE, *DURING, "change tracking lies", "points forgotten")
MODES: tuple[ReadMode, ...] = ("incremental", "incremental", "incremental", "differential", "full")
CALLS = (
    "RetrievePropertiesEx",
    "CreateSnapshotEx_Task",
    "RemoveSnapshot_Task",
    "ReconfigVM_Task",
    "QueryChangedDiskAreas",
    "CreateCollectorForEvents",
    "ReadNextEvents",
    "CurrentTime",
    "rest:GET",
    "*",
)
TROUBLES = (
    Rule("", fault="SystemError", fields={"reason": "of the trial"}),
    Rule("", fault="FileFault", fields={"file": "web.vmdk"}),
    Rule("", fault="TaskInProgress"),
    Rule("", mode="task", fault="SystemError", fields={"reason": "of the trial"}),
    Rule("", mode="http503"),
    Rule("", mode="drop"),
    Rule("", mode="delay", delay_ms=20),
)

Event = tuple[str, int, int]

small = st.integers(0, 40)
work = st.lists(st.tuples(st.sampled_from(BEFORE), small, small), min_size=1, max_size=5)
meanwhile = st.dictionaries(
    st.sampled_from(MOMENTS), st.tuples(st.sampled_from(DURING), small, small), min_size=1, max_size=2
)


def _fault(call: str, trouble: int, nth: int, count: int) -> Rule:
    like = TROUBLES[trouble]
    return Rule(
        call,
        mode="soap" if call.startswith("Read") and like.mode == "task" else like.mode,
        fault=like.fault,
        fields=like.fields,
        delay_ms=like.delay_ms,
        nth=nth,
        count=count,
    )


faults = st.builds(
    _fault, st.sampled_from(CALLS), st.integers(0, len(TROUBLES) - 1), nth=st.integers(1, 12), count=st.integers(1, 5)
)


@dataclass(frozen=True, slots=True)
class Site:
    """What the lives of VMs share: workers, a folder, and the counts of all."""

    workers: SpanWorkers
    folder: Path
    told: Counter[str]


class Truth(RuleBasedStateMachine):
    """One VM's life, at the `site` that a test sets."""

    site: ClassVar[Site]

    def __init__(self) -> None:
        super().__init__()
        self._scope = ExitStack()
        self.trial: Trial | None = None
        self.liar = False

    @initialize(disks=st.integers(1, 3), large=st.booleans(), liar=st.integers(0, 3))
    def a_vm_is_made(self, disks: int, large: bool, liar: int) -> None:
        self.liar = liar == 3
        folder = Path(self._scope.enter_context(tempfile.TemporaryDirectory(dir=self.site.folder)))
        vcenter = self._scope.enter_context(SimulatedVCenter(datastores=DATASTORES, directory=folder))
        specs = [DiskSpec(1 << 20, noise(number, 300_000)) for number in range(disks)]
        if large and disks == 1:  # of two spans
            specs[0] = DiskSpec(33 << 20, noise(0, 300_000))
        moref = vcenter.create_vm("web", specs, change_tracking=True)
        vcenter.remove_snapshot(moref, vcenter.create_foreign_snapshot(moref, "stun"))
        self.trial = self._scope.enter_context(on_trial(vcenter, moref, self.site.workers, folder))

    def _work(self, events: list[Event]) -> Trial:
        assert self.trial
        if self.liar:
            self.trial.happens("change tracking lies", events[0][1], events[0][2])
        for event in events:
            self.trial.happens(*event)
            self.trial.check()
        return self.trial

    @rule(events=work, mode=st.sampled_from(MODES))
    def a_day(self, events: list[Event], mode: ReadMode) -> None:
        self._work(events).back_up(mode)

    @rule(events=work, mode=st.sampled_from(MODES))
    def another_day(self, events: list[Event], mode: ReadMode) -> None:
        self._work(events).back_up(mode)

    @rule(events=work, mode=st.sampled_from(MODES), during=meanwhile)
    def a_day_whose_backup_is_disturbed(self, events: list[Event], mode: ReadMode, during: dict[str, Event]) -> None:
        self._work(events).back_up(mode, during=during)

    @rule(events=work, mode=st.sampled_from(MODES), what=st.sampled_from(TORN), how=small)
    def a_day_whose_backup_is_torn(self, events: list[Event], mode: ReadMode, what: str, how: int) -> None:
        self._work(events).back_up(mode, during={"read last": (what, how, how)})

    @rule(events=work, mode=st.sampled_from(MODES), rules=st.lists(faults, min_size=1, max_size=2))
    def a_day_of_faults(self, events: list[Event], mode: ReadMode, rules: list[Rule]) -> None:
        self._work(events).back_up(mode, faults=rules)

    @precondition(lambda self: self.trial and len(self.trial.expected) > 2)
    @rule(which=small)
    def a_point_is_forgotten(self, which: int) -> None:
        assert self.trial
        self.trial.forget(which)

    def teardown(self) -> None:
        """What was left goes with one more run, unless the machine has failed already."""
        with self._scope:
            if self.trial is not None:
                try:
                    self.trial.finish()
                finally:
                    self.site.told.update(self.trial.counts)


def impatient(patch: pytest.MonkeyPatch) -> None:
    """Removals of snapshots are tried again at once."""

    def hold(*given: object, **named: object) -> object:
        return held(*given, **named, patience=Patience(times=3, wait_s=0.01))  # type: ignore[arg-type]  # passed on as given

    patch.setattr(vm_backup, "held", hold)
    patch.setattr(leftovers, "_PATIENCE", Patience(times=1, wait_s=0.01))
