"""What the demonstration prints: steps, what they came to, and proofs that hold or do not.

Owns: the form, and whether every proof held. Does not own: what is proved.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Report:
    """Told of steps and proofs in their order; `failed` counts the proofs that did not hold."""

    def __init__(self) -> None:
        self.failed = 0
        self.proved = 0
        self._step = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A step, with the time it took once it is done."""
        self._step += 1
        print(f"\n{self._step}. {what}", flush=True)
        began = time.monotonic()
        yield
        self.fact("took", f"{time.monotonic() - began:.1f} s")

    def fact(self, name: str, value: str) -> None:
        """A line of what a step came to."""
        print(f"     {name:<12} {value}", flush=True)

    def run(self, record: dict[str, Any]) -> None:
        """What a job's run says of the one disk of its one VM."""
        for warning in [*record["warnings"], *(warning for vm in record["vms"] for warning in vm["warnings"])]:
            self.fact("warning", warning)
        for vm in record["vms"]:
            for disk in vm["disks"]:
                self._disk(vm, disk)

    def proof(self, holds: bool, what: str, *, otherwise: str = "") -> None:
        """Something that must be so; `otherwise` is shown when it is not."""
        self.proved += holds
        self.failed += not holds
        print(
            f"     {'✓' if holds else '✗ NOT SO:'} {what}{'' if holds or not otherwise else f' ({otherwise})'}",
            flush=True,
        )

    def _disk(self, vm: dict[str, Any], disk: dict[str, Any]) -> None:
        self.fact("snapshot", f"{vm['consistency']}-consistent, removed afterwards")
        self.fact(
            "disk", f"{size(disk['capacity_bytes'])}, {disk['mode']}{f': {why}' if (why := disk['reason']) else ''}"
        )
        self.fact("transport", disk["transport"])
        if disk["changed_bytes"] is not None:
            self.fact(
                "changed", f"{size(disk['changed_bytes'])} since the last backup, as vSphere's change tracking says"
            )
        self.fact("read", size(disk["read_bytes"]))
        self.fact("new", f"{size(disk['new_bytes'])} after deduplication")
        self.fact("stored", f"{size(disk['stored_bytes'])}, compressed and encrypted")


def size(size_bytes: float) -> str:
    """Bytes for people."""
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"
