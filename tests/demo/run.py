"""`make demo`: a running VM of a simulated vCenter is backed up twice, restored, and every claim about it is checked.

Owns: the story, and what is proved of it. Everything happens in one temporary folder and in child processes; neither
outlives the demonstration. Exits with 0 only when every proof holds.
Does not own: the guest (guest), the proxy (proxy), the form of what is printed (report).
"""

import hashlib
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from demo.guest import DISK_BYTES, a_day_of_work, check_file_system, make_disk
from demo.proxy import JOB, Daemon, Proxy
from demo.report import Report, size
from support.vcenter import DiskSpec, SimulatedVCenter

VM = "web01"
RESTORED = "web01-restored"
_READ_BYTES = 4 << 20


class Demonstration:
    """One telling of the story, in `folder`."""

    def __init__(self, folder: Path, vcenter: SimulatedVCenter) -> None:
        self._folder, self._vcenter = folder, vcenter
        self._disk = folder / "guest.raw"
        self._proxy = Proxy(folder / "proxy")
        self._report = Report()

    def run(self) -> int:
        """Tell it; how many proofs failed."""
        moref = self._set_the_scene()
        with self._proxy.daemon() as daemon:
            first, as_backed_up_first = self._first_backup(daemon, moref)
            self._work(moref)
            second = self._second_backup(daemon, moref)
            as_backed_up_second = self._restore_vm(moref, second)
            self._restore_disks({first: as_backed_up_first, second: as_backed_up_second})
            self._verify()
            self._end(daemon, moref)
        return self._summary()

    def _set_the_scene(self) -> str:
        with self._report.step("A vCenter with a running VM, and a proxy that can read its datastore"):
            make_disk(self._disk)
            spec = DiskSpec(DISK_BYTES, self._disk)
            moref = self._vcenter.create_vm(VM, [spec], guest_id="debian12_64Guest", tools_running=True)
            self._proxy.configure(self._vcenter)
            self._proxy.offhost("--repo", "main", "repo", "init")
            self._report.fact("vCenter", f"simulated, https://{self._vcenter.host}:{self._vcenter.port}")
            self._report.fact("VM", f"{VM}, running, one disk of {size(DISK_BYTES)} with an ext4 file system")
            self._report.fact("proxy", f"`offhost serve` with {self._proxy.folder}/proxy.yaml")
        return moref

    def _first_backup(self, daemon: Daemon, moref: str) -> tuple[str, str]:
        with self._report.step(f"First backup, asked for over REST: POST {daemon.url}/api/v1/jobs/{JOB}/run"):
            point = self._back_up(daemon, moref, mode="full")
        return point, self._seen_by_guest(moref)

    def _work(self, moref: str) -> None:
        with self._report.step("The guest works: files are rewritten, deleted, added"):
            key = self._vcenter.disks(moref)[0].key
            written = 0
            for offset, data in a_day_of_work(self._disk):
                self._vcenter.write(moref, key, offset, data)
                written += len(data)
            self._report.fact("written", f"{size(written)} of the disk's blocks, while the VM runs")

    def _second_backup(self, daemon: Daemon, moref: str) -> str:
        with self._report.step("Second backup: only what vSphere says has changed is read"):
            return self._back_up(daemon, moref, mode="incremental")

    def _back_up(self, daemon: Daemon, moref: str, *, mode: str) -> str:
        self._vcenter.calls(reset=True)
        record = daemon.run_job(JOB)
        self._report.run(record)
        problems = [one["problem"]["message"] for one in [record, *record["vms"]] if one["problem"]]
        self._report.proof(record["state"] == "success", "the run succeeded", otherwise="; ".join(problems))
        if record["state"] not in ("success", "warning"):
            raise RuntimeError(f"the backup failed: {'; '.join(problems)}")
        (vm,) = record["vms"]
        (disk,) = vm["disks"]
        self._report.proof(disk["mode"] == mode, f"it was {mode}", otherwise=str(disk["reason"]))
        self._prove_that_the_host_served_nothing(disk["host_bytes"])
        self._report.proof(not self._vcenter.snapshots(moref), "no snapshot is left on the VM")
        return str(vm["point"])

    def _prove_that_the_host_served_nothing(self, reported_bytes: int) -> None:
        served = self._vcenter.calls().folder_bytes_served
        self._report.proof(
            served == 0 and reported_bytes == 0,
            "bytes of the VM's files that a host served: none, by vCenter's own count",
            otherwise=f"{served} by vCenter's count, {reported_bytes} by offhost's",
        )

    def _restore_vm(self, moref: str, point: str) -> str:
        with self._report.step(f"The VM comes back: offhost restore vm {point[:12]} --new-name {RESTORED}"):
            done = self._proxy.offhost("restore", "vm", point, "--new-name", RESTORED, "--json")
            restored = json.loads(done.stdout)
            self._report.fact("transport", restored["transport"])
            self._report.fact("registered", f"in {restored['vm']['folder']}, powered off")
            original, copy = self._seen_by_guest(moref), self._seen_by_guest(restored["vm"]["moref"])
            self._report.fact("original", f"sha256 {original}")
            self._report.fact("restored", f"sha256 {copy}")
            self._report.proof(original == copy, "the restored VM's disk is the original's, byte by byte")
        return original

    def _restore_disks(self, expected: dict[str, str]) -> None:
        with self._report.step("Disks come back: offhost restore disk POINT --to FILE, from both restore points"):
            for which, (point, original) in zip(("first", "second"), expected.items(), strict=True):
                file = self._folder / f"{which}.raw"
                self._proxy.offhost("--repo", "main", "restore", "disk", point, "--to", str(file))
                copy = _sha256(file)
                self._report.fact(which, f"sha256 {copy}, {size(file.stat().st_blocks * 512)} on disk")
                self._report.proof(original == copy, "as the guest saw its disk then", otherwise=f"sha256 {original}")
                self._report.proof(check_file_system(file), "its file system is in order, says e2fsck -fn")

    def _verify(self) -> None:
        with self._report.step("Every byte of the repository is read and checked: offhost repo verify --data"):
            told = json.loads(self._proxy.offhost("--repo", "main", "repo", "verify", "--data", "--json").stdout)
            stats = json.loads(self._proxy.offhost("--repo", "main", "repo", "stats", "--json").stdout)
            backed_up, stored = size(stats["plain_bytes"]), size(stats["stored_bytes"])
            self._report.fact("holds", f"{told['points']} restore points, {backed_up} backed up, {stored} stored")
            self._report.proof(told["ok"] and told["points"] == 2, "all is right")

    def _end(self, daemon: Daemon, moref: str) -> None:
        with self._report.step("The daemon is told to stop: SIGTERM"):
            code = daemon.stop()
            self._report.proof(code == 0, "it ended in order", otherwise=f"exit code {code}")
            left = [snapshot.name for snapshot in self._vcenter.snapshots(moref)]
            self._report.proof(not left, "snapshots left in vSphere: none", otherwise=", ".join(left))

    def _summary(self) -> int:
        report = self._report
        if report.failed:
            print(f"\n{report.failed} of {report.failed + report.proved} proofs did NOT hold.")
        else:
            print(f"\nAll {report.proved} proofs held.")
        return report.failed

    def _seen_by_guest(self, moref: str) -> str:
        """The sha256 of the VM's disk as its guest reads it now."""
        (disk,) = self._vcenter.disks(moref)
        digest = hashlib.sha256()
        for offset in range(0, disk.size_bytes, _READ_BYTES):
            digest.update(self._vcenter.read(moref, disk.key, offset, min(_READ_BYTES, disk.size_bytes - offset)))
        return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def main() -> int:
    """The exit code: 0 when every proof held, 1 when one did not or the story broke off."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that scopes are left, and children with them
    print("offhost: a running VM is backed up from its datastore, past the host, and comes back.")
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="offhost-demo-") as name:
            folder = Path(name)
            with SimulatedVCenter(directory=folder) as vcenter:
                failed = Demonstration(folder, vcenter).run()
    except RuntimeError as error:
        print(f"\nThe demonstration broke off: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything is cleaned up", file=sys.stderr)
        return 130
    print(f"It took {time.monotonic() - began:.0f} s; nothing of it is left on this machine.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
