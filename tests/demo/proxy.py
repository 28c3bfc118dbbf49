"""The proxy of the demonstration: its configuration, the daemon as a child process, the command line beside it.

Owns: how they are started, asked and stopped. Does not own: what is asked of them.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.vcenter import SimulatedVCenter

OFFHOST = Path(sys.executable).with_name("offhost")
JOB = "nightly"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 60
_RUN_TIMEOUT_S = 300
_LOOK_AGAIN_S = 0.1

_PROXY = """\
state: {folder}/state
listen: {{ address: 127.0.0.1, port: 0 }}
vcenters:
  main:
    host: {vcenter.host}
    port: {vcenter.port}
    user: {vcenter.user}
    password: "{{file {folder}/vcenter-password}}"
    thumbprint: "{vcenter.thumbprint}"
datastores:
{datastores}
repositories:
  main: {{ path: {folder}/repository, passphrase: "{{file {folder}/passphrase}}" }}
"""
_DATASTORE = "  - {{ vcenter: main, name: {name}, path: {path} }}"
_JOB = """\
job: nightly
schedule: { cron: "0 22 * * mon-fri", timezone: Europe/Zurich }
vcenter: main
select: { include: [ { name: "web*" } ] }
mode: incremental
quiesce: { policy: require }
transports: [datastore, https]
repository: main
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running `offhost serve`, asked over REST."""

    process: "subprocess.Popen[bytes]"
    url: str

    def run_job(self, name: str) -> dict[str, Any]:
        """Begin a run and follow it to its end; its record."""
        run = self._ask(f"/api/v1/jobs/{name}/run", b"{}")["run"]
        for _ in range(int(_RUN_TIMEOUT_S / _LOOK_AGAIN_S)):
            record = self._ask(f"/api/v1/runs/{run}")
            if record["state"] != "running":
                return record
            time.sleep(_LOOK_AGAIN_S)
        raise RuntimeError(f"run {run} of {name} did not end within {_RUN_TIMEOUT_S} s")

    def stop(self) -> int:
        """Tell it to stop, as systemd does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_TIMEOUT_S)

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
        return told


@dataclass(frozen=True, slots=True)
class Proxy:
    """A folder with proxy.yaml, jobs.d, secrets, state and repository."""

    folder: Path

    def configure(self, vcenter: SimulatedVCenter) -> None:
        """Write proxy.yaml, one job and the secrets they refer to."""
        datastores = "\n".join(_DATASTORE.format(name=name, path=path) for name, path in vcenter.datastores.items())
        (self.folder / "jobs.d").mkdir(parents=True)
        self._secret("vcenter-password", vcenter.password)
        self._secret("passphrase", "correct horse battery staple")
        proxy = _PROXY.format(folder=self.folder, vcenter=vcenter, datastores=datastores)
        (self.folder / "proxy.yaml").write_text(proxy)
        (self.folder / "jobs.d" / "nightly.yaml").write_text(_JOB)

    def offhost(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `offhost -c proxy.yaml …` to its end.

        Raises: RuntimeError with what it said when it failed.
        """
        done = subprocess.run(
            self._command(*arguments), env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"offhost {' '.join(arguments)} ended in {done.returncode}:\n{done.stderr}")
        return done

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """`offhost serve`, ready, for as long as the scope lasts; an error that ends it is shown with the log."""
        log = self.folder / "daemon.log"
        with log.open("wb") as output:
            process = subprocess.Popen(self._command("serve"), env=self._environment(), stderr=output)
        try:
            yield Daemon(process, _ready(process, log))
        except Exception:
            print(f"\nThe daemon's log:\n{log.read_text(errors='replace')}", file=sys.stderr)
            raise
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _command(self, *arguments: str) -> list[str]:
        return [str(OFFHOST), "-c", str(self.folder / "proxy.yaml"), *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}

    def _secret(self, name: str, secret: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(secret)


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the daemon says that it is ready, and where. Raises: RuntimeError."""
    for _ in range(int(_START_TIMEOUT_S / _LOOK_AGAIN_S)):
        told = log.read_text(errors="replace")
        ready = [line for line in told.splitlines() if " is ready: " in line]
        if ready:
            return ready[0].rpartition(", ")[2].rstrip('"')
        if process.poll() is not None:
            break
        time.sleep(_LOOK_AGAIN_S)
    raise RuntimeError("the daemon did not start")
