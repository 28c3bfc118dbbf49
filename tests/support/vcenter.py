"""A vCenter to test against: builds, starts and steers the simulator of tests/vsim.

Owns: the simulator's binary (built once for its sources, under .cache/vsim), its process and its datastore folders.
Does not own: what the simulator does (tests/vsim, Go), and any SOAP: a client under test brings its own.
Needs: the packages golang-go and golang-github-vmware-govmomi-dev.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SOURCES = Path(__file__).resolve().parents[1] / "vsim"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "vsim"
GOPATH = Path("/usr/share/gocode")
GOVMOMI = GOPATH / "src" / "github.com" / "vmware" / "govmomi" / "simulator"
MEMORY = Path("/dev/shm")
BUILD_TIMEOUT_S = 900
_BLOCK = 4 << 20


class SimulatorMissing(Exception):
    """The simulator cannot be built here; the message says which package it lacks."""


class SimulatorError(Exception):
    """The simulator refused a command, or is gone."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk to create: its size, and what it holds from the start (a file's bytes, or bytes; else zeros).

    `mode` and `sharing` are vSphere's words for disks of the odd kinds.
    """

    size_bytes: int
    content: Path | bytes | None = None
    mode: str = "persistent"
    sharing: str = ""
    unit: int | None = None


@dataclass(frozen=True, slots=True)
class SimulatedDisk:
    """A disk of a VM as it lies now: `files` are its descriptors, from the one the guest writes to down to the base."""

    key: int
    uuid: str
    file_name: str
    size_bytes: int
    files: tuple[Path, ...]
    extent: Path


@dataclass(frozen=True, slots=True)
class SimulatedHost:
    """An ESX host that listens itself; its name is its address."""

    moref: str
    name: str
    uuid: str


@dataclass(frozen=True, slots=True)
class SimulatedSnapshot:
    """A snapshot of a VM, as the VM's tree lists it (parents first)."""

    moref: str
    name: str
    description: str
    quiesced: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One injected fault.

    method: a SOAP method, or the first part of its name and "*", or "folder:GET", "rest:GET" for a request there.
    object: only calls of that moref; a VM's covers its snapshots. For /folder, the file: "/web1/web1.vmdk".
    quiesced: only snapshots that ask for quiescing.
    mode: "soap" (the call fails), "task" (its task fails after `delay_ms`, or does the work then, without a `fault`),
    "http503", "drop" (the connection closes), "delay" (answered late).
    fault: a vim25 fault's name; `fields` its properties (`{"privilegeId": "VirtualMachine.State.CreateSnapshot"}`).
    nth, count: the first matching call that fails, and how many from there on (0: all).
    """

    method: str
    mode: str = "soap"
    fault: str = ""
    message: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    object: str = ""
    quiesced: bool = False
    nth: int = 1
    count: int = 0
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Calls:
    """What clients asked for: SOAP methods by name, each call in order, those of REST, and the traffic over /folder."""

    methods: Mapping[str, int]
    in_order: tuple[tuple[str, str], ...]
    rest: tuple[str, ...]
    folder_requests: int
    folder_bytes_served: int
    folder_bytes_received: int


class SimulatedVCenter:
    """A running simulator, with one datastore "DS1" (VMFS) unless `datastores` names others as name -> type.

    Thread-safe. It listens on loopback with a certificate of its own. Datastores lie under one temporary directory.
    The process ends with `stop()`, and by itself when the Python process dies; either way the directory goes with it.
    Types of datastore: "VMFS", "NFS", "vsan" (which /folder does not serve).
    """

    def __init__(
        self,
        *,
        datastores: Mapping[str, str] | None = None,
        vms: int = 0,
        directory: Path | None = None,
        binary: Path | None = None,
    ) -> None:
        types = dict(datastores) if datastores is not None else {"DS1": "VMFS"}
        executable = binary or build()
        if directory is None and vms and MEMORY.is_dir():
            directory = MEMORY  # a thousand VMs are ten thousand small files
        self._directory = Path(tempfile.mkdtemp(prefix="vsim-", dir=directory))
        self.datastores: dict[str, Path] = {name: self._directory / name for name in types}
        self._lock = threading.Lock()
        self._log_path = self._directory / "vsim.log"
        command = [str(executable), "-vm", str(vms), "-scratch", str(self._directory)]
        for name, path in self.datastores.items():
            path.mkdir()
            command += ["-ds", f"{name}={types[name]}:{path}"]
        try:
            self._process = self._start(command)
        except OSError:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        try:
            ready = self._answer()
        except SimulatorError:
            self.stop()
            raise
        self.host = "127.0.0.1"
        self.port: int = ready["port"]
        self.user: str = ready["user"]
        self.password: str = ready["password"]
        self.thumbprint: str = ready["thumbprint"]

    # --- life

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._directory,
                env={**os.environ, "TMPDIR": str(self._directory)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and remove its files. May be called twice."""
        process = self._process
        if process.stdin is not None and process.stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The simulator's process, for a test that must see it gone."""
        return self._process.pid

    def log(self) -> str:
        """What the simulator wrote to its standard error."""
        with contextlib.suppress(FileNotFoundError):
            return self._log_path.read_text(errors="replace")
        return ""

    # --- machines

    def create_vm(
        self,
        name: str,
        disks: Sequence[DiskSpec] = (),
        *,
        datastore: str = "DS1",
        folder: str | None = None,
        pool: str = "",
        powered_on: bool = True,
        change_tracking: bool = False,
        guest_id: str = "otherGuest64",
        memory_mb: int = 1024,
        cpus: int = 1,
        firmware: str = "bios",
        hardware: str = "vmx-14",
        tools_running: bool = False,
        shared_bus: str = "noSharing",
    ) -> str:
        """Create a VM with disks of that content, and return its moref.

        folder: a name below the datacenter's VM folder; pool: a path below the cluster. Both are made where missing.
        """
        made = self._command(
            "create_vm",
            name=name,
            datastore=datastore,
            folder=folder or "",
            pool=pool,
            disks=[_disk_json(disk) for disk in disks],
            flag=powered_on,
            change_tracking=change_tracking,
            guest_id=guest_id,
            memory_mb=memory_mb,
            cpus=cpus,
            firmware=firmware,
            hardware=hardware,
            shared_bus=shared_bus,
        )
        for spec, disk in zip(disks, made["disks"] or (), strict=True):
            _fill(Path(disk["extent"]), spec)
        moref: str = made["vm"]
        if tools_running:
            self.set_tools(moref, running=True)
        return moref

    def destroy_vm(self, vm: str) -> None:
        """Delete the VM, which must be powered off, and its files."""
        self._command("destroy", vm=vm)

    def power(self, vm: str, *, on: bool) -> None:
        """Switch the VM on or off."""
        self._command("power", vm=vm, flag=on)

    def set_tools(self, vm: str, *, running: bool) -> None:
        """Let the guest's Tools run, or not."""
        self._command("tools", vm=vm, flag=running)

    def set_guest_shutdown(self, vm: str, *, takes_s: float | None) -> None:
        """How long the guest takes to shut down when asked (0.1 s at first); None: it never does."""
        self._command("guest_shutdown", vm=vm, seconds=-1.0 if takes_s is None else takes_s)

    def power_state(self, vm: str) -> str:
        """vSphere's word for it: `poweredOn`, `poweredOff`, `suspended`."""
        return str(self._command("power_state", vm=vm)["state"])

    def set_connection(self, vm: str, state: str, *, forgotten: bool = False) -> None:
        """The VM's connectionState: "disconnected", "inaccessible", "orphaned", "invalid", "connected".

        forgotten: vCenter has no configuration of it either, and never again: nothing else can be done with the VM.
        """
        self._command("connection", vm=vm, name=state, flag=forgotten)

    def set_vss_writers(self, vm: str, *, answering: bool) -> None:
        """Let a Windows guest's applications take part in quiescing: the snapshot then names their manifest."""
        self._command("vss_writers", vm=vm, flag=answering)

    def claim_quiesced(self, vm: str) -> None:
        """Let the host flag a snapshot as quiesced that was asked to be, whatever the guest did."""
        self._command("claim_quiesced", vm=vm, flag=True)

    def quiescing_asked(self, vm: str) -> dict[str, Any]:
        """What the last CreateSnapshotEx of the VM asked for: timeout, and for Windows the VSS fields."""
        asked: dict[str, Any] = self._command("quiesce_asked", vm=vm)
        return asked

    def set_old_api(self) -> None:
        """Be an endpoint from before vSphere 6.5: no CreateSnapshotEx. Clients that log in from now on see it."""
        self._command("old_api", flag=True)

    def set_encrypted(self, vm: str, *, key_id: str = "key-1", disk: int = 0) -> None:
        """Let the VM's configuration name an encryption key, as a virtual TPM wants it; or that of one of its disks."""
        self._command("encrypt", vm=vm, name=key_id, key=disk)

    def set_free_space(self, datastore: str, *, free_bytes: int, capacity_bytes: int) -> None:
        """What the datastore says of its space, until it is refreshed."""
        self._command("free_space", datastore=datastore, length=free_bytes, offset=capacity_bytes)

    def set_latency(self, datastore: str, milliseconds: int) -> None:
        """How long the hosts measure that the datastore takes to answer; never measured at first."""
        self._command("latency", datastore=datastore, number=milliseconds)

    def migrate(self, vm: str, datastore: str) -> None:
        """Storage migration: every file of the VM moves to the other datastore."""
        self._command("migrate", vm=vm, datastore=datastore)

    # --- hosts

    def serve_hosts(self) -> tuple[SimulatedHost, ...]:
        """Let the ESX hosts listen themselves, where they hand out bundles of their configuration; once."""
        return tuple(SimulatedHost(one["host"], one["name"], one["uuid"]) for one in self._command("serve_hosts"))

    def spoil_bundle(self, host: str, *, content: bytes | None = None, address: str = "") -> None:
        """Let the next bundle of a host be this, or lie at this address as the host says."""
        data = None if content is None else base64.b64encode(content).decode()
        self._command("spoil_bundle", vm=host, data=data, description=address)

    # --- disks

    def disks(self, vm: str) -> tuple[SimulatedDisk, ...]:
        """The VM's disks as they lie now."""
        return tuple(
            SimulatedDisk(
                key=disk["key"],
                uuid=disk["uuid"],
                file_name=disk["file_name"],
                size_bytes=disk["size_bytes"],
                files=tuple(Path(file) for file in disk["files"]),
                extent=Path(disk["extent"]),
            )
            for disk in self._command("disks", vm=vm) or ()
        )

    def write(self, vm: str, disk_key: int, offset: int, data: bytes) -> None:
        """Write to the disk as the VM's guest does: into the top of its chain, tracked when tracking is active."""
        for start in range(0, len(data), _BLOCK):
            block = base64.b64encode(data[start : start + _BLOCK]).decode()
            self._command("write", vm=vm, key=disk_key, offset=offset + start, data=block)

    def read(self, vm: str, disk_key: int, offset: int = 0, length: int | None = None) -> bytes:
        """What the VM's guest sees of its disk now, by default all of it."""
        if length is None:
            size = next(disk.size_bytes for disk in self.disks(vm) if disk.key == disk_key)
            length = size - offset
        blocks = []
        for start in range(offset, offset + length, _BLOCK):
            count = min(_BLOCK, offset + length - start)
            answer = self._command("read", vm=vm, key=disk_key, offset=start, length=count)
            blocks.append(base64.b64decode(answer["data"] or ""))
        return b"".join(blocks)

    def grains(self, vm: str, *, snapshot: str = "") -> dict[str, tuple[str, ...]]:
        """The SHA-256 of each 64 KiB of each disk, by its UUID: as the guest sees it now, or as a snapshot keeps it."""
        told = self._command("grains", vm=vm, snapshot=snapshot)
        return {uuid: tuple(digests) for uuid, digests in told.items()}

    def add_disk(self, vm: str, size_bytes: int, *, unit: int, datastore: str = "DS1") -> None:
        """Give the VM another disk, of zeros."""
        self._command("add_disk", vm=vm, length=size_bytes, number=unit, datastore=datastore)

    def detach_disk(self, vm: str, disk_key: int) -> None:
        """Take a disk away from the VM; its files stay."""
        self._command("detach_disk", vm=vm, key=disk_key)

    def move_disk(self, vm: str, disk_key: int, *, unit: int) -> None:
        """Take a disk away, and attach the same file at another unit, where it has another device key."""
        self._command("move_disk", vm=vm, key=disk_key, number=unit)

    def grow_disk(self, vm: str, disk_key: int, size_bytes: int) -> None:
        """Make a disk larger, which needs a VM without snapshots."""
        self._command("grow_disk", vm=vm, key=disk_key, length=size_bytes)

    def rename(self, vm: str, name: str) -> None:
        """Give the VM another name."""
        self._command("rename", vm=vm, name=name)

    def set_change_tracking(self, vm: str, *, on: bool) -> None:
        """Flip the VM's switch, as another product might. It takes effect at the next stun."""
        self._command("change_tracking", vm=vm, flag=on)

    def leave_unreported(self, vm: str, disk_key: int, offset: int, length: int) -> None:
        """Let change tracking lie: what is written to that area, by then or later, is in no answer of its."""
        self._command("leave_unreported", vm=vm, key=disk_key, offset=offset, length=length)

    def set_areas_per_call(self, limit: int) -> None:
        """How many areas QueryChangedDiskAreas answers at most (2000 at first)."""
        self._command("areas_per_call", number=limit)

    # --- snapshots

    def snapshots(self, vm: str) -> tuple[SimulatedSnapshot, ...]:
        """The VM's snapshots."""
        return tuple(
            SimulatedSnapshot(one["snapshot"], one["name"], one["description"], one["quiesced"])
            for one in self._command("snapshots", vm=vm)
        )

    def create_foreign_snapshot(self, vm: str, name: str = "before the update", description: str = "") -> str:
        """A snapshot that somebody else took; returns its moref."""
        moref: str = self._command("create_snapshot", vm=vm, name=name, description=description)["snapshot"]
        return moref

    def remove_snapshot(self, vm: str, snapshot: str, *, children: bool = False) -> None:
        """Remove a snapshot as somebody else would."""
        self._command("remove_snapshot", vm=vm, snapshot=snapshot, flag=children)

    def revert(self, vm: str, snapshot: str, *, keep_uuid: bool = True) -> None:
        """Revert to a snapshot.

        keep_uuid: change tracking goes on under its old UUID, and does not know what the revert changed; else it starts
        anew under another.
        """
        self._command("revert", vm=vm, snapshot=snapshot, flag=keep_uuid)

    def keep_tracking_over_revert(self, keep: bool) -> None:
        """What `keep_uuid` is for reverts that clients ask for (False at first)."""
        self._command("keep_tracking", flag=keep)

    def set(self, vm: str, *, consolidation_needed: bool) -> None:
        """Set `runtime.consolidationNeeded`, a flag only; see `stick_consolidation` for deltas that really stay."""
        self._command("consolidation_needed", vm=vm, flag=consolidation_needed)

    def stick_consolidation(self, vm: str, stuck: bool = True) -> None:
        """Let removed snapshots leave their deltas, as when a disk is locked, until ConsolidateVMDisks_Task."""
        self._command("stick_consolidation", vm=vm, flag=stuck)

    # --- accounts

    def set_role(self, user: str, password: str, privileges: Collection[str]) -> None:
        """Let somebody log in who has exactly these privileges, beside those that every role has.

        Each holds everywhere or, written `PRIVILEGE@WHERE`, on the object of that moref or on all of that kind:
        VirtualMachine, Datastore, Folder (of VMs, and on these), RootFolder, ResourcePool, Network, HostSystem.
        """
        self._command("role", name=user, description=password, privileges=sorted(privileges))

    # --- troubles

    def rules(self, rules: Sequence[Rule]) -> None:
        """Inject these faults, in place of those before; the first that fits a call is taken.

        Raises SimulatorError for a mode, fault or field that does not exist.
        """
        self._command("rules", rules=[_rule_json(rule) for rule in rules])

    def drop_sessions(self) -> None:
        """Forget every login: the next call of each gets NotAuthenticated."""
        self._command("drop_sessions")

    def set_idle_timeout(self, seconds: float) -> None:
        """Let sessions expire after that much idleness; 0: never."""
        self._command("idle_timeout", seconds=seconds)

    def calls(self, *, reset: bool = False) -> Calls:
        """What clients asked for so far (since the last `reset`)."""
        told = self._command("calls", flag=reset)
        return Calls(
            methods=told["methods"],
            in_order=tuple((call["method"], call["object"]) for call in told["calls"] or ()),
            rest=tuple(told["rest"]),
            folder_requests=told["folder_requests"],
            folder_bytes_served=told["folder_bytes_served"],
            folder_bytes_received=told["folder_bytes_received"],
        )

    # --- the simulator's standard input and output

    def _command(self, do: str, **arguments: object) -> Any:
        line = json.dumps({"do": do, **arguments}).encode() + b"\n"
        with self._lock:
            stdin = self._process.stdin
            if stdin is None or stdin.closed:
                raise SimulatorError("the simulator was stopped")
            try:
                stdin.write(line)
                stdin.flush()
            except BrokenPipeError:
                raise SimulatorError(f"the simulator is gone:\n{self.log()}") from None
            return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SimulatorError(f"the simulator ended:\n{self.log()}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise SimulatorError(answer["error"])
        return answer


def missing() -> str | None:
    """Why the simulator cannot be built here, or None when it can."""
    if shutil.which("go") is None:
        return "the vCenter simulator needs Go: apt-get install golang-go golang-github-vmware-govmomi-dev"
    if not GOVMOMI.is_dir():
        return f"the vCenter simulator needs {GOVMOMI}: apt-get install golang-github-vmware-govmomi-dev"
    return None


def build() -> Path:
    """Return the simulator's binary, built now unless it is there for these sources.

    Safe when several processes build at once: one builds, the others wait for it.
    Raises SimulatorMissing without Go or govmomi, SimulatorError when the build fails.
    """
    sources = sorted(SOURCES.glob("*.go"))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    binary = CACHE / f"vsim-{digest.hexdigest()[:16]}"
    if binary.exists():
        return binary
    if reason := missing():
        raise SimulatorMissing(reason)
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / "lock"):
        if not binary.exists():
            _compile(binary)
            for old in CACHE.glob("vsim-*"):
                if old != binary:
                    old.unlink()
    return binary


