import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from offhost.cli.main import main
from offhost.state import State

PROXY = """\
state: {folder}/state
listen: {{ port: 0 }}
vcenters:
  main: {{ host: vc.invalid, user: u, password: "{{env VC_PASSWORD}}", ca_file: /nowhere.pem }}
repositories:
  main: {{ path: {folder}/repository, passphrase: "{{env REPO_PASSPHRASE}}" }}
"""
JOB = """\
job: nightly
schedule: { cron: "0 22 * * *", timezone: Europe/Zurich }
vcenter: main
select: { include: [ { name: "*" } ] }
repository: main
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """proxy.yaml with one job."""
    (tmp_path / "jobs.d").mkdir()
    (tmp_path / "jobs.d" / "nightly.yaml").write_text(JOB)
    (tmp_path / "proxy.yaml").write_text(PROXY.format(folder=tmp_path))
    return tmp_path / "proxy.yaml"


@pytest.fixture
def state(file: Path) -> State:
    return State.open(file.parent / "state")


@dataclass
class Daemon:
    """A running daemon, and what systemd was told by it."""

    process: "subprocess.Popen[str]"
    systemd: socket.socket

    def told(self) -> str:
        """The next thing it tells systemd."""
        return self.systemd.recv(4096).decode()

    def ready(self) -> None:
        while "READY=1" not in self.told():
            pass

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()

    def ended(self) -> tuple[int, str, str]:
        """Its exit code, and what it said last on standard output and standard error."""
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def daemon(file: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons over the small engine; none survives the test."""
    started: list[Daemon] = []
    support = Path(__file__).parents[2] / "support"

    def start(*arguments: str) -> Daemon:
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.settimeout(20)
        heard.bind(str(tmp_path / f"notify{len(started)}"))
        process = subprocess.Popen(
            [sys.executable, str(support / "small_daemon.py"), str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PYTHONPATH": f"{support.parent}",
                "NOTIFY_SOCKET": str(tmp_path / f"notify{len(started)}"),
                "WATCHDOG_USEC": "200000",
            },
        )
        started.append(Daemon(process, heard))
        return started[-1]

    yield start
    for one in started:
        one.systemd.close()
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def started(file: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts `offhost -c FILE …`."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        program = "import sys; from offhost.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "-c", str(file), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def offhost(file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `offhost -c FILE …` to its end, in this process."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        capsys.readouterr()
        code = main(["-c", str(file), *arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run
