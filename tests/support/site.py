"""A backup proxy on a simulated vCenter: its configuration, its repository and one VM, driven by the command line.

Owns: the files in a folder, `offhost` in this process and as a child, and what must hold after every failure.
Does not own: the vCenter.
"""

import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from unittest import mock

from offhost.cli.main import main
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

PASSPHRASE = "correct horse battery staple"
FOREIGN = "before the update"
DISK_BYTES = 16 << 20
_DATA_BYTES = 4 << 20
_WAIT_S = 60
_LOOK_AGAIN_S = 0.02
_WAITS = Rule("QueryChangedDiskAreas", mode="delay", delay_ms=1000)

_PROXY = """\
state: {site.folder}/state
listen: {{ port: 0 }}
vcenters:
  main:
    host: {vcenter.host}
    port: {vcenter.port}
    user: {vcenter.user}
    password: "{{file {site.folder}/password}}"
    thumbprint: "{vcenter.thumbprint}"
datastores:
{datastores}
repositories:
  main: {{ path: {site.repository}, passphrase: "{{file {site.folder}/passphrase}}" }}
"""
_JOB = """\
job: nightly
schedule: {{ cron: "0 22 * * mon-fri" }}
vcenter: main
select: {{ include: [ {{ name: {site.name} }} ] }}
quiesce: {{ policy: {quiesce} }}
transports: [datastore, https]
repository: main
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command ended in and said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Its error messages."""
        return self._after("error: ")

    @property
    def hints(self) -> list[str]:
        """What it said to do."""
        return self._after("hint: ")

    @property
    def warnings(self) -> list[str]:
        """Its warnings."""
        return self._after("warning: ")

    def told_once(self) -> tuple[str, str]:
        """Its one error and its one hint. Raises: AssertionError when there are more, none, or one is told twice."""
        assert (len(self.errors), len(self.hints)) == (1, 1), self
        error, hint = self.errors[0], self.hints[0]
        twice = [line for line in self._lines() if error in line and not line.startswith("warning: ")]
        assert len(twice) == 1, self
        return error, hint

    def _lines(self) -> list[str]:
        return [line.strip() for line in (self.out + self.err).splitlines()]

    def _after(self, word: str) -> list[str]:
        return [line.removeprefix(word) for line in self._lines() if line.startswith(word)]