def _compile(binary: Path) -> None:
    temporary = binary.with_name(f"building-{os.getpid()}")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOFLAGS": "",
        "GOCACHE": os.environ.get("GOCACHE", str(CACHE / "go-build")),
        "CGO_ENABLED": "0",
    }
    result = subprocess.run(
        ["go", "build", "-trimpath", "-o", str(temporary), "."],
        cwd=SOURCES,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        temporary.unlink(missing_ok=True)
        raise SimulatorError(f"the vCenter simulator does not build:\n{result.stderr}")
    temporary.rename(binary)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _disk_json(disk: DiskSpec) -> dict[str, object]:
    if disk.size_bytes % 1024:
        raise ValueError(f"a disk is a whole number of KiB: {disk.size_bytes}")
    described: dict[str, object] = {"size_bytes": disk.size_bytes, "mode": disk.mode, "sharing": disk.sharing}
    if disk.unit is not None:
        described["unit"] = disk.unit
    return described


def _rule_json(rule: Rule) -> dict[str, object]:
    return {
        "method": rule.method,
        "mode": rule.mode,
        "fault": rule.fault,
        "message": rule.message,
        "fields": dict(rule.fields),
        "object": rule.object,
        "quiesced": rule.quiesced,
        "nth": rule.nth,
        "count": rule.count,
        "delay_ms": rule.delay_ms,
    }


def _fill(extent: Path, spec: DiskSpec) -> None:
    """Put the content into the flat extent, leaving holes where it is zero."""
    if spec.content is None:
        return
    with extent.open("r+b") as target:
        if isinstance(spec.content, bytes):
            if len(spec.content) > spec.size_bytes:
                raise ValueError("the content is larger than the disk")
            target.write(spec.content)
            return
        if spec.content.stat().st_size > spec.size_bytes:
            raise ValueError("the content is larger than the disk")
        with spec.content.open("rb") as source:
            while block := source.read(_BLOCK):
                if block.count(0) == len(block):
                    target.seek(len(block), os.SEEK_CUR)
                else:
                    target.write(block)