@dataclass
class Site:
    """A proxy in `folder`, and one running VM of the name `name` with a snapshot that somebody else took."""

    folder: Path
    vcenter: SimulatedVCenter
    name: str
    disk_bytes: int = DISK_BYTES
    data_bytes: int = _DATA_BYTES
    moref: str = field(init=False)

    def __post_init__(self) -> None:
        content = random.Random(self.name).randbytes(self.data_bytes)
        spec = DiskSpec(self.disk_bytes, content)
        self.moref = self.vcenter.create_vm(self.name, [spec], tools_running=True, change_tracking=True)
        self.vcenter.create_foreign_snapshot(self.moref, FOREIGN)
        self.folder.mkdir(exist_ok=True)
        self.configure()
        self.secret("password", self.vcenter.password)
        self.secret("passphrase", PASSPHRASE)

    @property
    def repository(self) -> Path:
        """Where the repository lies."""
        return self.folder / "repository"

    @property
    def extent(self) -> Path:
        """The file that holds the disk's base."""
        return self.vcenter.disks(self.moref)[0].files[-1].with_name(f"{self.name}-flat.vmdk")

    def configure(self, *, quiesce: str = "try") -> None:
        """Write proxy.yaml and its job."""
        mounted = self.vcenter.datastores.items()
        lines = "\n".join(f"  - {{ vcenter: main, name: {name}, path: {path} }}" for name, path in mounted)
        (self.folder / "proxy.yaml").write_text(_PROXY.format(site=self, vcenter=self.vcenter, datastores=lines))
        (self.folder / "jobs.d").mkdir(exist_ok=True)
        (self.folder / "jobs.d" / "nightly.yaml").write_text(_JOB.format(site=self, quiesce=quiesce))

    def secret(self, name: str, secret: str) -> None:
        """Keep a secret under a name, in place of the one before."""
        (self.folder / name).write_text(secret)

    # --- the guest

    def write(self, offset: int, data: bytes) -> None:
        """Let the guest write."""
        self.vcenter.write(self.moref, self._disk_key, offset, data)

    def seen(self) -> bytes:
        """The disk as the guest sees it."""
        return self.vcenter.read(self.moref, self._disk_key)

    def snapshots(self) -> list[str]:
        """The names of the VM's snapshots."""
        return [snapshot.name for snapshot in self.vcenter.snapshots(self.moref)]

    @property
    def _disk_key(self) -> int:
        return self.vcenter.disks(self.moref)[0].key

    # --- offhost

    def offhost(self, *arguments: str | Path) -> Said:
        """Run `offhost -c proxy.yaml …` to its end, in this process but with its own environment and output."""
        out, err = StringIO(), StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            mock.patch.dict(os.environ, self._environment()),
            mock.patch.object(logging.root, "handlers", []),  # as in a process of its own, where nobody listens
        ):
            code = main(self._arguments(*arguments))
        return Said(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Start `offhost -c proxy.yaml …` as a process."""
        program = "import sys; from offhost.cli.main import main; sys.exit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", program, *self._arguments(*arguments)],
            env={**os.environ, **self._environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_job(self) -> Said:
        """Run the job."""
        return self.offhost("jobs", "run", "nightly")

    def restored(self, point: str) -> bytes:
        """The disk of a restore point."""
        file = self.folder / "restored.raw"
        said = self.offhost("--repo", "main", "restore", "disk", point, "--to", file)
        assert said.code == 0, said.err
        try:
            return file.read_bytes()
        finally:
            file.unlink()

    @contextmanager
    def between_snapshot_and_reading(self, act: Callable[[], object]) -> Iterator[None]:
        """Let `act` happen while the scope's command holds its snapshot and has opened the disks, before it reads them.

        Raises: what acting raises; TimeoutError when the command never asked what has changed.
        """
        self.vcenter.calls(reset=True)
        self.vcenter.rules([_WAITS])
        troubles: list[Exception] = []

        def acting() -> None:
            try:
                self._wait(lambda: self.vcenter.calls().methods.get(_WAITS.method), "areas were never asked for")
                self.vcenter.rules([])
                act()
            except Exception as error:  # noqa: BLE001 - carried to the test's own thread, and raised there
                troubles.append(error)

        actor = threading.Thread(target=acting)
        actor.start()
        try:
            yield
        finally:
            actor.join()
            self.vcenter.rules([])
        for trouble in troubles:
            raise trouble

    def wait_until_held(self) -> None:
        """Return when the VM has a snapshot beside the foreign one. Raises: TimeoutError."""
        self._wait(lambda: len(self.snapshots()) > 1, f"no snapshot was taken of {self.name}")

    def wait_until_cleared(self) -> None:
        """Return when the VM has the foreign snapshot only. Raises: TimeoutError."""
        self._wait(lambda: self.snapshots() == [FOREIGN], f"a snapshot of {self.name} stays")

    def _wait(self, condition: Callable[[], object], otherwise: str) -> None:
        for _ in range(int(_WAIT_S / _LOOK_AGAIN_S)):
            if condition():
                return
            time.sleep(_LOOK_AGAIN_S)
        raise TimeoutError(otherwise)

    def _arguments(self, *arguments: str | Path) -> list[str]:
        return ["-c", str(self.folder / "proxy.yaml"), *map(str, arguments)]

    def _environment(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.folder / "cache")}


class BackedUp:
    """A site with one restore point, and what its disk was then."""

    def __init__(self, site: Site, content: bytes) -> None:
        self.site, self._content = site, content

    def assert_unharmed(self, *, points: int = 1) -> None:
        """Nothing of ours is left in vSphere, nothing foreign is gone, and the first restore point reads back."""
        assert self.site.snapshots() == [FOREIGN]
        self.assert_readable(points=points)

    def assert_readable(self, *, points: int = 1) -> None:
        """The repository is whole, and the first of its `points` restore points reads back."""
        site = self.site
        verified = site.offhost("--repo", "main", "repo", "verify", "--data")
        assert verified.code == 0, verified.err
        listed = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
        assert len(listed) == points
        assert site.restored(listed[0]["id"]) == self._content
